"""`hyper2kvm list` and `hyper2kvm inspect`: the machines of a vCenter or ESXi host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from hypersdk.cli.options import complete_machine, connection_options, output_options
from hypersdk.cli.programs.groups import Command
from hypersdk.cli.state import Cli, pass_cli
from hypersdk.loading import loading
from hypersdk.text import clean, count
from hypersdk.units import format_size

if TYPE_CHECKING:
    from hypersdk.model import Machine, MachineSummary

SORTS = ("path", "name", "power", "cpus", "memory", "size", "used", "guest", "host")


@click.command("list", cls=Command)
@click.option(
    "--filter",
    "query",
    metavar="WORDS",
    default="",
    help=(
        "Only machines whose name, path, guest or host contains all these words. In names, letters may be skipped:"
        " pweb2 finds prod-web-02."
    ),
)
@click.option(
    "--sort",
    type=click.Choice(SORTS),
    default="path",
    help="Sort order: sizes descending, texts ascending.",
    show_default=True,
)
@click.option("--disks", is_flag=True, help="Read the list of each machine's disks too, which takes longer.")
@output_options
@connection_options
@pass_cli
def list_(cli: Cli, query: str, sort: str, *, disks: bool) -> None:
    """List the virtual machines of a vCenter or ESXi host, in all its datacenters.

    Size is the provisioned space: what a machine's files may grow to on its datastores, thin disks counted in full,
    snapshots and swap included. With --disks, the capacity of each disk is shown too.

    With --json, one object a line: name, moref, path, uuid, power, cpus, memory_bytes, disk_count, provisioned_bytes,
    used_bytes and more; with --disks also disks and capacity_bytes, their sum. The path can be given to
    `hyper2kvm export`, and used as vm_path in a job file.
    """
    with loading():
        from hypersdk.cli.connect import connected
        from hypersdk.cli.machines import read_inventory, with_disks
        from hypersdk.cli.picker.search import Index, sort_machines

    with connected(cli) as session:
        machines = sort_machines(read_inventory(cli, session, disks=disks and not query), sort)
        shown = machines
        if query:
            shown = [machines[at] for at in sorted(Index(machines).search(query))]
            shown = with_disks(cli, session, shown) if disks else shown
    _show(cli, shown, len(machines), disks=disks)


def _show(cli: Cli, machines: Sequence[MachineSummary], total: int, *, disks: bool) -> None:
    from hypersdk.cli.machines import list_table, summary_object

    if cli.output.json_lines:
        for machine in machines:
            cli.output.row(summary_object(machine, disks=disks))
        return
    if not machines:
        cli.output.note(f"None of {count(total, 'machine')} matches." if total else "There are no machines.")
        return
    cli.output.print(list_table(machines, cli.output.width, disks=disks))
    sizes = f"{format_size(sum(machine.provisioned_bytes or 0 for machine in machines))} provisioned"
    if disks:
        sizes += f", {format_size(sum(machine.capacity_bytes for machine in machines))} of disks"
    of_all = "" if len(machines) == total else f" of {total:,}"
    cli.output.note(f"{count(len(machines), 'machine')}{of_all}, {sizes}")


@click.command("inspect", cls=Command)
@click.argument("machine", metavar="VM", shell_complete=complete_machine)
@output_options
@connection_options
@pass_cli
def inspect(cli: Cli, machine: str) -> None:
    """Show one machine: disks, networks, snapshots, and obstacles to an export.

    VM is a name, an inventory path, a moref like vm-42, or a UUID. If several machines have
    the name, the command fails and lists them.
    """
    from hypersdk.cli.connect import connected
    from hypersdk.cli.machines import machine_object, read_one
    from hypersdk.vsphere.machine import read_machine

    with connected(cli) as session:
        facts = read_machine(session, read_one(cli, session, machine).moref)
    if cli.output.json_lines:
        cli.output.row(machine_object(facts))
    else:
        _show_machine(cli, facts)


def _show_machine(cli: Cli, machine: Machine) -> None:
    from rich.text import Text

    from hypersdk.cli.picker.details import facts_table, machine_facts, summary_facts

    cli.output.print(Text(clean(machine.name, 200), style="bold"))
    facts = [*summary_facts(machine.summary), *machine_facts(machine)]
    if machine.annotation:
        facts.append(("notes", Text(clean(machine.annotation.replace("\n", " "), 500))))
    cli.output.print(facts_table(facts))
