"""The state of one run of ``hyperctl``: streams, flags, the client, and the output format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeVar

import click

from hypersdk.cli.output import Output
from hypersdk.cli.programs.program import Run
from hypersdk.cli.remedies import error_dict
from hypersdk.cli.report import show_error
from hypersdk.cli.terminal import displayed
from hypersdk.errors import AccessError, ConnectError, HyperSDKError, PartlyFailed
from hypersdk.text import clean, clean_lines

if TYPE_CHECKING:
    from hypersdk.client import Client

Facts = Mapping[str, Any]
R = TypeVar("R")
FORMATS: Final = ("table", "json", "yaml")


class Ctl(Run):
    """Passed to every command. ``given`` holds the flags that select the daemon."""

    def __init__(self, output: Output, environ: Mapping[str, str], stdin: TextIO, stdout: TextIO) -> None:
        super().__init__(output, environ, stdin, stdout)
        self.format = "json" if output.json_lines else "table"
        self._open = ExitStack()

    def choose_format(self, name: str) -> None:
        super().choose_format(name)
        self.format = name

    @cached_property
    def client(self) -> Client:
        """The daemon's client, created on first use."""
        return self.connect(**self.given)

    def connect(self, **given: Any) -> Client:
        """A client that is closed at the end of the run."""
        from hypersdk.client import Client

        return self._open.enter_context(Client(environ=self.environ, **given))

    def close(self) -> None:
        self._open.close()

    @property
    def for_people(self) -> bool:
        """Whether results are printed for people: as tables and sentences."""
        return self.format == "table"

    def show(self, facts: Facts | Sequence[Facts], people: Callable[[], None]) -> None:
        """A result: ``facts`` for programs (a list is one object a line in JSON), ``people`` prints it for people."""
        if self.format == "json":
            for row in [facts] if isinstance(facts, Mapping) else facts:
                self.output.row(row)
        elif self.format == "yaml":
            self.yaml(facts)
        else:
            people()

    def yaml(self, facts: object) -> None:
        """One YAML document on stdout."""
        import yaml

        def dumped(*, unicode: bool) -> str:
            text = yaml.safe_dump(facts, sort_keys=False, allow_unicode=unicode, default_flow_style=False, width=1000)
            return str(text).rstrip("\n")

        text = dumped(unicode=True)
        plain = text == clean_lines(text) == displayed(text)
        click.echo(text if plain else dumped(unicode=False), file=self.stdout)

    def say(self, text: str, style: str = "bold") -> None:
        """A line on stdout that programs may match, unchanged; with a style at a terminal."""
        from rich.text import Text

        self.output.print(Text(clean(text), style=style), soft_wrap=True)


pass_ctl = click.make_pass_decorator(Ctl)


def for_each(ctl: Ctl, ids: Iterable[str], act: Callable[[str], R]) -> tuple[list[tuple[str, R]], list[HyperSDKError]]:
    """Calls ``act`` with every id; returns ids with results, and errors. An error of one id is printed and the others
    continue; an error that is not specific to an id is raised."""
    ctl.output.keep_going()
    done: list[tuple[str, R]] = []
    failed: list[HyperSDKError] = []
    wanted = list(dict.fromkeys(ids))
    for item in wanted:
        try:
            done.append((item, act(item)))
        except (ConnectError, AccessError):
            raise
        except HyperSDKError as error:
            failed.append(error)
            if len(wanted) > 1:
                tell_failure(ctl, error, item)
    return done, failed


def tell_failure(ctl: Ctl, error: HyperSDKError, item: str) -> None:
    """Prints the error of one of several ids."""
    if ctl.for_people:
        show_error(ctl.output, error)
    else:
        ctl.output.event("error", {**error_dict(error, ctl.output.program), "id": item})


def raise_failures(
    done: Sequence[object],
    failed: Sequence[HyperSDKError],
    what: str,
    *,
    things: str = "jobs",
    next_step: str = "See the reasons above.",
) -> None:
    """Does nothing without failures; raises the error itself if there was only one id.

    Where none was done and all failed in one way, an error of that family, for its exit status; else PartlyFailed.
    """
    if not failed:
        return
    if len(failed) == 1 and not done:
        raise failed[0]
    message = f"{len(failed)} of {len(failed) + len(done)} {things} were not {what}"
    if done:
        raise PartlyFailed(message, cause=f"Some {things} were {what}, others were not.", next_step=next_step)
    if len({error.exit_status for error in failed}) > 1:
        raise PartlyFailed(message, cause=f"None of the {things} was {what}, for several reasons.", next_step=next_step)
    error = type(failed[0])(message, cause=f"None of the {things} was {what}.", next_step=next_step)
    if len({error.code for error in failed}) == 1:
        error.code = failed[0].code
        error.cause = failed[0].cause
    raise error
