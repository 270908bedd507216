"""`hyper2kvm import`: lands an export or a local package on KVM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hypersdk.cli.commands.migrate import request_of
from hypersdk.cli.landoptions import land_options
from hypersdk.cli.options import output_options
from hypersdk.cli.programs.groups import Command
from hypersdk.cli.state import Cli, pass_cli
from hypersdk.errors import UsageError


@click.command("import", cls=Command)
@click.argument("source", type=click.Path(path_type=Path))
@land_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for the images of a package (default: ./NAME). Not for an export, whose images stay in its folder.",
)
@click.option("--cpus", type=click.IntRange(1, 1024), metavar="N", help="CPUs of the machine, where SOURCE has none.")
@click.option("--memory", metavar="SIZE", help="Memory of the machine, like 4GiB, where SOURCE does not say it.")
@click.option(
    "--source-off",
    is_flag=True,
    help="The source is off, or does not exist any more: start the landed machine with its MAC addresses.",
)
@click.option("--new-macs", is_flag=True, help="Give the landed machine new MAC addresses.")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@output_options
@pass_cli
def command(cli: Cli, /, source: Path, **flags: Any) -> None:
    """Land an export, or a local package or image, on libvirt.

    SOURCE is the folder of an export, or an OVF, OVA, VMDK, qcow2 or raw file, of which qcow2 images are made first. No
    login to vSphere is needed. The same command again goes on at the first step that is not done; if it fails, what was
    changed at the target is undone.

    With --json: events of type plan, progress, result, report, warning and error, one a line.
    """
    if flags["source_off"] and flags["new_macs"]:
        raise UsageError("--source-off and --new-macs exclude each other")
    request = request_of(flags, new_macs=flags["new_macs"])
    from hypersdk.cli.importing import ImportChoices, import_source

    choices = ImportChoices(
        flags["output"], source_off=flags["source_off"], dry_run=flags["dry_run"], report=flags["report"]
    )
    import_source(cli, source, request, choices)
