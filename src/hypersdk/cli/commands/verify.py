"""`hyper2kvm verify DIR`: checks that an export is complete and unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hypersdk.cli.options import output_options
from hypersdk.cli.programs.groups import Command
from hypersdk.cli.remedies import next_step
from hypersdk.cli.state import Cli, pass_cli
from hypersdk.errors import IntegrityError
from hypersdk.text import clean, count
from hypersdk.units import format_duration, format_size

if TYPE_CHECKING:
    from hypersdk.migration.findings import VerifyReport


@click.command("verify", cls=Command)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@output_options
@pass_cli
def command(cli: Cli, folder: Path) -> None:
    """Check that an export is complete and unchanged, by its manifests.

    Finds a flipped bit, a swapped disk, a missing, extra or truncated file and a wrong manifest line, each with its own
    code. Fails with status 8 if there is a finding. With --json: events of type progress, verified and error.
    """
    raise_for_findings(verify_folder(cli, folder))


def verify_folder(cli: Cli, folder: Path) -> VerifyReport:
    """Verifies with live progress and shows the result; the caller raises the findings."""
    from hypersdk.cli.progress import FolderProgress, watching
    from hypersdk.migration.verify import verify_directory

    with watching(cli.output, brief=True) as observer:
        progress = FolderProgress(folder.absolute().name, _size_of(folder), observer)
        report = verify_directory(folder, cancel=cli.cancel, observer=progress)
    if cli.output.json_lines:
        cli.output.event("verified", {**report.as_dict(), "findings": _findings(report)})
    else:
        _show(cli, report)
    return report


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


def _show(cli: Cli, report: VerifyReport) -> None:
    from rich.text import Text

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
