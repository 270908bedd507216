"""`--report FILE` of `migrate` and `import`: a page for the run, and one in the folder of each machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from hypersdk.cli.reportfile import check_report_file
from hypersdk.cli.state import Cli
from hypersdk.errors import TargetError
from hypersdk.landing.report import MachineReport, run_page, write_machine_report
from hypersdk.transfer.files import write_atomic


def check_report(path: Path | None) -> None:
    """Raises UsageError and TargetError for a file that cannot be written; to be called before anything starts."""
    if path is not None:
        check_report_file(path, (".html",))


def write_reports(cli: Cli, path: Path, reports: Sequence[MachineReport], *, began: datetime, elapsed_s: float) -> None:
    """Writes the pages. One that cannot be written is a warning: what was done stays done."""
    for report in reports:
        if report.folder.is_dir():
            _attempt(cli, partial(write_machine_report, report))
    page = run_page(reports, began=began, elapsed_s=elapsed_s, place=path.absolute().parent)
    _attempt(cli, partial(write_atomic, path.absolute(), page.encode("utf-8", "backslashreplace")))
    if cli.output.json_lines:
        cli.output.event("report", {"file": path})
    else:
        cli.output.note(f"Report: {path}", style="dim")


def _attempt(cli: Cli, write: Callable[[], object]) -> None:
    try:
        write()
    except TargetError as error:
        cli.output.warn(f"a report was not written: {error.message}")
