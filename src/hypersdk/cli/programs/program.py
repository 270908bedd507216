"""The entry of a program: sets a run up and is the one funnel for everything that ends it."""

from __future__ import annotations

import getpass
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

import click

from hypersdk.cli.output import Output
from hypersdk.cli.programs.groups import F, RootGroup, flag
from hypersdk.cli.programs.passwords import checked, given_password
from hypersdk.cli.report import EXIT_BROKEN_PIPE, EXIT_TERMINATED, report, report_unexpected
from hypersdk.config.folders import state_folder
from hypersdk.errors import EXIT_OK, Cancelled, HyperSDKError, UsageError
from hypersdk.secret import Secret

JSON_FLAGS: Final = frozenset({"--json", "-json"})
NOTHING_LOST: Final = "Nothing is lost: jobs run in the daemon, not here. Run the same command again when it suits you."


class Run:
    """What one run knows from the start. Programs add their own to it."""

    def __init__(self, output: Output, environ: Mapping[str, str], stdin: TextIO, stdout: TextIO) -> None:
        self.output = output
        self.stdout = stdout
        self.environ = environ
        self.stdin = stdin
        self.debug = False
        self.arguments: tuple[str, ...] = ()
        """The command line."""

    @property
    def state_dir(self) -> Path:
        """Where crash files go."""
        return state_folder(self.environ)

    def password(
        self, question: str, path: Path | None = None, *, from_stdin: bool = False, twice: bool = False
    ) -> Secret:
        """From a file, standard input or the prompt; never from the command line. Raises UsageError where there is
        none."""
        given = given_password(self.stdin, path, from_stdin=from_stdin)
        if given is not None:
            return given
        if not self.output.can_ask:
            raise UsageError("a password is needed", next_step="Pass --password-file FILE or --password-stdin.")
        first = self.ask(question, secret=True)
        if twice and self.ask("Once more: ", secret=True) != first:
            raise UsageError("the two passwords differ", next_step="Try again.")
        return checked(first, "the prompt")

    def ask(self, question: str, *, secret: bool = False) -> str:
        """Asks at the terminal. Raises UsageError where nobody answers."""
        try:
            if secret:
                return getpass.getpass(question)
            self.output.notes.print(question, end="", markup=False)
            return input()
        except EOFError as error:
            raise UsageError(
                "the question was not answered", next_step="Answer it, or give the value as a flag."
            ) from error

    def watching_signals(self) -> AbstractContextManager[None]:
        """Around the run: what signals do meanwhile. By default what Python does."""
        return nullcontext()

    def stopped(self, error: Cancelled) -> Cancelled:
        """``error``, which ended the run, as the user is told of it."""
        return error

    def show_debug(self) -> None:
        """Shows the origin of errors too."""
        self.debug = True

    def close(self) -> None:
        """Called at the end, whatever happened."""


@dataclass(frozen=True)
class Program:
    """A program: its name, its commands, and what a run of it is made by."""

    name: str
    root: RootGroup
    make_run: Callable[[Output, Mapping[str, str], TextIO, TextIO], Run]
    interrupted: str | None = NOTHING_LOST
    """The next step after Ctrl-C; None is that of the error."""
    output_flags: Collection[str] = frozenset({"--output", "-output", "-o"})
    """Flags that choose the format of results."""
    folders: Collection[str] = ("man",)
    """Commands for which they name a folder instead."""

    @property
    def completion_variable(self) -> str:
        """Set by the completion scripts: asks for completions in place of a run."""
        return f"_{self.name.upper()}_COMPLETE"

    def run(self) -> int:
        """What the installed script calls."""
        show_any_name(sys.stdout, sys.stderr)
        return self.main(sys.argv[1:], sys.stdout, sys.stderr, sys.stdin, os.environ)

    def main(
        self, arguments: Sequence[str], stdout: TextIO, stderr: TextIO, stdin: TextIO, environ: Mapping[str, str]
    ) -> int:
        """Runs one command line on the given streams and environment, and returns the exit status."""
        json_lines = self._wants_json(arguments)
        output = Output(stdout, stderr, environ, json_lines=json_lines, stdin_is_tty=stdin.isatty(), program=self.name)
        run = self.make_run(output, environ, stdin, stdout)
        run.arguments = tuple(arguments)
        try:
            with run.watching_signals():
                return self._invoke(run, arguments)
        except BrokenPipeError:
            drop(stdout, stderr)
            return EXIT_BROKEN_PIPE
        except Exception as error:  # noqa: BLE001 - the outermost loop: what gets here is a bug, and is told as one
            return report_unexpected(output, error, run.state_dir)
        finally:
            run.close()

    def _wants_json(self, arguments: Sequence[str]) -> bool:
        ctx = click.Context(self.root, info_name=self.name, resilient_parsing=True)
        _, rest, _ = self.root.make_parser(ctx).parse_args(list(arguments))
        before = arguments[: len(arguments) - len(rest)]
        options = () if rest and rest[0] in self.folders else self.output_flags
        return wants_json(before, JSON_FLAGS, self.output_flags) or wants_json(rest, JSON_FLAGS, options)

    def _invoke(self, run: Run, arguments: Sequence[str]) -> int:
        try:
            if self.completion_variable in run.environ:
                self.root.main(
                    list(arguments), prog_name=self.name, complete_var=self.completion_variable, obj=run
                )  # prints completions and exits
            with self.root.make_context(self.name, list(arguments), obj=run) as ctx:
                status = self.root.invoke(ctx)
        except click.exceptions.Exit as done:  # --help, --version
            return done.exit_code
        except Cancelled as error:
            return report(run.output, run.stopped(error), debug=run.debug)
        except HyperSDKError as error:
            return report(run.output, error, debug=run.debug)
        except click.ClickException as error:
            return report(run.output, usage_of(error, self.name), debug=run.debug)
        except (click.Abort, KeyboardInterrupt):
            stopped = Cancelled("stopped: interrupted", signal="SIGINT", next_step=self.interrupted)
            return report(run.output, run.stopped(stopped), debug=run.debug)
        return status if isinstance(status, int) else EXIT_OK


def debug_flag(command: F, text: str = "Show the origin of errors on standard error.") -> F:
    """``--debug``; read early, so that what goes wrong while the other flags are read is told that way already."""
    return flag(
        "--debug",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_record_debug,
        help=text,
    )(command)


def _record_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Run).show_debug()


def end_on_sigterm() -> None:
    """SIGTERM ends the program at once and silently, with the exit status that shells expect."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(EXIT_TERMINATED))


def show_any_name(*streams: TextIO) -> None:
    """A name that the terminal's encoding cannot show must not end the run."""
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]


def usage_of(error: click.ClickException, program: str) -> UsageError:
    """What click found wrong with the command line, told as ours."""
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if isinstance(ctx, click.Context) else program
    message = error.format_message().strip().removesuffix(".")
    return UsageError(message[:1].lower() + message[1:], next_step=f"See `{path} --help`.")


def wants_json(arguments: Iterable[str], flags: Collection[str], options: Collection[str] = ()) -> bool:
    """Whether JSON was asked for, by one of ``flags`` or as the value of one of ``options``.

    Known before the flags are parsed: an error in them must be JSON already.
    """
    before = ""
    for argument in arguments:
        if argument == "--":
            return False
        name, _, value = argument.partition("=")
        if argument in flags or (before in options and argument == "json") or (name in options and value == "json"):
            return True
        before = argument
    return False


def drop(*streams: TextIO) -> None:
    """Points streams whose reader went away at nothing, so that the interpreter's flush at exit does not fail a second
    time."""
    for stream in streams:
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(Path(os.devnull), os.O_WRONLY), stream.fileno())
