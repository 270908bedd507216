"""`hyper2kvm import`: lands exports and local packages on KVM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hypersdk.cli.commands.migrate import request_of
from hypersdk.cli.landoptions import DEFAULT_CONVERSIONS, land_options, max_conversions
from hypersdk.cli.options import output_options
from hypersdk.cli.programs.groups import Command
from hypersdk.cli.state import Cli, pass_cli
from hypersdk.errors import UsageError


@click.command("import", cls=Command)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=click.Path(path_type=Path))
@land_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help=(
        "Folder for the images of a package (default: ./NAME). Several packages get a folder each below it. Not for an"
        " export, whose images stay in its folder."
    ),
)
@click.option("--cpus", type=click.IntRange(1, 1024), metavar="N", help="CPUs (default: as SOURCE says).")
@click.option("--memory", metavar="SIZE", help="Memory, like 4GiB (default: as SOURCE says).")
@click.option(
    "--source-off",
    is_flag=True,
    help="The source is off, or does not exist any more: start the landed machine with its MAC addresses.",
)
@click.option("--new-macs", is_flag=True, help="Give the landed machine new MAC addresses.")
@max_conversions
@click.option("--yes", is_flag=True, help="Start several imports without asking, also not for networks.")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@output_options
@pass_cli
def command(cli: Cli, /, sources: tuple[Path, ...], **flags: Any) -> None:
    """Land exports, or local packages or images, on libvirt.

    A SOURCE is the folder of an export, or an OVF, OVA, VMDK, qcow2 or raw file, of which qcow2 images are made first.
    No login to vSphere is needed. The same command again goes on at the first step that is not done. If one fails, what
    was changed at the target for it is undone, and the others go on.

    With --json: events of type plan, progress, total, result, totals, report, warning and error, one a line.
    """
    if flags["source_off"] and flags["new_macs"]:
        raise UsageError("--source-off and --new-macs exclude each other")
    if flags["output"] is not None and all(source.is_dir() for source in sources):
        raise UsageError("-o has no effect: the images of an export stay in its folder")
    request = request_of(flags, new_macs=flags["new_macs"])
    from hypersdk.cli.importing import ImportChoices, import_sources

    names = ("output", "source_off", "dry_run", "yes", "report")
    choices = ImportChoices(
        own_folders=len(sources) > 1,
        max_conversions=flags["max_conversions"] or DEFAULT_CONVERSIONS,
        **{name: flags[name] for name in names},
    )
    import_sources(cli, sources, request, choices)
