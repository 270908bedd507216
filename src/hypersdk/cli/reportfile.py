"""`export --report FILE`: the machines of a run and how each ended, as CSV, JSON or one HTML page.

The page needs nothing else: no script, no font, no image, no network. All text in it comes from the inventory or from
errors, so all of it is escaped; its own policy (CSP) forbids everything but its style.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Final

from hypersdk import __version__
from hypersdk.cli.batch import Batch, ExportStatus, Row, Totals
from hypersdk.cli.columns import size_text
from hypersdk.cli.state import Cli
from hypersdk.errors import TARGET_DENIED, TargetError, UsageError
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
    _check(path)
    try:
        yield
    except BaseException:
        try:
            _write(cli, path, batch)
        except TargetError as error:  # the error of the export says more
            cli.output.warn(f"the report was not written: {error.message}")
        raise
    _write(cli, path, batch)


def _check(path: Path) -> None:
    if path.suffix.lower() not in WRITERS:
        raise UsageError(
            f"--report {path}: unknown kind of file", next_step=f"Give it a name that ends in {', '.join(WRITERS)}."
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
    text = WRITERS[path.suffix.lower()](batch)
    write_atomic(path, text.encode("utf-8", "backslashreplace"))
    if cli.output.json_lines:
        cli.output.event("report", {"file": path.absolute()})
    else:
        cli.output.note(f"Report: {path}")


def csv_text(batch: Batch) -> str:
    """A header and a line per machine (RFC 4180). Unknown values are empty."""
    text = io.StringIO()
    names = [field.name for field in fields(Row)]
    writer = csv.DictWriter(text, names, lineterminator="\r\n")
    writer.writeheader()
    for row in batch.rows():
        writer.writerow({name: _cell(value) for name, value in asdict(row).items()})
    return text.getvalue()


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

STYLE: Final = """
:root { color-scheme: light dark; --line: #d5d9de; --soft: #5a6472; --good: #17733b; --bad: #b3261e; --warn: #8a5a00;
  --back: #fff; --card: #f4f6f8; --text: #1a1f26 }
@media (prefers-color-scheme: dark) { :root { --line: #39414c; --soft: #a3adba; --good: #6bd08f; --bad: #ff8a80;
  --warn: #ffc46b; --back: #14181d; --card: #1e242b; --text: #e8ecf1 } }
* { box-sizing: border-box } html { font-size: 15px }
body { margin: 0 auto; max-width: 90rem; padding: 2rem 1.5rem; background: var(--back); color: var(--text);
  font: 1rem/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif }
h1 { font-size: 1.6rem; margin: 0 0 .2rem } h2 { font-size: 1.1rem; margin: 2rem 0 .6rem }
p { margin: 0; color: var(--soft) }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem; margin: 1.4rem 0 0 }
dl div { background: var(--card); border-radius: .5rem; padding: .7rem .9rem }
dt { color: var(--soft); font-size: .85rem } dd { margin: 0; font-size: 1.25rem; font-weight: 600; white-space: nowrap }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .4rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top }
th { color: var(--soft); font-weight: 600; font-size: .85rem; white-space: nowrap }
td.number, th.number { text-align: right; white-space: nowrap }
td.name { font-weight: 600 } td.name, td.text { overflow-wrap: anywhere; min-width: 10rem }
.good { color: var(--good) } .bad { color: var(--bad) } .warn { color: var(--warn) } td.status { white-space: nowrap }
code { font: .9em ui-monospace, "SF Mono", Menlo, Consolas, monospace; color: var(--soft) }
footer { margin-top: 2rem; font-size: .85rem; color: var(--soft) }
@page { size: A4 landscape; margin: 12mm }
@media print { :root { --line: #bbb; --soft: #444; --good: #075c28; --bad: #9b1c15; --warn: #6b4600; --back: #fff;
  --card: #fff; --text: #000 } html { font-size: 9.5px } body { max-width: none; padding: 0 }
  dl div { border: 1px solid #bbb } .scroll { overflow: visible }
  thead { display: table-header-group } tr { break-inside: avoid } }
"""
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p>{when}</p>
<dl>
{cards}
</dl>
{problems}
<h2>Machines</h2>
<div class="scroll"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
<footer>HyperSDK {version}</footer>
</body>
</html>
"""
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
    return _PAGE.format(
        title=f"{good:,} of {count(totals.machines, 'machine')} exported",
        when=f"Started {batch.began:%Y-%m-%d %H:%M:%S} UTC, took {format_duration(totals.elapsed_s)}",
        style=STYLE,
        cards="\n".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in _cards(totals)),
        problems=_problems([row for row in rows if row.status in _PROBLEMS]),
        head="".join(f'<th class="{kind}">{title}</th>' for title, kind, _ in _COLUMNS),
        rows="\n".join(map(_machine, rows)),
        version=escape(__version__),
    )


def _cards(totals: Totals) -> Iterator[tuple[str, str]]:
    yield from ((status.capitalize(), f"{number:,}") for status, number in totals.counts().items())
    yield "Received", format_size(totals.wire_bytes)
    yield "Rate", format_rate(totals.rate_bytes_s)
    yield "Data", format_size(totals.data_bytes)
    yield "Holes kept", format_size(totals.holes_bytes)


def _problems(rows: list[Row]) -> str:
    if not rows:
        return ""
    lines = [
        f'<tr><td class="name">{_text(row.machine)}</td><td class="status {_CLASSES[row.status]}">{row.status}</td>'
        f'<td class="text">{_text(row.message)}<br><code>{_text(row.code)}</code></td>'
        f'<td class="text">{_text(row.next_step)}</td></tr>'
        for row in rows
    ]
    head = "<tr><th>Machine</th><th>Status</th><th>Reason</th><th>Next step</th></tr>"
    body = "\n".join(lines)
    return (
        f'<h2>To do</h2>\n<div class="scroll"><table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'
    )


def _machine(row: Row) -> str:
    return "<tr>" + "".join(f'<td class="{kind}">{show(row)}</td>' for _, kind, show in _COLUMNS) + "</tr>"


def _text(value: str) -> str:
    return escape(clean(value))


_COLUMNS: Final[tuple[tuple[str, str, Callable[[Row], str]], ...]] = (
    ("Machine", "name", lambda row: _text(row.machine)),
    ("Status", "status", lambda row: f'<span class="{_CLASSES[row.status]}">{row.status}</span>'),
    ("Power", "", lambda row: _text(row.power)),
    ("Disks", "number", lambda row: "" if row.disks is None else str(row.disks)),
    ("Provisioned", "number", lambda row: size_text(row.capacity_bytes)),
    ("Received", "number", lambda row: size_text(row.wire_bytes)),
    ("Data", "number", lambda row: size_text(row.data_bytes)),
    ("Holes kept", "number", lambda row: size_text(row.holes_bytes)),
    ("Time", "number", lambda row: "" if row.elapsed_s is None else format_duration(row.elapsed_s)),
    ("Proof", "text", lambda row: _text(row.proof)),
    ("Folder", "text", lambda row: _text(row.folder)),
)
WRITERS: Final[Mapping[str, Callable[[Batch], str]]] = {".csv": csv_text, ".json": json_text, ".html": html_text}
