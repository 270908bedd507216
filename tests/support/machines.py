"""Machines made from nothing, for tests of pure code."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypersdk.model import (
    Backing,
    Cdrom,
    Disk,
    DiskSummary,
    Firmware,
    GuestFacts,
    Machine,
    MachineSummary,
    Nic,
    Power,
    SnapshotNode,
)
from hypersdk.units import GiB


def make_disk(number: int = 1, **changes: Any) -> Disk:
    """A thin 8 GiB disk at SCSI 0:<number - 1>."""
    disk = Disk(
        key=1999 + number,
        label=f"Hard disk {number}",
        capacity_bytes=8 * GiB,
        bus="scsi",
        controller="pvscsi",
        controller_key=1000,
        bus_number=0,
        unit_number=number - 1,
        backing=Backing.FLAT,
        file=f"[ds1] vm/vm_{number}.vmdk",
        chain=(f"[ds1] vm/vm_{number}.vmdk",),
        datastore="ds1",
        thin=True,
        independent=False,
        shared=False,
        encrypted=False,
        change_id=None,
        uuid=None,
        used_bytes=GiB,
    )
    return replace(disk, **changes)


def make_snapshot(name: str = "before", **changes: Any) -> SnapshotNode:
    """A root snapshot."""
    node = SnapshotNode("snapshot-7", name, "", datetime(2026, 1, 2, tzinfo=UTC), 0, True, False, Power.OFF)
    return replace(node, **changes)


def make_machine(
    name: str = "web-01", *, power: Power = Power.OFF, disks: tuple[Disk, ...] | None = None, **changes: Any
) -> Machine:
    """A powered-off Linux machine with one disk, one network card and an empty CD-ROM drive."""
    disks = (make_disk(),) if disks is None else disks
    summary = MachineSummary(
        moref="vm-42",
        name=name,
        path=f"/DC0/vm/{name}",
        uuid="42000000-0000-0000-0000-000000000001",
        instance_uuid="52000000-0000-0000-0000-000000000001",
        power=power,
        cpus=2,
        memory_bytes=4 * GiB,
        disks=tuple(DiskSummary(disk.label, disk.capacity_bytes) for disk in disks),
        datacenter="DC0",
        host="esx1.example.com",
        guest_name="Debian GNU/Linux 12 (64-bit)",
        template=False,
        disk_count=len(disks),
        used_bytes=None,
        provisioned_bytes=None,
    )
    machine = Machine(
        summary=summary,
        firmware=Firmware.BIOS,
        secure_boot=False,
        guest=GuestFacts("debian12_64Guest", "Debian GNU/Linux 12", "web-01", ("192.0.2.10",), True, "12345"),
        guest_id="debian12_64Guest",
        hardware_version="vmx-19",
        cores_per_socket=1,
        disks=disks,
        nics=(Nic(4000, "Network adapter 1", "00:50:56:00:00:01", "VM Network", "vmxnet3", True),),
        cdroms=(Cdrom(3000, "CD/DVD drive 1", None, False),),
        snapshots=(),
        boot_order=(),
        cbt_enabled=False,
        change_version="v1",
        boot_time=None,
        consolidation_needed=False,
        busy_with=None,
        has_vtpm=False,
        encrypted=False,
        unreachable_datastores=(),
        annotation=None,
        vmx_file="[ds1] vm/vm.vmx",
    )
    return replace(machine, **changes)
