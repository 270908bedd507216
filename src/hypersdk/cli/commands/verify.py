"""`hyper2kvm verify DIR`: is the export complete and unchanged?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hypersdk.cli.options import Command, json_option
from hypersdk.cli.state import Cli, pass_cli

if TYPE_CHECKING:
    from hypersdk.migration.findings import VerifyReport


@click.command("verify", cls=Command)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@json_option
@pass_cli
def command(cli: Cli, folder: Path) -> None:
    """Check that an export is complete and unchanged, by its manifests.

    Finds a flipped bit, a swapped disk, a missing, extra or truncated file and a wrong manifest line, each with its own code.
    Fails with status 8 if there is a finding. With --json: events of type progress, verified and error.
    """
    verify_folder(cli, folder).raise_for_findings()


def verify_folder(cli: Cli, folder: Path) -> VerifyReport:
    """Verifies with live progress and tells what was found good; findings are for the caller to raise."""
    from hypersdk.cli.progress import of_one_file, watching
    from hypersdk.migration.verify import verify_directory

    with watching(cli.output) as observer:
        report = verify_directory(
            folder, cancel=cli.cancel, observer=lambda file: observer([of_one_file(folder.name, file)])
        )
    if cli.output.json_lines:
        cli.output.event("verified", report.as_dict())
    else:
        _show(cli, report)
    return report


def _show(cli: Cli, report: VerifyReport) -> None:
    from rich.text import Text

    from hypersdk.cli.text import clean, count
    from hypersdk.units import format_duration, format_size

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
