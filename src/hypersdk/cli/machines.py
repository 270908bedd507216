"""Machines in the output of commands: rows for people, objects for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from rich.text import Text

from hypersdk.cli.columns import Column, lay_out, size_text
from hypersdk.cli.machinenames import remember
from hypersdk.cli.selection import Selection, select
from hypersdk.cli.state import Cli
from hypersdk.errors import LookupFailed
from hypersdk.model import Machine, MachineSummary, boot_sequence
from hypersdk.text import clean, count
from hypersdk.units import format_size
from hypersdk.vsphere.inventory import add_disks, lies_in, list_machines
from hypersdk.vsphere.lookup import look_up
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.tags import tagged_machines


def read_inventory(cli: Cli, session: Session, *, disks: bool = False, remembered: bool = True) -> list[MachineSummary]:
    """All machines, of one datacenter if the endpoint names one, with a growing count while they are read; with
    ``disks``, the list of each one's disks too. Their names are ``remembered`` for completion."""
    with cli.output.working("Reading the inventory ...") as show, session.breakable(cli.cancel):
        machines = list_machines(
            session,
            cancel=cli.cancel,
            on_count=lambda number: show(f"Reading the inventory: {count(number, 'machine')} ..."),
            disks=disks,
        )
    if remembered:
        remember(cli.environ, session.endpoint, machines)
    wanted = session.endpoint.datacenter
    return [machine for machine in machines if wanted is None or lies_in(machine, wanted)]


def with_disks(cli: Cli, session: Session, machines: Sequence[MachineSummary]) -> list[MachineSummary]:
    """``machines`` with the lists of their disks."""
    with cli.output.working("Reading the disks ..."), session.breakable(cli.cancel):
        return add_disks(session, machines, cancel=cli.cancel)


def read_selected(
    cli: Cli, session: Session, selection: Selection
) -> tuple[list[MachineSummary], list[MachineSummary]]:
    """The inventory, and its machines that ``selection`` means. Where each is named, only these are read. Raises
    LookupFailed."""
    if selection.by_name_only:
        named = list({machine.moref: machine for machine in _raised(_look_up(cli, session, selection.names))}.values())
        return named, named
    inventory = read_inventory(cli, session)
    tagged: set[str] = set()
    if selection.tags:
        with cli.output.working("Reading the tags ..."):
            tagged = tagged_machines(session, selection.tags, cancel=cli.cancel)
    return inventory, select(inventory, selection, tagged=tagged, warn=cli.output.warn)


def read_named(cli: Cli, session: Session, names: Sequence[str]) -> list[MachineSummary]:
    """The machines that ``names`` mean; the whole inventory where one of them is not found or ambiguous."""
    found = [result for result in _look_up(cli, session, names) if isinstance(result, MachineSummary)]
    return found if len(found) == len(names) else read_inventory(cli, session)


def read_one(cli: Cli, session: Session, name: str) -> MachineSummary:
    """The machine that ``name`` means. Raises LookupFailed."""
    (found,) = _raised(_look_up(cli, session, [name]))
    return found


def _look_up(cli: Cli, session: Session, names: Sequence[str]) -> list[MachineSummary | LookupFailed]:
    with cli.output.working(f"Looking for {count(len(names), 'machine')} ..."), session.breakable(cli.cancel):
        return look_up(session, names, cancel=cli.cancel, only_in=session.endpoint.datacenter)


def _raised(results: Sequence[MachineSummary | LookupFailed]) -> list[MachineSummary]:
    """The machines. Raises the first error."""
    for result in results:
        if isinstance(result, LookupFailed):
            raise result
    return [result for result in results if isinstance(result, MachineSummary)]


def summary_object(machine: MachineSummary, *, disks: bool = False) -> dict[str, Any]:
    """One machine for ``list --json``; with ``disks``, the list of them and the sum of their capacities. ``path`` can
    be used as ``vm_path`` in a job file."""
    listed = [{"label": disk.label, "capacity_bytes": disk.capacity_bytes} for disk in machine.disks]
    return {
        "name": machine.name,
        "moref": machine.moref,
        "path": machine.path,
        "uuid": machine.uuid,
        "power": machine.power.value,
        "cpus": machine.cpus,
        "memory_bytes": machine.memory_bytes,
        "disk_count": machine.disk_count,
        **({"disks": listed, "capacity_bytes": machine.capacity_bytes} if disks else {}),
        "provisioned_bytes": machine.provisioned_bytes,
        "used_bytes": machine.used_bytes,
        "instance_uuid": machine.instance_uuid,
        "datacenter": machine.datacenter,
        "host": machine.host,
        "guest": machine.guest_name,
        "template": machine.template,
    }


def machine_object(machine: Machine) -> dict[str, Any]:
    """One machine for ``inspect --json``: its row, all other fields of the record under their own names, and the keys
    of its disks in boot order (empty if it is not known)."""
    fields = asdict(machine)
    del fields["summary"]
    return {**summary_object(machine.summary, disks=True), **fields, "boot_sequence": boot_sequence(machine)}


def list_table(machines: Sequence[MachineSummary], width: int | None, *, disks: bool = False) -> Text:
    """A table that fits ``width`` columns (None: as wide as needed); less important columns are left out first. With
    ``disks``, a column has the capacity of each disk."""
    columns = (
        Column("Name", least=20),
        Column("Power"),
        Column("CPU", right=True, optional=True),
        Column("Memory", right=True, optional=True),
        Column("Size", right=True),
        *([Column("Disks", least=12)] if disks else []),
        Column("Guest", least=16, optional=True),
        Column("Folder", least=20, optional=True),
    )
    return lay_out(columns, [_row(machine, disks) for machine in machines], width)


_POWER_STYLES: Final = {"on": "green", "suspended": "yellow"}


def _row(machine: MachineSummary, disks: bool) -> list[tuple[str, str]]:
    power = machine.power.value
    return [
        (clean(machine.name, 200), "bold"),
        (power, _POWER_STYLES.get(power, "dim")),
        (str(machine.cpus), ""),
        (format_size(machine.memory_bytes), ""),
        (size_text(machine.provisioned_bytes), ""),
        *([(" + ".join(format_size(disk.capacity_bytes) for disk in machine.disks), "")] if disks else []),
        (clean(machine.guest_name or "", 80), ""),
        (clean(machine.path.rpartition("/")[0], 200), "dim"),
    ]
