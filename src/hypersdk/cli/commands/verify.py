"""`hyper2kvm verify DIR`: checks that an export is complete and unchanged."""

from __future__ import annotations

from pathlib import Path

import click

from hypersdk.cli.options import output_options
from hypersdk.cli.programs.groups import Command
from hypersdk.cli.state import Cli, pass_cli


@click.command("verify", cls=Command)
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@output_options
@pass_cli
def command(cli: Cli, folders: tuple[Path, ...]) -> None:
    """Check that exports are complete and unchanged, by their manifests.

    Each DIR is the folder of an export, or one with exports below it, which are verified in parallel. Finds a flipped
    bit, a swapped disk, a missing, extra or truncated file and a wrong manifest line, each with its own code. Fails
    with status 8 if there is a finding.

    With --json: events of type progress, total, verified, totals, warning and error, one a line.
    """
    from hypersdk.cli.verifying import found_in, raise_for_findings, verify_all, verify_folder

    found = found_in(cli, folders)
    if [item.path for item in found] == [folders[0]]:
        raise_for_findings(verify_folder(cli, folders[0]))
    else:
        verify_all(cli, found)
