"""Shell completion of a program: printed, or installed where the shell looks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import get_completion_class

from hypersdk.cli.programs.groups import Command, flag, flag_group
from hypersdk.cli.programs.program import Program, Run
from hypersdk.cli.programs.shells import register_shells
from hypersdk.config.folders import config_home, data_home
from hypersdk.errors import TARGET_DENIED, TargetError, UsageError

SHELLS: Final = ("bash", "zsh", "fish")


def completion_command(program: Program, *more: Callable[[Any], Any]) -> click.Command:
    """The command ``completion`` of a program, with ``more`` flags."""

    @click.command("completion", cls=Command, help=_HELP.format(program=program.name))
    @click.argument("shell", required=False, type=click.Choice(SHELLS))
    @flag("--install", is_flag=True, help="Install the script where the shell looks for it.")
    @flag_group(*more)
    @click.pass_obj
    def command(run: Run, shell: str | None, install: bool) -> None:
        if install:
            install_completion(program, run, shell)
        else:
            click.echo(_script(program, shell or _user_shell(program, run.environ)))

    return command


def _script(program: Program, shell: str) -> str:
    register_shells()
    completion_class = get_completion_class(shell)
    assert completion_class is not None
    completion = completion_class(program.root, {}, program.name, program.completion_variable)
    # Not `source()`: for bash that starts a bash to read its version, which printing does not need.
    return str(completion.source_template % completion.source_vars())


def install_completion(program: Program, run: Run, shell: str | None = None) -> None:
    """Writes the script to the user's completion directory. Start-up files are not changed."""
    shell = shell or _user_shell(program, run.environ)
    path = _script_path(program.name, shell, run.environ)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_script(program, shell) + "\n", encoding="utf-8")
    except OSError as error:
        raise TargetError(f"{path} cannot be written: {error.strerror}", code=TARGET_DENIED) from error
    run.output.line(f"Completion for {shell} installed in {path}. Start a new shell to use it.")
    if shell == "zsh":
        run.output.note(f"zsh must look there: put `fpath+=({path.parent})` before compinit in ~/.zshrc.")
    elif shell == "bash" and not _BASH_COMPLETION.exists():
        run.output.note(f"The package bash-completion is missing, which reads it: put `. {path}` in ~/.bashrc instead.")


def _user_shell(program: Program, environ: Mapping[str, str]) -> str:
    """The user's shell by ``$SHELL``. Raises UsageError if it is not supported."""
    name = Path(environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise UsageError(
            f"no completion for the shell {name or 'that $SHELL names'}",
            next_step=f"Name it: `{program.name} completion bash|zsh|fish`.",
        )
    return name


def _script_path(program: str, shell: str, environ: Mapping[str, str]) -> Path:
    """Where each shell looks for a user's completions."""
    data = data_home(environ)
    return {
        "bash": data / "bash-completion" / "completions" / program,
        "zsh": data / "zsh" / "site-functions" / f"_{program}",
        "fish": config_home(environ) / "fish" / "completions" / f"{program}.fish",
    }[shell]


_BASH_COMPLETION: Final = Path("/usr/share/bash-completion/bash_completion")

_HELP: Final = """Print or install shell completion for bash, zsh or fish (default: your shell).

For one session: `eval "$({program} completion bash)"`.
"""
