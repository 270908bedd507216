"""Machines as the commands show them: rows for people, objects for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hypersdk.cli.state import Cli
from hypersdk.cli.text import clean, count
from hypersdk.model import Machine, MachineSummary
from hypersdk.units import format_size

if TYPE_CHECKING:
    from rich.table import Table

    from hypersdk.vsphere.session import Session


def read_inventory(cli: Cli, session: Session) -> list[MachineSummary]:
    """All machines, of one datacenter if the endpoint names one, with a count that grows while they come."""
    from hypersdk.vsphere.inventory import list_machines

    with cli.output.working("Reading the inventory ...") as show:
        machines = list_machines(
            session,
            cancel=cli.cancel,
            on_count=lambda number: show(f"Reading the inventory: {count(number, 'machine')} ..."),
        )
    wanted = session.endpoint.datacenter
    return [machine for machine in machines if wanted is None or machine.datacenter == wanted]


def summary_object(machine: MachineSummary) -> dict[str, Any]:
    """One machine for ``list --json``. ``path`` can be used as ``vm_path`` in a job file."""
    return {
        "name": machine.name, "moref": machine.moref, "path": machine.path, "uuid": machine.uuid, "power": machine.power.value,
        "cpus": machine.cpus, "memory_bytes": machine.memory_bytes,
        "disks": [{"label": disk.label, "capacity_bytes": disk.capacity_bytes} for disk in machine.disks],
        "capacity_bytes": machine.capacity_bytes, "used_bytes": machine.used_bytes, "instance_uuid": machine.instance_uuid,
        "datacenter": machine.datacenter, "host": machine.host, "guest": machine.guest_name, "template": machine.template,
    }  # fmt: skip


def machine_object(machine: Machine) -> dict[str, Any]:
    """One machine for ``inspect --json``: its row, and every other field of the record under the record's own names."""
    fields = asdict(machine)
    del fields["summary"]
    return {**summary_object(machine.summary), **fields}


def list_table(machines: Sequence[MachineSummary], width: int) -> Table:
    """A table that fits ``width`` columns: what matters less is left out first."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("Name", overflow="fold", min_width=12)
    table.add_column("Power")
    table.add_column("CPU", justify="right")
    table.add_column("Memory", justify="right", no_wrap=True)
    table.add_column("Disks", justify="right", no_wrap=True)
    guest, folder = width >= 90, width >= 120
    if guest:
        table.add_column("Guest", overflow="ellipsis", no_wrap=True, max_width=32)
    if folder:
        table.add_column("Folder", overflow="fold", style="dim")
    for machine in machines:
        cells = [
            Text(clean(machine.name, 200), style="bold"),
            Text(machine.power.value, style={"on": "green", "suspended": "yellow"}.get(machine.power.value, "dim")),
            Text(str(machine.cpus)),
            Text(format_size(machine.memory_bytes)),
            Text(format_size(machine.capacity_bytes)),
        ]
        cells += [Text(clean(machine.guest_name or "", 80))] if guest else []
        cells += [Text(clean(machine.path.rpartition("/")[0], 200))] if folder else []
        table.add_row(*cells)
    return table
