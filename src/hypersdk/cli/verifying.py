"""`hyper2kvm verify`: one export in full; many in parallel, a line each and a total."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from rich.text import Text

from hypersdk.cli.output import OutputStopped
from hypersdk.cli.progress import FolderProgress, watching
from hypersdk.cli.remedies import next_step
from hypersdk.cli.report import show_line
from hypersdk.cli.state import Cli
from hypersdk.errors import Cancelled, IntegrityError, UsageError
from hypersdk.landing.verifying import verify_export
from hypersdk.migration.exportfolders import Found, exports_below
from hypersdk.migration.findings import VERIFY_FAILED, VERIFY_UNREADABLE, Finding, VerifyReport
from hypersdk.migration.ticking import ticking
from hypersdk.model import DiskProgress, ExportProgress, Phase
from hypersdk.text import clean, count
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import format_duration, format_rate, format_size

MAX_AT_A_TIME: Final = 8
"""Hashing takes one core for each folder; more readers than this only make a disk seek."""
TICK_S: Final = 0.2


def verify_folder(cli: Cli, folder: Path) -> VerifyReport:
    """Verifies with live progress and shows the result; the caller raises the findings."""
    with watching(cli.output, brief=True) as observer:
        progress = FolderProgress(folder.absolute().name, _size_of(folder), observer)
        report = verify_export(folder, cancel=cli.cancel, observer=progress)
    if cli.output.json_lines:
        _send(cli, report)
    else:
        _show_alone(cli, report)
    return report


def _send(cli: Cli, report: VerifyReport) -> None:
    cli.output.event("verified", {**report.as_dict(), "findings": _findings(report)})


def raise_for_findings(report: VerifyReport) -> None:
    """Raises IntegrityError with the code of the first finding, and all of them in the field ``findings``."""
    if report.ok:
        return
    first, more = report.findings[0], len(report.findings) - 1
    raise IntegrityError(
        first.message + (f" (and {more} more)" if more else ""), code=first.code, findings=_findings(report)
    )


def _findings(report: VerifyReport) -> list[dict[str, Any]]:
    return [{**finding.as_dict(), "next_step": next_step(finding)} for finding in report.findings]


def _size_of(folder: Path) -> int:
    """Size of the files in ``folder`` in bytes, for the percentage; 0 if it cannot be read, which the verification
    reports."""
    try:
        return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    except OSError:
        return 0


def _show_alone(cli: Cli, report: VerifyReport) -> None:
    read = f"{format_size(report.bytes_read)} read in {format_duration(report.elapsed_s)}"
    for name in report.unchecked:
        cli.output.warn(f"{name} was compared by its size only: no digest was recorded")
    if report.ok:
        text = (
            f"✔ {clean(report.machine or report.folder.name)}: {count(len(report.checked), 'file')} as written ({read})"
        )
        cli.output.print(Text(text, style="bold green"))
        return
    for finding in report.findings:
        cli.output.print(Text.assemble(("✘ ", "bold red"), clean(finding.message), (f"  {finding.code}", "dim")))


# --- many ------------------------------------------------------------------------------------------------------------


def found_in(cli: Cli, folders: Sequence[Path]) -> list[Found]:
    """The exports in ``folders`` and below them, each once; a folder without any for itself, so that it is not taken
    for a good one. Raises UsageError and Cancelled."""
    found: dict[object, Found] = {}
    with cli.output.working("Looking for exports ..."):
        for path in folders:
            for item in list(exports_below(path, cancel=cli.cancel)) or [Found(path)]:
                found.setdefault(_identity(item.path), item)
    return list(found.values())


def _identity(path: Path) -> object:
    """The same for two names of one folder."""
    try:
        facts = path.stat()
    except OSError:
        return path
    return facts.st_dev, facts.st_ino


def verify_all(cli: Cli, found: Sequence[Found]) -> None:
    """Verifies all. Raises IntegrityError ``verify_failed`` where one differs, after all were verified."""
    began = time.monotonic()
    reports = []
    with _verified(cli, found) as results:
        for report in results:
            reports.append(report)
            if not cli.output.live:
                _show(cli, report)
    for report in reports if cli.output.live else ():  # the display is gone
        _show(cli, report)
    _show_totals(cli, reports, time.monotonic() - began)
    bad = [report for report in reports if not report.ok]
    if bad:
        raise IntegrityError(
            f"{len(bad)} of {count(len(reports), 'export')} differ from their records"
            if len(bad) > 1
            else f"1 of {count(len(reports), 'export')} differs from its records",
            code=VERIFY_FAILED,
            failed=[{"folder": str(report.folder), "code": report.findings[0].code} for report in bad],
        )


@contextmanager
def _verified(cli: Cli, found: Sequence[Found]) -> Iterator[Iterator[VerifyReport]]:
    """The reports, in the order of ``found``, as soon as each is there; with progress. What still runs when the block
    ends, or when the output cannot be written any more, is stopped."""
    stop = cli.cancel.child()
    works = [_Work(item, stop) for item in found]
    at_a_time = min(len(os.sched_getaffinity(0)), MAX_AT_A_TIME)
    with watching(cli.output, brief=True) as observer:

        def observe(machines: Sequence[ExportProgress]) -> None:
            try:
                observer(machines)
            except OutputStopped:  # mostly in the display's thread: the block has to end
                stop.cancel("the results cannot be written")

        try:
            with (
                ticking([work.progress for work in works], observe, TICK_S),
                ThreadPoolExecutor(at_a_time, thread_name_prefix="verify") as pool,
            ):
                try:
                    yield pool.map(_Work.run, works)
                finally:
                    stop.cancel("the results are not needed")
        except Cancelled:
            if cli.output.failure is not None:
                raise OutputStopped from None
            raise


class _Work:
    """One folder: its progress, seen by the display's thread, and its report."""

    def __init__(self, found: Found, cancel: CancelToken) -> None:
        self._found = found
        self._cancel = cancel
        self._name = found.path.absolute().name
        self._size_bytes = _size_of(found.path)
        self._now = ExportProgress(machine=self._name)

    def progress(self) -> ExportProgress:
        """As one disk of the folder's size, so that all folders together have a percentage."""
        now = self._now
        whole = DiskProgress(label=self._name, phase=now.phase, capacity_bytes=self._size_bytes, fraction=now.fraction)
        return replace(now, disks=(whole,))

    def run(self) -> VerifyReport:
        """Raises Cancelled."""
        self._cancel.check()
        began = time.monotonic()
        report = self._verified()
        self._now = replace(
            self._now,
            phase=Phase.DONE if report.ok else Phase.FAILED,
            fraction=1.0,
            elapsed_s=time.monotonic() - began,
        )
        return report

    def _verified(self) -> VerifyReport:
        path, why = self._found.path, self._found.unreadable
        if why is None:
            try:
                progress = FolderProgress(self._name, self._size_bytes, self._see)
                return verify_export(path, cancel=self._cancel, observer=progress)
            except UsageError as error:  # removed, or made unreadable, since it was found
                why = error.message
        return VerifyReport(
            path, None, (Finding(VERIFY_UNREADABLE, f"the folder cannot be read: {why}"),), (), (), 0, 0.0
        )

    def _see(self, machines: Sequence[ExportProgress]) -> None:
        self._now = machines[0]


def _show(cli: Cli, report: VerifyReport) -> None:
    if cli.output.json_lines:
        _send(cli, report)
        return
    name = (clean(report.machine or report.folder.absolute().name, 100), "bold")
    folder = (f"  {clean(str(report.folder), 400)}", "dim")
    if report.ok:
        sizes_only = f", {len(report.unchecked)} compared by size only" if report.unchecked else ""
        facts = f"{count(len(report.checked), 'file')} as written, {format_size(report.bytes_read)}{sizes_only}"
        mark = ("✔ ", "bold green")
    else:
        first, more = report.findings[0], len(report.findings) - 1
        facts = f"{clean(first.message, 200)} ({first.code})" + (f" and {more} more" if more else "")
        mark = ("✘ ", "bold red")
    show_line(cli.output, Text.assemble(mark, name, f"  {facts}", folder))


def _show_totals(cli: Cli, reports: Sequence[VerifyReport], elapsed_s: float) -> None:
    bad = sum(not report.ok for report in reports)
    read = sum(report.bytes_read for report in reports)
    if cli.output.json_lines:
        facts = {"exports": len(reports), "good": len(reports) - bad, "failed": bad, "bytes_read": read}
        cli.output.event("totals", {**facts, "elapsed_s": round(elapsed_s, 3)})
        return
    took = f"{format_size(read)} read in {format_duration(elapsed_s)}"
    rate = f" ({format_rate(read / elapsed_s)})" if elapsed_s else ""
    counts = f"{len(reports) - bad:,} as written" + (f", {bad:,} not" if bad else "")
    text = f"{'✘' if bad else '✔'} {count(len(reports), 'export')}: {counts}; {took}{rate}"
    cli.output.print(Text(text, style=f"bold {'red' if bad else 'green'}"))
