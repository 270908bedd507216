"""Manual pages of a program, from its commands themselves: whatever ``--help`` says, the pages say too.

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
from hypersdk.cli.programs.groups import Command, Group, RootGroup, shared_titles
from hypersdk.cli.programs.program import Run
from hypersdk.errors import TARGET_DENIED, TargetError

Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Manual:
    """What the page of a program says beside its commands. ``section`` is 1 for users' programs, 8 for a daemon."""

    name: str
    root: RootGroup
    section: int
    environment: Pairs
    files: Pairs
    exit_status: Pairs
    see_also: Sequence[str]


EXIT_STATUS: Final = (
    ("0", "All was done."),
    ("1", "A bug in the program; a crash file tells more."),
    ("2", "A flag, job file or configuration cannot be used."),
    ("3", "The daemon cannot be reached or trusted."),
    ("4", "No token, a wrong one, or one whose role does not allow it."),
    ("5", "No such job, endpoint, token or user."),
    ("6", "Refused, with the reason."),
    ("7", "vSphere failed, of a job or an endpoint; else the daemon asks to come again later (too many requests)."),
    ("8", "Bytes are not what they must be, of a job."),
    ("9", "A file or folder cannot be written: of a job on the daemon's host, else here."),
    ("10", "Some of several were done, others failed; or all failed, in different ways."),
    ("11", "A job could not put its source back as it was found."),
    ("12", "The daemon cannot do it now: its database failed, or it is too busy."),
    ("13", "The daemon failed."),
    ("130", "Interrupted."),
)


def all_pages(manual: Manual, when: date) -> Mapping[str, str]:
    """File names and texts of all pages, dated ``when``: one for the program, one a command (groups show theirs in one
    page)."""
    name, root = manual.name, manual.root
    ctx = click.Context(root, info_name=name)
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
    yield from _options(ctx)
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
        own = [record for title, record in _records(inner) if title == "OPTIONS"]
        for term, text in own:
            yield from (".TP", f".B {roff(term)}", roff(text))


def _options(ctx: click.Context) -> Iterator[str]:
    found: dict[str, list[tuple[str, str]]] = {}
    for title, record in _records(ctx):
        found.setdefault(title, []).append(record)
    for title, records in found.items():
        yield from _section(title, records)


def _records(ctx: click.Context) -> Iterator[tuple[str, tuple[str, str]]]:
    titles = shared_titles(ctx)
    for param in ctx.command.get_params(ctx):
        if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
            title = titles.get(param.name or "")
            yield (f"{title} OPTIONS".upper() if title else "OPTIONS"), record


def _section(title: str, entries: Iterable[tuple[str, str]]) -> Iterator[str]:
    for number, (term, text) in enumerate(entries):
        if number == 0:
            yield f".SH {title}"
        yield from (".TP", f".B {roff(term)}", roff(text))


def paragraphs(command: click.Command) -> list[str]:
    """The help text of ``command``, a line a paragraph."""
    text = inspect.cleandoc(command.help or "")
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


def roff(text: str) -> str:
    """``text`` so that troff prints it as it is: backslashes and hyphens kept, no line taken for a macro."""
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

        SOURCE_DATE_EPOCH, where it is set, is the date on them.
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
