"""Reports errors, for all commands."""

from __future__ import annotations

import textwrap
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hypersdk.cli.output import Output, OutputStopped
from hypersdk.cli.remedies import error_dict, next_step
from hypersdk.cli.terminal import displayed
from hypersdk.errors import EXIT_INTERNAL, INTERNAL, Cancelled, HyperSDKError
from hypersdk.text import clean, clean_lines

if TYPE_CHECKING:
    from rich.text import Text

EXIT_TERMINATED: Final = 143
"""128 + SIGTERM, as shells report a process ended by that signal."""
_EXITS: Final = {"SIGTERM": EXIT_TERMINATED, "SIGHUP": 129}

_EVIDENCE: Final = (("log", "log"), ("screenshot", "screen"), ("serial_log", "serial"))
"""Fields of an error that name a file to look at, and their labels."""

LABEL_CELLS: Final = 10
"""The column where the text after a label begins."""
MAX_NAMED: Final = 5
"""Machines named behind a remark that holds for several."""
MAX_LISTED: Final = 12
"""Entries shown of a list inside an error; the JSON form has them all."""


def report(output: Output, error: HyperSDKError, *, debug: bool = False) -> int:
    """Reports ``error`` to the user or the program, and returns the exit status."""
    status = exit_status(error)
    if output.json_lines:
        with suppress(OutputStopped):  # then people get it
            output.event("error", {**error_dict(error, output.program), "exit_status": status})
        if output.failure is None:
            return status
    show_error(output, error)
    if debug:
        output.notes.print(clean_lines("".join(traceback.format_exception(error))), markup=False, style="dim")
    return status


def exit_status(error: HyperSDKError) -> int:
    """The exit status of the error's family; a run ended by SIGTERM or SIGHUP says so."""
    number = _EXITS.get(str(error.fields.get("signal"))) if isinstance(error, Cancelled) else None
    return error.exit_status if number is None else number


def show_error(output: Output, error: HyperSDKError) -> None:
    """Shows one error: the message in red, then cause, next step and code."""
    from rich.text import Text

    stopped = isinstance(error, Cancelled)
    colour = "yellow" if stopped else "red"
    label = "Stopped" if stopped else "Error"
    message = "\n".join(wrapped(error.message.removeprefix("stopped: "), output.notes.width, len(label) + 2))
    heading = Text.assemble((f"{label}: ", f"bold {colour}"), (message, colour))
    output.notes.print(heading, soft_wrap=True)
    for label, text in _facts(error, output.program):
        output.notes.print(labelled(label, text, output.notes.width), soft_wrap=True)


def _facts(error: HyperSDKError, program: str) -> Iterator[tuple[str, str]]:
    if error.reasons:  # several refusals at once, each with its own cause and fix
        for reason in error.reasons:
            yield "-", f"{reason.message} ({reason.code})"
            yield "next", next_step(reason, program)
        yield "code", f"{error.code} (exit status {exit_status(error)})"
        return
    if not isinstance(error, Cancelled) and error.cause.rstrip(".").lower() != error.message.rstrip(".").lower():
        yield "cause", error.cause
    entries = [entry for entry in _listed(error) if entry not in error.message]
    if entries != [f"{error.message} ({error.code})"]:  # a single entry would repeat the message
        yield from (("-", entry) for entry in entries)
    yield from ((label, str(error.fields[field])) for field, label in _EVIDENCE if error.fields.get(field))
    yield "next", next_step(error, program)
    yield "code", f"{error.code} (exit status {exit_status(error)})"


def labelled(label: str, text: str, width: int, style: str = "") -> Text:
    """``text`` behind its label, wrapped under itself."""
    from rich.text import Text

    first, *others = wrapped(text, width - LABEL_CELLS, 0)
    lines = [Text.assemble((f"  {label:<{LABEL_CELLS - 2}}", "dim"), (first, style))]
    return Text("\n").join([*lines, *(Text(" " * LABEL_CELLS + line, style) for line in others)])


def show_line(output: Output, line: Text) -> None:
    """A result in exactly one line: cut where it does not fit the terminal."""
    if output.width is not None:
        line.truncate(output.width, overflow="ellipsis")
    output.print(line)


def wrapped(text: str, width: int, first_indent: int) -> list[str]:
    """``text`` in lines; the first one begins after ``first_indent`` cells. A long word (a fingerprint, a path) is
    not split, so that it can be copied."""
    lines = textwrap.wrap(
        " " * first_indent + displayed(clean(text)),
        max(width, 20),
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )
    return [lines[0][first_indent:], *lines[1:]] if lines else [""]


def _listed(error: HyperSDKError) -> Iterator[str]:
    """Lists among the error's facts (candidates, near matches, snapshots), one line each."""
    for value in error.fields.values():
        if isinstance(value, list | tuple):
            value = _by_code(value) or value
            for entry in value[:MAX_LISTED]:
                yield _entry(entry)
            if len(value) > MAX_LISTED:
                yield f"and {len(value) - MAX_LISTED} more"


def _by_code(entries: Sequence[object]) -> list[str]:
    """Machines that failed, together where they failed for the same reason; nothing for another list."""
    machines: dict[str, list[str]] = {}
    for entry in entries:
        if not isinstance(entry, dict) or entry.keys() != {"machine", "code"}:
            return []
        machines.setdefault(str(entry["code"]), []).append(str(entry["machine"]))
    return [f"{code}: {named(names)}" for code, names in machines.items()]


def named(names: Sequence[str]) -> str:
    """Names, all or the first ones and the number of the others."""
    shown = ", ".join(names[:MAX_NAMED])
    return shown if len(names) <= MAX_NAMED else f"{shown} and {len(names) - MAX_NAMED} more"


def _entry(entry: object) -> str:
    if not isinstance(entry, dict):
        return str(entry)
    if "message" in entry:
        return f"{entry['message']} ({entry.get('code', '')})"
    return "  ".join(str(part) for part in entry.values())


def report_unexpected(output: Output, error: Exception, state_dir: Path) -> int:
    """Reports a bug: a general message to the user, the traceback into a crash file."""
    where = _write_crash(error, state_dir)
    failure = InternalError(
        f"internal error: {type(error).__name__}", code=INTERNAL, crash_file=None if where is None else str(where)
    )
    if where is None:
        output.notes.print(clean_lines("".join(traceback.format_exception(error))), markup=False, style="dim")
    else:
        output.note(f"Crash file: {where}")
    report(output, failure)
    return EXIT_INTERNAL


class InternalError(HyperSDKError):
    """An unexpected exception, as an error that can be reported."""

    exit_status = EXIT_INTERNAL
    default_code = INTERNAL


def _write_crash(error: Exception, state_dir: Path) -> Path | None:
    """The crash file, readable only by its owner; None if it cannot be written."""
    path = state_dir / f"crash-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.txt"
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.write_text(
            clean_lines("".join(traceback.format_exception(error))), encoding="utf-8", errors="backslashreplace"
        )
    except OSError:
        return None
    return path
