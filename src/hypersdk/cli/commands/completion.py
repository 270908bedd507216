"""`hyper2kvm completion`: shell completion, printed or put where the shell looks for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click
from click.shell_completion import get_completion_class

from hypersdk.cli.app import COMPLETION_VARIABLE, PROGRAM, root
from hypersdk.cli.options import Command
from hypersdk.cli.state import Cli, pass_cli
from hypersdk.errors import TARGET_DENIED, TargetError, UsageError

SHELLS: Final = ("bash", "zsh", "fish")


@click.command("completion", cls=Command)
@click.argument("shell", required=False, type=click.Choice(SHELLS))
@click.option("--install", "wanted", is_flag=True, help="Put the script where the shell looks for it.")
@pass_cli
def command(cli: Cli, shell: str | None, wanted: bool) -> None:
    """Print or install shell completion for bash, zsh or fish (default: your shell).

    For one session: `eval "$(hyper2kvm completion bash)"`.
    """
    if wanted:
        install(cli, shell)
    else:
        click.echo(script(shell or shell_of(cli.environ)))


def shell_of(environ: Mapping[str, str]) -> str:
    """The user's shell by ``$SHELL``. Raises UsageError when it is none that is known here."""
    name = Path(environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise UsageError(
            f"no completion for the shell {name or 'that $SHELL names'}",
            next_step="Name it: `hyper2kvm completion bash|zsh|fish`.",
        )
    return name


def script(shell: str) -> str:
    """The completion script for ``shell``."""
    kind = get_completion_class(shell)
    assert kind is not None
    completion = kind(root, {}, PROGRAM, COMPLETION_VARIABLE)
    # Not `source()`: for bash that starts a bash to look at its version, which is not needed to print a text.
    return str(completion.source_template % completion.source_vars())


def install(cli: Cli, shell: str | None) -> None:
    """Writes the script into the user's folder for it. No start-up file is touched."""
    name = shell or shell_of(cli.environ)
    path = script_path(name, cli.environ)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script(name) + "\n", encoding="utf-8")
    except OSError as error:
        raise TargetError(f"{path} cannot be written: {error.strerror}", code=TARGET_DENIED) from error
    cli.output.line(f"Completion for {name} installed in {path}; it works in the next shell.")
    if name == "zsh":
        cli.output.note(f"zsh must look there: put `fpath+=({path.parent})` before compinit in ~/.zshrc.")


def script_path(shell: str, environ: Mapping[str, str]) -> Path:
    """Where each shell looks for a user's completions."""
    home = Path(environ.get("HOME") or Path.home())
    data = Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    return {
        "bash": data / "bash-completion" / "completions" / PROGRAM,
        "zsh": data / "zsh" / "site-functions" / f"_{PROGRAM}",
        "fish": config / "fish" / "completions" / f"{PROGRAM}.fish",
    }[shell]
