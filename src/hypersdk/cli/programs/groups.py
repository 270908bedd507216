"""Command groups that import a command when it is called, and flags that can be written with one dash or two.

Users and scripts write ``hyperctl query -all``, help shows ``--all``. Both are the same flag.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from hypersdk.cli.programs.misspelt import check_words
from hypersdk.errors import UsageError

HELP_WIDTH: Final = 110
F = TypeVar("F", bound=Callable[..., Any])
SETTINGS: Final[Mapping[str, Any]] = {"help_option_names": ["-h", "--help"], "max_content_width": HELP_WIDTH}


class Flag(click.Option):
    """An option whose long names can be written with one dash too: ``-file`` is ``--file``."""

    one_dash: Final = True

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        shown, shown_off = self.opts, self.secondary_opts
        self.opts, self.secondary_opts = _twins(shown), _twins(shown_off)
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.opts, self.secondary_opts = shown, shown_off


def _twins(names: list[str]) -> list[str]:
    return [*names, *(name[1:] for name in names if name.startswith("--") and len(name) > 3)]


def flag(*names: str, **settings: Any) -> Callable[[F], F]:
    """``click.option`` in both spellings."""
    return click.option(*names, cls=Flag, **settings)


def shared_flag(
    name: str, *names: str, cls: type[click.Option] = Flag, convert: Callable[[Any], Any] | None = None, **settings: Any
) -> Callable[[F], F]:
    """A flag of several commands. Its value, after ``convert``, is stored in ``Run.given``; it may stand before the
    command or after it, and the later one counts."""

    def record(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        if value is not None and value is not False and value != ():
            ctx.obj.given[name] = value if convert is None else convert(value)

    return click.option(*names, name, cls=cls, expose_value=False, callback=record, **settings)


def flag_group(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    """Several flags as one decorator; help shows them in this order."""

    def add(command: F) -> F:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return add


def option_sections(ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
    """Flags and their help by section: the command's own ("" is their title), then the shared ones."""
    root = ctx.find_root().command
    titles = root.titles if isinstance(root, RootGroup) else {}
    sections: dict[str, list[tuple[str, str]]] = {"": []}
    for param in ctx.command.get_params(ctx):
        record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
        if record is not None:
            sections.setdefault(titles.get(param.name or "", ""), []).append(record)
    return {title: records for title, records in sections.items() if records}


def write_options(ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """The sections of a help text."""
    for title, records in option_sections(ctx).items():
        with formatter.section(title or "Options"):
            formatter.write_dl(records)


class Command(click.Command):
    """A command whose help shows shared flags in sections of their own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        check_words(ctx, args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_options(ctx, formatter)


class Group(click.Group):
    """A group whose commands are defined in its own module."""

    command_class = Command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, found.get_short_help_str(90)) for name, found in commands if found])
        write_options(ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        names = self.list_commands(ctx)
        if args[0] not in names and not ctx.resilient_parsing and not args[0].startswith("-"):
            raise _unknown(ctx, args[0], names)
        return super().resolve_command(ctx, args)


@dataclass(frozen=True, slots=True)
class Entry:
    """One command: where it is defined (``module``, or ``module:name`` if it is not called ``command``), and its line
    in the list of commands."""

    place: str
    summary: str


class RootGroup(Group):
    """The root group of a program: a command's module is imported when it is called."""

    def __init__(
        self, *args: Any, sections: Mapping[str, Mapping[str, Entry]], titles: Mapping[str, str], **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self.sections = sections
        self.titles = titles
        self.entries = {name: entry for entries in sections.values() for name, entry in entries.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry.place.partition(":")
        command = getattr(importlib.import_module(module), name or "command")
        assert isinstance(command, click.Command), entry.place
        return command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        column = max(map(len, self.entries))
        for title, entries in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(column), entry.summary) for name, entry in entries.items()])
        write_options(ctx, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [
            CompletionItem(name, help=entry.summary)
            for name, entry in self.entries.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)


def _unknown(ctx: click.Context, name: str, names: list[str]) -> UsageError:
    near = difflib.get_close_matches(name, names, n=1)
    path = ctx.command_path
    hint = f"Did you mean `{path} {near[0]}`?" if near else f"`{path} --help` lists the commands."
    return UsageError(f"there is no command {name[:60]!r}", next_step=hint)
