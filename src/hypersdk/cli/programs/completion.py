"""Shell completion of a program, printed or put where the shell looks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from click.shell_completion import get_completion_class

from hypersdk.cli.programs.groups import Command, flag
from hypersdk.cli.programs.program import Run
from hypersdk.config.folders import config_home, data_home
from hypersdk.errors import TARGET_DENIED, TargetError, UsageError

SHELLS: Final = ("bash", "zsh", "fish")


@dataclass(frozen=True, slots=True)
class Completion:
    """Of one program. ``variable`` is set by the scripts: it asks for completions in place of a run."""

    program: str
    root: click.Command
    variable: str

    def command(self) -> click.Command:
        """The command ``completion``."""

        @click.command("completion", cls=Command, help=_HELP.format(program=self.program))
        @click.argument("shell", required=False, type=click.Choice(SHELLS))
        @flag("--install", is_flag=True, help="Put the script where the shell looks for it.")
        @click.pass_obj
        def command(run: Run, shell: str | None, install: bool) -> None:
            if install:
                self.install(run, shell)
            else:
                click.echo(self.script(shell or self._shell_of(run.environ)))

        return command

    def script(self, shell: str) -> str:
        """The completion script for ``shell``."""
        kind = get_completion_class(shell)
        assert kind is not None
        completion = kind(self.root, {}, self.program, self.variable)
        # Not `source()`: for bash that starts a bash to look at its version, which is not needed to print a text.
        return str(completion.source_template % completion.source_vars())

    def install(self, run: Run, shell: str | None) -> None:
        """Writes the script into the user's folder for it. No start-up file is touched."""
        name = shell or self._shell_of(run.environ)
        path = self._path(name, run.environ)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.script(name) + "\n", encoding="utf-8")
        except OSError as error:
            raise TargetError(f"{path} cannot be written: {error.strerror}", code=TARGET_DENIED) from error
        run.output.line(f"Completion for {name} installed in {path}; it works in the next shell.")
        if name == "zsh":
            run.output.note(f"zsh must look there: put `fpath+=({path.parent})` before compinit in ~/.zshrc.")

    def _shell_of(self, environ: Mapping[str, str]) -> str:
        """The user's shell by ``$SHELL``. Raises UsageError when it is none that is known here."""
        name = Path(environ.get("SHELL", "")).name
        if name not in SHELLS:
            raise UsageError(
                f"no completion for the shell {name or 'that $SHELL names'}",
                next_step=f"Name it: `{self.program} completion bash|zsh|fish`.",
            )
        return name

    def _path(self, shell: str, environ: Mapping[str, str]) -> Path:
        """Where each shell looks for a user's completions."""
        data = data_home(environ)
        return {
            "bash": data / "bash-completion" / "completions" / self.program,
            "zsh": data / "zsh" / "site-functions" / f"_{self.program}",
            "fish": config_home(environ) / "fish" / "completions" / f"{self.program}.fish",
        }[shell]


_HELP: Final = """Print or install shell completion for bash, zsh or fish (default: your shell).

For one session: `eval "$({program} completion bash)"`.
"""
