"""`export --report FILE`: the machines of a run and how each ended, as CSV, JSON or one HTML page."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hypersdk import __version__
from hypersdk.cli.batch import Batch, ExportStatus, Row, Totals
from hypersdk.cli.columns import size_text
from hypersdk.cli.state import Cli
from hypersdk.errors import TARGET_DENIED, TargetError, UsageError
from hypersdk.htmlpage import Column, cards, page, table, text
from hypersdk.text import clean, count
from hypersdk.transfer.files import is_folder, target_errors, write_atomic
from hypersdk.units import format_duration, format_rate, format_size

FORMULA: Final = ("=", "+", "-", "@")
"""A spreadsheet takes a cell that begins so for a formula."""


@contextmanager
def reporting(cli: Cli, path: Path, batch: Batch) -> Iterator[None]:
    """Writes the report when the block has ended, also after an error or Ctrl-C; not where no machine was found.

    Raises UsageError and TargetError before the block for a file that cannot be written, and TargetError after it.
    """
    check_report_file(path, WRITERS)
    try:
        yield
    except BaseException:
        try:
            _write(cli, path, batch)
        except TargetError as error:  # the error of the export says more
            cli.output.warn(f"the report was not written: {error.message}")
        raise
    _write(cli, path, batch)


def check_report_file(path: Path, kinds: Collection[str]) -> None:
    """Raises UsageError and TargetError for a file that cannot be written, or whose name ends in none of ``kinds``."""
    if path.suffix.lower() not in kinds:
        raise UsageError(
            f"--report {path}: unknown kind of file", next_step=f"Give it a name that ends in {', '.join(kinds)}."
        )
    folder = path.absolute().parent
    if not is_folder(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise TargetError(
            f"the report {path} cannot be written: its folder does not exist or is not writable",
            code=TARGET_DENIED,
            next_step="Create the folder, or choose another one for --report.",
        )
    with target_errors(f"checking {path}"):  # a name can be too long
        if path.exists() and not path.is_file():
            raise UsageError(f"--report {path}: not a file", next_step="Give the name of a file.")


def _write(cli: Cli, path: Path, batch: Batch) -> None:
    if not batch.size:
        return
    content = WRITERS[path.suffix.lower()](batch)
    write_atomic(path, content.encode("utf-8", "backslashreplace"))
    if cli.output.json_lines:
        cli.output.event("report", {"file": path.absolute()})
    else:
        cli.output.note(f"Report: {path}")


def csv_text(batch: Batch) -> str:
    """A header and a line per machine (RFC 4180). Unknown values are empty."""
    file = io.StringIO()
    names = [field.name for field in fields(Row)]
    writer = csv.DictWriter(file, names, lineterminator="\r\n")
    writer.writeheader()
    for row in batch.rows():
        writer.writerow({name: _cell(value) for name, value in asdict(row).items()})
    return file.getvalue()


def _cell(value: object) -> object:
    """A text that a spreadsheet would calculate gets an apostrophe in front; numbers are ours."""
    if isinstance(value, float):
        return round(value, 3)
    if not isinstance(value, str):
        return value
    shown = clean(value)
    return f"'{shown}" if shown.lstrip().startswith(FORMULA) else shown


def json_text(batch: Batch) -> str:
    """``{"began_at", "written_at", "version", "totals", "machines"}``; names unchanged, unknown values ``null``."""
    document = {
        "began_at": batch.began.isoformat(timespec="seconds"),
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "totals": batch.totals().as_dict(),
        "machines": [asdict(row) for row in batch.rows()],
    }
    return json.dumps(document, indent=2) + "\n"


# --- HTML ------------------------------------------------------------------------------------------------------------

_CLASSES: Final[Mapping[ExportStatus, str]] = {
    ExportStatus.EXPORTED: "good",
    ExportStatus.EARLIER: "good",
    ExportStatus.FAILED: "bad",
    ExportStatus.STOPPED: "warn",
    ExportStatus.SKIPPED: "warn",
    ExportStatus.NOT_STARTED: "",
}
_PROBLEMS: Final = (ExportStatus.FAILED, ExportStatus.STOPPED, ExportStatus.SKIPPED)


def html_text(batch: Batch) -> str:
    """The page: totals, what failed with its next step, all machines."""
    rows, totals = batch.rows(), batch.totals()
    good = totals.exported + totals.exported_earlier
    return page(
        f"{good:,} of {count(totals.machines, 'machine')} exported",
        f"Started {batch.began:%Y-%m-%d %H:%M:%S} UTC, took {format_duration(totals.elapsed_s)}",
        (
            cards(_cards(totals)),
            table("To do", _TO_DO, [row for row in rows if row.status in _PROBLEMS]),
            table("Machines", _COLUMNS, rows),
        ),
        __version__,
    )


def _cards(totals: Totals) -> Iterator[tuple[str, str]]:
    yield from ((status.capitalize(), f"{number:,}") for status, number in totals.counts().items())
    yield "Received", format_size(totals.wire_bytes)
    yield "Rate", format_rate(totals.rate_bytes_s)
    yield "Data", format_size(totals.data_bytes)
    yield "Holes kept", format_size(totals.holes_bytes)


def _status(row: Row) -> str:
    return f'<span class="{_CLASSES[row.status]}">{row.status}</span>'


_TO_DO: Final[tuple[Column[Row], ...]] = (
    ("Machine", "name", lambda row: text(row.machine)),
    ("Status", "status", _status),
    ("Reason", "text", lambda row: f"{text(row.message)}<br><code>{text(row.code)}</code>"),
    ("Next step", "text", lambda row: text(row.next_step)),
)
_COLUMNS: Final[tuple[Column[Row], ...]] = (
    ("Machine", "name", lambda row: text(row.machine)),
    ("Status", "status", _status),
    ("Power", "", lambda row: text(row.power)),
    ("Disks", "number", lambda row: "" if row.disks is None else str(row.disks)),
    ("Provisioned", "number", lambda row: size_text(row.capacity_bytes)),
    ("Received", "number", lambda row: size_text(row.wire_bytes)),
    ("Data", "number", lambda row: size_text(row.data_bytes)),
    ("Holes kept", "number", lambda row: size_text(row.holes_bytes)),
    ("Time", "number", lambda row: "" if row.elapsed_s is None else format_duration(row.elapsed_s)),
    ("Proof", "text", lambda row: text(row.proof)),
    ("Folder", "text", lambda row: text(row.folder)),
)
WRITERS: Final[Mapping[str, Callable[[Batch], str]]] = {".csv": csv_text, ".json": json_text, ".html": html_text}
