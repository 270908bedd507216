"""The entry of a program: sets up a run, and reports every error that ends it."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

import click

from hypersdk.cli.output import Output, OutputStopped
from hypersdk.cli.programs.groups import F, RootGroup, flag
from hypersdk.cli.programs.misspelt import usage_of
from hypersdk.cli.programs.passwords import checked, given_password
from hypersdk.cli.report import report, report_unexpected
from hypersdk.cli.terminal import fit_streams
from hypersdk.config.folders import state_folder
from hypersdk.errors import EXIT_OK, Cancelled, HyperSDKError, UsageError, register
from hypersdk.secret import Secret
from hypersdk.streams import status_of, take_standard_streams

JSON_FLAGS: Final = frozenset({"--json", "-json"})
NOTHING_LOST: Final = "Nothing is lost: jobs run in the daemon, not here. You can run the same command again."


PACKAGE_MISSING: Final = register(
    "package_missing",
    "A Python package that the program imports is not installed in this environment.",
    "Install hypersdk with the extra for this program, like hypersdk[daemon].",
)
MAX_ASKED: Final = 5
"""How often one question is asked."""


def spelled(*answers: str) -> dict[str, str]:
    """Answers for ``Run.choose``: each by its first letter and as a word."""
    return {word: answer for answer in answers for word in (answer[0], answer)}


class Unanswered(UsageError):  # noqa: N818 - reads as what happened
    """The input ended at a question."""


class Run:
    """The state of one run. Each program has its own subclass."""

    def __init__(self, output: Output, environ: Mapping[str, str], stdin: TextIO, stdout: TextIO) -> None:
        self.output = output
        self.stdout = stdout
        self.environ = environ
        self.stdin = stdin
        self.debug = False
        self.given: dict[str, Any] = {}
        """Values of shared flags, by parameter name."""
        self.arguments: tuple[str, ...] = ()
        """The command line."""

    def choose_format(self, name: str) -> None:
        """Selects the format of results: ``json``, or one that only this program has."""
        self.output.json_lines = name == "json"

    @property
    def state_dir(self) -> Path:
        """Where crash files go."""
        return state_folder(self.environ)

    def password(
        self, question: str, path: Path | None = None, *, from_stdin: bool = False, twice: bool = False
    ) -> Secret:
        """A password from a file, standard input or the prompt, never from the command line. Raises UsageError."""
        try:
            given = given_password(self.stdin, path, from_stdin=from_stdin)
            if given is not None:
                return given
            if not self.output.can_ask:
                raise UsageError("a password is needed", next_step="Pass --password-file FILE or --password-stdin.")
            first = self.ask(question, secret=True)
            if twice and self.ask("Once more: ", secret=True) != first:
                raise UsageError("the two passwords differ", next_step="Try again.")
            return checked(first, "the prompt")
        except UsageError as error:
            error.code = UsageError.default_code  # scripts know this code; `password_source` is hyper2kvm's
            raise

    def ask(self, question: str, *, secret: bool = False) -> str:
        """Asks at the terminal. Raises Unanswered at the end of input."""
        try:
            if secret:
                return getpass.getpass(question)
            self.output.notes.print(question, end="", markup=False)
            return input()
        except EOFError as error:
            step = "Answer it, or give the value as a flag."
            raise Unanswered("the question was not answered", next_step=step) from error

    def choose(self, question: str, answers: Mapping[str, str], *, empty: str, unanswered: str) -> str:
        """The value in ``answers`` of what a person typed; ``empty`` for just Enter. An unknown answer is asked
        again, a few times; after that, and at the end of input, it is ``unanswered``."""
        for _ in range(MAX_ASKED):
            try:
                word = self.ask(question).strip().lower()
            except Unanswered:
                break
            if not word or word in answers:
                return answers.get(word, empty)
            self.output.note(f"Please answer {', '.join(answers)}.", style="yellow")
        return unanswered

    def agreed(self, question: str) -> bool:
        """Whether a person answered yes, or y for short. Enter is no."""
        return self.choose(f"{question} [y/N] ", spelled("yes", "no"), empty="no", unanswered="no") == "yes"

    def confirmed(self, question: str) -> bool:
        """Whether a person typed the whole word yes."""
        answers = {"yes": "yes", "no": "no"}
        return self.choose(f"{question} Type yes: ", answers, empty="no", unanswered="no") == "yes"

    def watching_signals(self) -> AbstractContextManager[None]:
        """Handles signals during the run. By default as Python does."""
        return nullcontext()

    def stopped(self, error: Cancelled) -> Cancelled:
        """``error``, which ended the run, as it is reported to the user."""
        return error

    def show_debug(self) -> None:
        """Shows tracebacks of errors."""
        self.debug = True

    def close(self) -> None:
        """Called at the end, also after an error."""


@dataclass(frozen=True)
class Program:
    """A program: its name, its commands, and the class of its runs."""

    name: str
    root: RootGroup
    make_run: Callable[[Output, Mapping[str, str], TextIO, TextIO], Run]
    interrupted: str | None = NOTHING_LOST
    """The next step after Ctrl-C; None is that of the error."""
    extra: str = ""
    """The extra of the distribution that installs what the program imports, like ``[daemon]``."""
    output_flags: Collection[str] = frozenset({"--output", "-output", "-o"})
    """Flags that choose the format of results."""
    folders: Collection[str] = ("man",)
    """Commands for which these flags name a folder instead."""

    @property
    def completion_variable(self) -> str:
        """Set by the completion scripts: asks for completions instead of a run."""
        return f"_{self.name.upper()}_COMPLETE"

    def run(self) -> int:
        """Runs the program on this process's arguments and streams. The installed script calls it."""
        stdin, stdout, stderr = take_standard_streams()
        if self.completion_variable not in os.environ:  # names go back to the shell as they are
            fit_streams(os.environ, stdout, stderr)
        return self.main(sys.argv[1:], stdout, stderr, stdin, os.environ)

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
                status = self._invoke(run, arguments)
        except OutputStopped:
            status = EXIT_OK
        except Exception as error:  # noqa: BLE001 - the outermost handler: any other exception is a bug, and reported as one
            status = report_unexpected(output, error, run.state_dir)
        finally:
            run.close()
        output.tell_failure()
        return status_of(output.failure) if output.failure and status == EXIT_OK else status

    def _wants_json(self, arguments: Sequence[str]) -> bool:
        # with the settings: a command keeps the help option that its first context makes
        ctx = click.Context(self.root, info_name=self.name, resilient_parsing=True, **self.root.context_settings)
        _, rest, _ = self.root.make_parser(ctx).parse_args(list(arguments))
        before = arguments[: len(arguments) - len(rest)]
        options = () if rest and rest[0] in self.folders else self.output_flags
        return wants_json(before, JSON_FLAGS, self.output_flags) or wants_json(rest, JSON_FLAGS, options)

    def _invoke(self, run: Run, arguments: Sequence[str]) -> int:
        try:
            if self.completion_variable in run.environ:
                from hypersdk.cli.programs.shells import register_shells

                register_shells()
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
        except ModuleNotFoundError as error:
            missing = self._missing(error)
            if missing is None:
                raise
            return report(run.output, missing, debug=run.debug)
        except click.ClickException as error:
            return report(run.output, usage_of(error, self.name, arguments), debug=run.debug)
        except (click.Abort, KeyboardInterrupt):
            stopped = Cancelled("stopped: interrupted", signal="SIGINT", next_step=self.interrupted)
            return report(run.output, run.stopped(stopped), debug=run.debug)
        return status if isinstance(status, int) else EXIT_OK

    def _missing(self, error: ModuleNotFoundError) -> UsageError | None:
        """A package that was not installed, as an error; None for a module of our own."""
        package = (error.name or "").partition(".")[0]
        if package in ("", "hypersdk"):
            return None
        step = f"Run pip install 'hypersdk{self.extra}', or in a clone pip install '.{self.extra}'."
        message = f"{self.name} needs the Python package {package}, which is not installed"
        return UsageError(message, code=PACKAGE_MISSING, next_step=step)


def debug_flag(text: str = "Show tracebacks of errors on standard error.") -> Callable[[F], F]:
    """``--debug``."""
    return _early_flag("--debug", lambda run, _value: run.show_debug(), is_flag=True, help=text)


def json_flag(text: str) -> Callable[[F], F]:
    """``--json``."""
    return _early_flag("--json", lambda run, _value: run.choose_format("json"), is_flag=True, help=text)


def format_flag(formats: Sequence[str], text: str) -> Callable[[F], F]:
    """``--output``; of this and ``--json`` the last one wins."""
    return _early_flag(
        "--output", lambda run, value: run.choose_format(value), "-o", type=click.Choice(formats), help=text
    )


def _early_flag(name: str, act: Callable[[Run, str], None], *more: str, **settings: Any) -> Callable[[F], F]:
    """A flag that is read before the others, so that it already applies to errors in them."""

    def record(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        if value:
            act(ctx.ensure_object(Run), value)

    return flag(name, *more, is_eager=True, expose_value=False, callback=record, **settings)


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
