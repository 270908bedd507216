"""All machines of all datacenters, in one paged retrieval; and finding one by a selector."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Final

from hypersdk.errors import LookupFailed, register
from hypersdk.model import DiskSummary, MachineSummary, Power
from hypersdk.remedies import First, Look, Retry
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import KiB, MiB
from hypersdk.vsphere.paths import Place, datacenter_of, decode_name, encode_name, inventory_path
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.soap import (
    PAGE_SIZE,
    Element,
    ObjectProperties,
    child_text,
    filter_spec,
    kind_of,
    read_inventory,
    read_objects,
    to_int,
    traversal,
)

AMBIGUOUS: Final = register(
    "ambiguous",
    "More than one machine has that name or UUID.",
    First("name it by its inventory path or its moref"),
    Retry(),
    Look("machines"),
)

PLACES: Final = {
    "Folder": ("name", "parent"),
    "Datacenter": ("name", "parent"),
    "VirtualApp": ("name", "parentFolder", "parentVApp"),
}
AROUND: Final = {**PLACES, "HostSystem": ("name",)}
"""What is read with machines: their places and hosts."""
ROW: Final = (
    "name", "parent", "parentVApp", "config.uuid", "config.instanceUuid", "config.template", "config.guestFullName",
    "config.hardware.numCPU", "config.hardware.memoryMB", "runtime.powerState", "runtime.host",
    "summary.config.numVirtualDisks", "summary.storage.committed", "summary.storage.uncommitted",
)  # fmt: skip
DEVICES: Final = "config.hardware.device"
_POWER: Final = {"poweredOn": Power.ON, "poweredOff": Power.OFF, "suspended": Power.SUSPENDED}
_MAX_CANDIDATES: Final = 10


@dataclass(slots=True)
class Inventory:
    """The objects read. ``rows`` are machines (moref, values of ``ROW``, disks) whose paths are assembled once all
    places are known."""

    rows: list[tuple[str, dict[str, str | None], tuple[DiskSummary, ...]]] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)

    def add(self, item: ObjectProperties) -> None:
        """Takes in one object; those of other types are ignored."""
        if item.kind == "VirtualMachine":
            values = {path: item.text(path) for path in ROW}
            self.rows.append((item.moref, values, disk_summaries(item.items(DEVICES))))
        elif item.kind == "HostSystem":
            self.hosts[item.moref] = decode_name(item.text("name") or item.moref)
        elif item.kind in PLACES:
            self.places[item.moref] = location_of(item)

    def machines(self) -> list[MachineSummary]:
        """All machines, sorted by path."""
        rows = (summary_of(*row, self.places, self.hosts) for row in self.rows)
        return sorted(rows, key=lambda machine: machine.path)


def list_machines(
    session: Session,
    *,
    cancel: CancelToken,
    on_count: Callable[[int], None] | None = None,
    disks: bool = False,
    page_size: int = PAGE_SIZE,
) -> list[MachineSummary]:
    """All machines and templates, sorted by path. ``on_count`` is called with the number so far, page by page.

    One container view, one retrieval in pages: pages + 2 calls in all. With ``disks`` the device lists are read too,
    which are four times as much data as everything else.
    """
    return session.call(lambda: _collect(session, cancel, on_count, disks=disks, page_size=page_size)).machines()


def _collect(
    session: Session, cancel: CancelToken, on_count: Callable[[int], None] | None, *, disks: bool, page_size: int
) -> Inventory:
    found = Inventory()
    paths = {**AROUND, "VirtualMachine": (*ROW, DEVICES) if disks else ROW}
    with closing(read_inventory(session, paths, cancel=cancel, page_size=page_size)) as objects:
        for item in objects:
            found.add(item)
            if on_count is not None and item.kind == "VirtualMachine" and len(found.rows) % page_size == 0:
                on_count(len(found.rows))
    if on_count is not None:
        on_count(len(found.rows))
    return found


def to_places() -> list[Any]:
    """The traversals from a machine to its folders (up to the root) and its host."""
    return [
        traversal("ManagedEntity", "parent", name="up", then=["up", "app", "appFolder"]),
        traversal("VirtualMachine", "parentVApp", name="vm", then=["up", "app", "appFolder"]),
        traversal("VirtualApp", "parentVApp", name="app", then=["app", "appFolder"]),
        traversal("VirtualApp", "parentFolder", name="appFolder", then=["up"]),
        traversal("VirtualMachine", "runtime.host"),
    ]


def add_disks(
    session: Session, machines: Sequence[MachineSummary], *, cancel: CancelToken, page_size: int = PAGE_SIZE
) -> list[MachineSummary]:
    """``machines`` with their ``disks``, in a call for each page of them. Raises LookupFailed ``object_gone`` where one
    was removed since it was read."""
    pages = [machines[start : start + page_size] for start in range(0, len(machines), page_size)]
    disks = {moref: listed for page in pages for moref, listed in _read_disks(session, page, cancel)}
    return [
        replace(machine, disks=disks[machine.moref], disk_count=len(disks[machine.moref]))
        for machine in machines
        if machine.moref in disks
    ]


def _read_disks(
    session: Session, machines: Sequence[MachineSummary], cancel: CancelToken
) -> list[tuple[str, tuple[DiskSummary, ...]]]:
    def read() -> list[tuple[str, tuple[DiskSummary, ...]]]:
        roots = [session.ref("VirtualMachine", machine.moref) for machine in machines]
        objects = read_objects(session, filter_spec(roots, {"VirtualMachine": (DEVICES,)}), cancel=cancel)
        return [(item.moref, disk_summaries(item.items(DEVICES))) for item in objects]

    return session.call(read)


def location_of(item: ObjectProperties) -> Place:
    """A Folder, Datacenter or VirtualApp as a step of a path. A vApp is in a folder or in another vApp."""
    parent = item.text("parent") or item.text("parentFolder") or item.text("parentVApp")
    return Place(item.text("name") or item.moref, parent, item.kind)


def disk_summaries(devices: Iterable[Element]) -> tuple[DiskSummary, ...]:
    """Label and capacity of each virtual disk in a device list, in unit order."""
    disks = [device for device in devices if kind_of(device) == "VirtualDisk"]
    disks.sort(key=unit_order)
    return tuple(
        DiskSummary(child_text(disk, "deviceInfo", "label") or f"disk {child_text(disk, 'key')}", capacity_bytes(disk))
        for disk in disks
    )


def unit_order(disk: Element) -> tuple[int, ...]:
    """Sorts disks by controller, then by unit: the order of their file names."""
    return tuple(to_int(child_text(disk, name)) or 0 for name in ("controllerKey", "unitNumber", "key"))


def capacity_bytes(disk: Element) -> int:
    """``capacityInBytes`` (since 5.5), else ``capacityInKB``."""
    exact = to_int(child_text(disk, "capacityInBytes"))
    return exact if exact else (to_int(child_text(disk, "capacityInKB")) or 0) * KiB


def power_of(text: str | None) -> Power:
    """A ``VirtualMachinePowerState``."""
    return _POWER.get(text or "", Power.UNKNOWN)


def summary_of(
    moref: str,
    values: dict[str, str | None],
    disks: tuple[DiskSummary, ...],
    places: dict[str, Place],
    hosts: dict[str, str],
) -> MachineSummary:
    """One row, from the values of the properties ``ROW`` and the places and hosts read with them."""
    parent = values["parent"] or values["parentVApp"]
    name = values["name"] or moref
    host = values["runtime.host"]
    used = to_int(values["summary.storage.committed"])
    return MachineSummary(
        moref=moref,
        name=decode_name(name),
        path=inventory_path(places, parent, name),
        uuid=values["config.uuid"],
        instance_uuid=values["config.instanceUuid"],
        power=power_of(values["runtime.powerState"]),
        cpus=to_int(values["config.hardware.numCPU"]) or 0,
        memory_bytes=(to_int(values["config.hardware.memoryMB"]) or 0) * MiB,
        disks=disks,
        datacenter=datacenter_of(places, parent),
        host=hosts.get(host) if host else None,
        guest_name=values["config.guestFullName"],
        template=values["config.template"] == "true",
        disk_count=len(disks) or to_int(values["summary.config.numVirtualDisks"]) or 0,
        used_bytes=used,
        provisioned_bytes=None if used is None else used + (to_int(values["summary.storage.uncommitted"]) or 0),
    )


def find_machine(machines: Sequence[MachineSummary], selector: str, *, datacenter: str | None = None) -> MachineSummary:
    """The machine that ``selector`` names: moref, BIOS or instance UUID, inventory path (``/DC/vm/..``, with or
    without the leading slash, or relative to a datacenter's ``vm`` folder) or name.

    A name in ``datacenter`` takes precedence over the same name elsewhere. Raises LookupFailed: ``ambiguous`` with the
    candidates, ``not_found`` with similar names.
    """
    wanted = selector.strip()
    found = [machine for machine in machines if _is_meant(machine, selector)]
    found = found or [machine for machine in machines if _is_meant(machine, wanted)]
    if not found:
        found = [machine for machine in machines if machine.name.casefold() == wanted.casefold()]
    if len(found) > 1 and datacenter is not None:
        found = [machine for machine in found if lies_in(machine, datacenter)] or found
    if len(found) == 1:
        return found[0]
    raise _ambiguous(wanted, found) if found else not_found(wanted, [machine.name for machine in machines])


def _is_meant(machine: MachineSummary, wanted: str) -> bool:
    return (
        wanted in (machine.moref, f"VirtualMachine:{machine.moref}", machine.name)
        or wanted.lower() in (machine.uuid, machine.instance_uuid)
        or ("/" in wanted and _path_matches(machine, wanted))
    )


def datacenter_path(machine: MachineSummary) -> str | None:
    """Inventory path of the machine's datacenter (``/DC0``, ``/folder/DC0``): the ``dcPath`` of datastore URLs. None
    when it is not visible."""
    above, below = split_at_vm(machine)
    return "/" + "/".join(above) if below else None


def split_at_vm(machine: MachineSummary) -> tuple[list[str], list[str]]:
    """The path's parts down to the datacenter, and those below its ``vm`` folder (empty when the datacenter is not
    visible)."""
    parts = machine.path.strip("/").split("/")
    root = [encode_name(machine.datacenter or ""), "vm"]
    start = next((i for i in range(len(parts) - 1) if parts[i : i + 2] == root), len(parts))
    return parts[: start + 1], parts[start + 2 :]


def _path_matches(machine: MachineSummary, wanted: str) -> bool:
    """Absolute, absolute without its slash, or below the ``vm`` folder of its datacenter."""
    parts = [encode_name(decode_name(part)) for part in wanted.split("/") if part]
    own = machine.path.strip("/").split("/")
    return parts == own or (not wanted.startswith("/") and parts == split_at_vm(machine)[1])


def lies_in(machine: MachineSummary, datacenter: str) -> bool:
    """Whether ``datacenter`` (a name, or a path as GOVC_DATACENTER may hold) is the machine's."""
    wanted = "/" + datacenter.strip("/")
    return machine.datacenter == datacenter.strip("/") or datacenter_path(machine) == wanted


def _ambiguous(wanted: str, found: Sequence[MachineSummary]) -> LookupFailed:
    shown = ", ".join(f"{machine.path} ({machine.moref})" for machine in found[:_MAX_CANDIDATES])
    return LookupFailed(
        f"'{wanted}' means {len(found)} machines: {shown}",
        code=AMBIGUOUS,
        candidates=[{"path": machine.path, "moref": machine.moref} for machine in found[:_MAX_CANDIDATES]],
    )


def not_found(wanted: str, names: Iterable[str]) -> LookupFailed:
    """The error where no machine is meant; it suggests similar ones of the ``names`` of all machines."""
    name = decode_name(wanted.rstrip("/").rpartition("/")[2])
    near = _similar(name, names)
    hint = f"Did you mean {', '.join(near)}? `hyper2kvm list` shows all." if near else None
    return LookupFailed(f"no machine is called '{wanted}'", next_step=hint, similar=near)


def _similar(name: str, names: Iterable[str]) -> list[str]:
    """Up to three names that contain ``name`` or look like it."""
    folded = name.casefold()
    known = {each.casefold(): each for each in names}
    holding = sorted((key for key in known if folded and folded in key), key=len)
    close = difflib.get_close_matches(folded, known, n=3, cutoff=0.6) if len(holding) < 3 else []
    return [known[key] for key in dict.fromkeys([*holding[:3], *close])][:3]
