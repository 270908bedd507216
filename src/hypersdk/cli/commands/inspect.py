"""`hyper2kvm inspect VM`: one machine in full."""

from __future__ import annotations

import click
from rich.text import Text

from hypersdk.cli.connect import connected
from hypersdk.cli.machines import machine_object, read_inventory
from hypersdk.cli.options import connection_options, output_options
from hypersdk.cli.picker.details import facts_table, machine_facts, summary_facts
from hypersdk.cli.programs.groups import Command
from hypersdk.cli.state import Cli, pass_cli
from hypersdk.model import Machine
from hypersdk.text import clean
from hypersdk.vsphere.inventory import find_machine
from hypersdk.vsphere.machine import read_machine


@click.command("inspect", cls=Command)
@click.argument("machine", metavar="VM")
@output_options
@connection_options
@pass_cli
def command(cli: Cli, machine: str) -> None:
    """Show one machine: disks, networks, snapshots, and obstacles to an export.

    VM is a name, an inventory path, a moref like vm-42, or a UUID. If several machines have
    the name, the command fails and lists them.
    """
    with connected(cli) as session:
        found = find_machine(read_inventory(cli, session), machine)
        facts = read_machine(session, found.moref)
    if cli.output.json_lines:
        cli.output.row(machine_object(facts))
    else:
        _show(cli, facts)


def _show(cli: Cli, machine: Machine) -> None:
    cli.output.print(Text(clean(machine.name, 200), style="bold"))
    facts = [*summary_facts(machine.summary), *machine_facts(machine)]
    if machine.annotation:
        facts.append(("notes", Text(clean(machine.annotation.replace("\n", " "), 500))))
    cli.output.print(facts_table(facts))
