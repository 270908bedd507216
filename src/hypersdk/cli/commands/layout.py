"""`hyper2kvm layout PATH`: what lies on the disks of an export, and what a guest conversion would refuse."""

from __future__ import annotations

from pathlib import Path

import click

from hypersdk.cli.options import output_options
from hypersdk.cli.programs.groups import Command
from hypersdk.cli.state import Cli, pass_cli


@click.command("layout", cls=Command)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--key-for",
    "keys",
    multiple=True,
    metavar="VOLUME",
    help="Take it that the key of this encrypted volume will be given: its UUID, a name as shown, or all. Repeatable.",
)
@output_options
@pass_cli
def command(cli: Cli, paths: tuple[Path, ...], keys: tuple[str, ...]) -> None:
    """Show what lies on the disks of exports, and what a guest conversion would refuse.

    Each PATH is the folder of an export, a folder with exports below it, an OVA, an OVF or an image (raw, qcow2, VMDK).
    Shown are partitions, file systems, LVM, encryption and boot loaders. A few blocks of each disk are read, nothing is
    changed. Volumes have the names that virt-v2v gives them. Fails with status 6 if a machine would be refused.

    With --json: an event of type layout for each machine.
    """
    from hypersdk.cli.layouts import show_layouts

    show_layouts(cli, paths, keys)
