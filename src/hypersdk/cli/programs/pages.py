"""Manual pages of a program, generated from its commands: the pages have the texts of ``--help``.

Format of the pages: man(7) macros.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

import click

from hypersdk import __version__
from hypersdk.cli.programs.groups import Command, Group, RootGroup, option_sections
from hypersdk.cli.programs.program import Run
from hypersdk.errors import TARGET_DENIED, TargetError

Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Manual:
    """The parts of a program's manual that no command has. ``section`` is 1 for users' programs, 8 for a daemon."""

    name: str
    root: RootGroup
    section: int
    environment: Pairs
    files: Pairs
    exit_status: Pairs
    see_also: Sequence[str]


SCREEN_ENVIRONMENT: Final = (
    ("NO_COLOR", "No colours, whatever its value."),
    ("LC_ALL, LC_CTYPE, LANG", "Charset of the output: ASCII in the C locale."),
)
"""What decides how the output of every program looks (``cli/terminal.py``)."""
EXIT_STATUS: Final = (
    ("0", "Success."),
    ("1", "Internal error (a bug); see the crash file."),
    ("2", "Invalid flag, job file or configuration."),
    ("3", "The daemon cannot be reached or trusted."),
    ("4", "No token, an invalid one, or one whose role does not allow it."),
    ("5", "No such job, endpoint, token or user."),
    ("6", "Refused; the message has the reason."),
    ("7", "vSphere failed for a job or an endpoint; or too many requests: try again later."),
    ("8", "Data of a job failed an integrity check."),
    ("9", "A file or folder cannot be written, here or (for a job) on the daemon's host."),
    ("10", "Some of several failed; or all failed, for different reasons."),
    ("11", "A job could not restore its source."),
    ("12", "The daemon is unavailable: its database failed, or it is too busy."),
    ("13", "The daemon failed."),
    ("14", "Standard output is full or closed."),
    ("130", "Interrupted."),
    ("141", "The reader of standard output closed it."),
)


def all_pages(manual: Manual, when: date) -> Mapping[str, str]:
    """File names and texts of all pages, dated ``when``: one for the program, one a command (groups show theirs in one
    page)."""
    name, root = manual.name, manual.root
    ctx = click.Context(root, info_name=name, **root.context_settings)
    pages = {f"{name}.{manual.section}": _page(manual, ctx, when)}
    for command_name in root.list_commands(ctx):
        command = root.get_command(ctx, command_name)
        assert command is not None
        if not command.hidden:
            inner = click.Context(command, info_name=command_name, parent=ctx)
            pages[f"{name}-{command_name}.{manual.section}"] = _page(manual, inner, when)
    return pages


def _page(manual: Manual, ctx: click.Context, when: date) -> str:
    return "\n".join(_lines(manual, ctx, when)) + "\n"


def _lines(manual: Manual, ctx: click.Context, when: date) -> Iterator[str]:
    command, title = ctx.command, ctx.command_path.replace(" ", "-")
    name, root = manual.name, manual.root
    first, *rest = paragraphs(command)
    kind = "User Commands" if manual.section == 1 else "System Administration"
    yield f'.TH "{title.upper()}" "{manual.section}" "{when:%Y-%m-%d}" "{name} {__version__}" "{kind}"'
    yield from (".SH NAME", f"{roff(title)} \\- {roff(first.rstrip('.'))}")
    yield from (".SH SYNOPSIS", f".B {roff(ctx.command_path)}", roff(" ".join(command.collect_usage_pieces(ctx))))
    yield ".SH DESCRIPTION"
    for text in (first, *rest):
        yield from (".PP", roff(text))
    for heading, records in option_sections(ctx).items():
        yield from _section(f"{heading} options".strip().upper(), records)
    others: list[str] = [name]
    if isinstance(command, RootGroup):
        yield from _section("COMMANDS", ((key, entry.summary) for key, entry in root.entries.items()))
        yield from _section("ENVIRONMENT", manual.environment)
        yield from _section("FILES", manual.files)
        others = [*(f"{name}-{key}" for key in root.entries), *manual.see_also]
    elif isinstance(command, Group):
        yield from _subcommands(ctx, command)
    yield from _section("EXIT STATUS", manual.exit_status)
    yield ".SH SEE ALSO"
    for other in others:
        section = manual.section if other.startswith(name) else (8 if other == "hypervisord" else 1)
        yield f".BR {roff(other)} ({section}){',' if other != others[-1] else ''}"


def _subcommands(ctx: click.Context, group: Group) -> Iterator[str]:
    yield ".SH COMMANDS"
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=ctx)
        yield from (
            ".SS " + roff(" ".join([name, *command.collect_usage_pieces(inner)])),
            *map(roff, paragraphs(command)),
        )
        yield from _list(option_sections(inner).get("", ()))


def _section(title: str, entries: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield f".SH {title}"
    yield from _list(entries)


def _list(entries: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, text in entries:
        yield from (".TP", f".B {roff(term)}", roff(text))


def paragraphs(command: click.Command) -> list[str]:
    """The help text of ``command``, a line a paragraph."""
    text = inspect.cleandoc(command.help or "")
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


def roff(text: str) -> str:
    """``text`` escaped for troff: backslashes and hyphens are printed, no line is taken for a macro."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped


def man_command(manual: Manual) -> click.Command:
    """The command that writes the pages into a folder."""

    @click.command("man", cls=Command)
    @click.option(
        "-o",
        "--output",
        "folder",
        required=True,
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help=f"Folder for the pages, like ~/.local/share/man/man{manual.section}.",
    )
    @click.pass_obj
    def command(run: Run, folder: Path) -> None:
        """Write the manual pages into a folder.

        The date of the pages is SOURCE_DATE_EPOCH if it is set.
        """
        epoch = run.environ.get("SOURCE_DATE_EPOCH", "")
        when = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdecimal() else datetime.now(UTC)
        pages = all_pages(manual, when.date())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in pages.items():
                (folder / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise TargetError(f"{folder} cannot be written: {error.strerror}", code=TARGET_DENIED) from error
        run.output.line(f"{len(pages)} pages written to {folder}")

    return command
