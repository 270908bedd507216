"""Facts of one machine, for the pane beside the list and for `hyper2kvm inspect`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from hypersdk.cli.terminal import displayed
from hypersdk.model import Disk, Machine, MachineSummary, SnapshotNode, boot_sequence
from hypersdk.text import clean, count
from hypersdk.units import format_size

_POWER_STYLE = {"on": "green", "off": "dim", "suspended": "yellow", "unknown": "red"}


def summary_facts(machine: MachineSummary) -> Iterator[tuple[str, Text]]:
    """Facts from the inventory: label and value, the most important first."""
    yield "power", Text(machine.power.value, style=_POWER_STYLE[machine.power.value])
    yield "guest", Text(clean(machine.guest_name or "unknown", 100))
    yield "hardware", Text(f"{count(machine.cpus, 'CPU')}, {format_size(machine.memory_bytes)} memory")
    yield "disks", Text(_disk_sum(machine))
    if machine.host:
        yield "host", Text(clean(machine.host, 100))
    yield "path", Text(clean(machine.path, 300))
    yield "moref", Text(clean(machine.moref, 100))
    if machine.uuid:
        yield "uuid", Text(clean(machine.uuid, 100))


def _disk_sum(machine: MachineSummary) -> str:
    sizes = [f"{format_size(machine.capacity_bytes)}"] if machine.disks else []
    for what, size in (("provisioned", machine.provisioned_bytes), ("used", machine.used_bytes)):
        sizes += [] if size is None else [f"{format_size(size)} {what}"]
    return ", ".join([count(machine.disk_count, "disk"), *sizes])


def machine_facts(machine: Machine) -> Iterator[tuple[str, Text]]:
    """Facts that only the full record of a machine has."""
    boot = "UEFI with secure boot" if machine.secure_boot else machine.firmware.value.upper().replace("EFI", "UEFI")
    yield "firmware", Text(boot)
    if len(machine.disks) > 1:
        yield "boots from", Text(_boot_disk(machine))
    for disk in machine.disks:
        yield "disk", disk_text(disk)
    for nic in machine.nics:
        yield "network", Text(clean(f"{nic.mac or 'no MAC'} {nic.adapter} on {nic.network or 'no network'}", 200))
    for cdrom in machine.cdroms:
        if cdrom.iso:
            yield "ISO", Text(clean(cdrom.iso, 200))
    yield "tools", Text("running" if machine.guest.tools_running else "not running")
    if machine.guest.addresses:
        yield "address", Text(clean(", ".join(machine.guest.addresses), 200))
    for snapshot in machine.snapshots:
        yield "snapshot", snapshot_text(snapshot)
    for obstacle in obstacles(machine):
        yield "note", Text(obstacle, style="yellow")


def _boot_disk(machine: Machine) -> str:
    first = next(iter(boot_sequence(machine)), None)
    return next((clean(disk.label, 60) for disk in machine.disks if disk.key == first), "not known")


def disk_text(disk: Disk) -> Text:
    """One disk in one line."""
    used = "" if disk.used_bytes is None else f", {format_size(disk.used_bytes)} used"
    kind = {True: "thin", False: "thick", None: disk.backing.value}[disk.thin]
    where = f"{disk.bus}{disk.bus_number}:{disk.unit_number}"
    return Text(
        f"{clean(disk.label, 60)}: {format_size(disk.capacity_bytes)}{used}, {kind}, {where}"
        f" {clean(disk.controller, 40)}"
    )


def snapshot_text(snapshot: SnapshotNode) -> Text:
    """One snapshot in one line, indented by its depth."""
    here = "  <- the machine runs on it" if snapshot.current else ""
    return Text(
        f"{'  ' * min(snapshot.depth, 32)}{clean(snapshot.name, 100)} ({snapshot.created:%Y-%m-%d %H:%M}){here}"
    )


def obstacles(machine: Machine) -> Iterator[str]:
    """Properties of the machine that prevent or complicate an export."""
    if machine.has_vtpm:
        yield "has a virtual TPM, which stays behind with its keys"
    if machine.busy_with:
        yield f"busy: {clean(machine.busy_with, 100)}"
    if machine.consolidation_needed:
        yield "its disks need consolidation"
    for datastore in machine.unreachable_datastores:
        yield f"datastore {clean(datastore, 100)} is not accessible"
    for disk in machine.disks:
        yield from _disk_obstacles(disk)


def _disk_obstacles(disk: Disk) -> Iterator[str]:
    label = clean(disk.label, 60)
    if disk.encrypted:
        yield f"{label} is encrypted: vSphere does not export it"
    if disk.backing.value == "rdm-physical":
        yield f"{label} is a physical raw device mapping"
    if disk.independent:
        yield f"{label} is independent: not included in snapshots"
    if disk.shared:
        yield f"{label} is shared with other machines"


def facts_table(facts: Sequence[tuple[str, Text]]) -> Table:
    """Two columns; a label that repeats is shown once."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    before = ""
    for label, value in facts:
        written = displayed(value.plain)
        table.add_row("" if label == before else label, value if written == value.plain else Text(written, value.style))
        before = label
    return table
