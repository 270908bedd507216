"""All properties of one machine, and its datastores."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from hypersdk.errors import AccessError, LookupFailed, Refused, register
from hypersdk.model import Disk, DiskSummary, Firmware, GuestFacts, Machine, SnapshotNode
from hypersdk.remedies import First, Retry
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.devices import boot_order, read_hardware
from hypersdk.vsphere.faults import OBJECT_GONE, clean_text
from hypersdk.vsphere.inventory import AROUND, DEVICES, PLACES, ROW, location_of, power_of, summary_of, to_places
from hypersdk.vsphere.paths import decode_name
from hypersdk.vsphere.session import NEVER, Session
from hypersdk.vsphere.soap import (
    Element,
    ObjectProperties,
    child_text,
    children,
    filter_spec,
    parse_time,
    read_linked,
    read_list,
    read_one,
    to_int,
    traversal,
)
from hypersdk.vsphere.tasks import RUNNING

MACHINE_UNREADABLE: Final = register(
    "machine_unreadable",
    "vCenter has no configuration for this machine: it is orphaned, inaccessible or its host is disconnected.",
    First("reconnect its host and datastore, or register the machine again"),
    Retry(),
)

_DETAIL: Final = (
    *ROW, DEVICES, "config.guestId", "config.version", "config.firmware", "config.bootOptions",
    "config.hardware.numCoresPerSocket", "config.changeVersion", "config.changeTrackingEnabled", "config.annotation",
    "config.files.vmPathName", "config.keyId", "runtime.bootTime", "runtime.connectionState",
    "runtime.consolidationNeeded", "snapshot", "layoutEx", "guest.toolsRunningStatus", "guest.toolsVersion",
    "guest.guestId", "guest.guestFullName", "guest.hostName", "guest.ipAddress", "guest.net",
)  # fmt: skip
SNAPSHOT_PATHS: Final = tuple(
    path
    for path in _DETAIL
    if path.startswith("config.") and path not in ("config.changeVersion", "config.files.vmPathName")
)
"""Properties that a snapshot has too."""
_NETWORKS: Final = {"Network": ("name",), "DistributedVirtualPortgroup": ("name", "key"), "OpaqueNetwork": ("name",)}
DATASTORE: Final = ("name", "summary.accessible", "summary.capacity", "summary.freeSpace")
_TASK: Final = ("info.state", "info.descriptionId")
_DISK_FILES: Final = frozenset({"diskExtent", "diskDescriptor", "digestDescriptor", "diskReplicationPersistentState"})
_MAX_SNAPSHOTS: Final = 1024
UNKNOWN_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Creation time of a snapshot for which the server does not report one."""


@dataclass(frozen=True, slots=True)
class DatastoreFacts:
    """One datastore of a machine."""

    moref: str
    name: str
    capacity_bytes: int | None
    free_bytes: int | None
    accessible: bool


def read_machine(session: Session, moref: str, *, snapshot: str | None = None, cancel: CancelToken = NEVER) -> Machine:
    """All properties of one machine, with its host, networks, datastores, folders and running tasks, in one call.

    With a ``snapshot`` (its moref), hardware and settings are those of the snapshot, which takes one more call: since
    then a disk may have been added, removed or replaced. Where the server does not return them, they are the current
    ones. Raises LookupFailed ``object_gone``, Refused ``machine_unreadable`` (no configuration).
    """
    found = _read_related(session, moref, cancel)
    machine = _decode(moref, found)
    if snapshot is None:
        return machine
    then = read_one(session, "VirtualMachineSnapshot", snapshot, SNAPSHOT_PATHS, cancel=cancel)
    return machine if DEVICES not in then.values else _as_of(machine, found, then)


def read_datastores(session: Session, moref: str, *, cancel: CancelToken = NEVER) -> list[DatastoreFacts]:
    """The datastores that a machine has files on, by name."""
    found = read_linked(session, "VirtualMachine", moref, "datastore", "Datastore", DATASTORE, cancel=cancel)
    return sorted(map(datastore_facts, found), key=lambda facts: facts.name)


def delta_bytes(session: Session, moref: str, *, cancel: CancelToken = NEVER) -> int:
    """Bytes of the files that a machine writes to while it has a snapshot; 0 without one.

    vCenter caches the sizes of files and the free space of datastores for up to half an hour, so a refresh is requested
    first.
    """
    stores = read_one(session, "VirtualMachine", moref, ["datastore"], cancel=cancel).items("datastore")
    refreshes = [session.ref("VirtualMachine", moref).RefreshStorageInfo]
    refreshes += [session.ref("Datastore", store.text or "").RefreshDatastoreStorageInfo for store in stores]
    for refresh in refreshes:
        # Without the privilege, or on a server without the call, the cached figures are used.
        with suppress(AccessError, Refused, LookupFailed):
            session.call(refresh)
    layout = read_one(session, "VirtualMachine", moref, ["layoutEx"], cancel=cancel).values.get("layoutEx")
    return written_bytes(layout)


def written_bytes(layout: Element | None) -> int:
    """Bytes of the deltas in a ``layoutEx`` that are written to now: those of the last unit of each chain of several.

    *VirtualMachineFileLayoutExDiskLayout*: a chain begins at its root.
    """
    sizes = {child_text(file, "key"): to_int(child_text(file, "size")) or 0 for file in children(layout, "file")}
    chains = [children(disk, "chain") for disk in children(layout, "disk")]
    return sum(sizes.get(key.text, 0) for chain in chains if len(chain) > 1 for key in children(chain[-1], "fileKey"))


@dataclass(slots=True)
class _Related:
    """The objects of one reply."""

    machine: ObjectProperties | None
    by_moref: dict[str, ObjectProperties]

    def names(self, *kinds: str) -> dict[str, str]:
        """Decoded names of all objects of these kinds, by moref."""
        return {
            moref: decode_name(item.text("name") or moref)
            for moref, item in self.by_moref.items()
            if item.kind in kinds
        }


def _read_related(session: Session, moref: str, cancel: CancelToken) -> _Related:
    paths = {
        "VirtualMachine": _DETAIL,
        "Datastore": DATASTORE,
        "Task": _TASK,
        **AROUND,
        **_NETWORKS,
    }
    found = _Related(None, {})
    for item in read_list(
        session, lambda: filter_spec([session.ref("VirtualMachine", moref)], paths, select=_traversals()), cancel=cancel
    ):
        if item.kind == "VirtualMachine":
            found.machine = item
        else:
            found.by_moref[item.moref] = item
    return found


def _traversals() -> list[Any]:
    """From a machine to its folders, host, datastores, networks and recent tasks."""
    return [
        *to_places(),
        traversal("VirtualMachine", "datastore"),
        traversal("VirtualMachine", "network"),
        traversal("VirtualMachine", "recentTask"),
    ]


def _decode(moref: str, found: _Related) -> Machine:
    vm = found.machine
    if vm is None:
        raise LookupFailed(f"the machine {moref} is gone", code=OBJECT_GONE, object=f"VirtualMachine:{moref}")
    if vm.text("config.hardware.numCPU") is None:
        state = vm.text("runtime.connectionState") or "unknown"
        raise Refused(
            f"{decode_name(vm.text('name') or moref)} has no readable configuration (state: {state})",
            code=MACHINE_UNREADABLE,
        )
    layout = vm.values.get("layoutEx")
    hardware = read_hardware(
        vm.items(DEVICES),
        networks=_network_names(found),
        datastores=found.names("Datastore"),
        used=_used_by_disk(layout),
    )
    disks = tuple(DiskSummary(disk.label, disk.capacity_bytes) for disk in hardware.disks)
    options = vm.values.get("config.bootOptions")
    places = {moref: location_of(item) for moref, item in found.by_moref.items() if item.kind in PLACES}
    return Machine(
        summary=summary_of(vm.moref, {path: vm.text(path) for path in ROW}, disks, places, found.names("HostSystem")),
        firmware=Firmware.EFI if vm.text("config.firmware") == "efi" else Firmware.BIOS,
        secure_boot=child_text(options, "efiSecureBootEnabled") == "true",
        guest=_guest(vm),
        guest_id=vm.text("config.guestId"),
        hardware_version=vm.text("config.version"),
        cores_per_socket=vm.number("config.hardware.numCoresPerSocket") or 1,
        disks=hardware.disks,
        nics=hardware.nics,
        cdroms=hardware.cdroms,
        snapshots=snapshot_nodes(vm.values.get("snapshot")),
        boot_order=boot_order(options),
        cbt_enabled=vm.flag("config.changeTrackingEnabled"),
        change_version=vm.text("config.changeVersion"),
        boot_time=parse_time(vm.text("runtime.bootTime")),
        consolidation_needed=vm.flag("runtime.consolidationNeeded"),
        busy_with=_busy_with(found),
        has_vtpm=hardware.has_vtpm,
        encrypted="config.keyId" in vm.values,
        unreachable_datastores=_unreachable(found),
        annotation=vm.text("config.annotation"),
        vmx_file=vm.text("config.files.vmPathName"),
    )


def _as_of(machine: Machine, found: _Related, then: ObjectProperties) -> Machine:
    """``machine`` with the configuration ``then``. The used space of a disk is known where it is still the same
    disk."""
    assert found.machine is not None
    values = {path: value for path, value in found.machine.values.items() if path not in SNAPSHOT_PATHS} | dict(
        then.values
    )
    as_then = _decode(machine.moref, replace(found, machine=replace(found.machine, values=values)))
    now = {_identity(disk): disk.used_bytes for disk in machine.disks}
    return replace(as_then, disks=tuple(replace(disk, used_bytes=now.get(_identity(disk))) for disk in as_then.disks))


def _identity(disk: Disk) -> tuple[int, int, str | None]:
    return disk.key, disk.capacity_bytes, disk.uuid


def _network_names(found: _Related) -> dict[str, str]:
    """By moref, and for distributed portgroups by the key that a network card names."""
    names = found.names(*_NETWORKS)
    keys = {
        item.text("key"): names[moref]
        for moref, item in found.by_moref.items()
        if item.kind == "DistributedVirtualPortgroup"
    }
    return names | {key: name for key, name in keys.items() if key}


def _unreachable(found: _Related) -> tuple[str, ...]:
    stores = [datastore_facts(item) for item in found.by_moref.values() if item.kind == "Datastore"]
    return tuple(sorted(store.name for store in stores if not store.accessible))


def datastore_facts(item: ObjectProperties) -> DatastoreFacts:
    """From the properties ``DATASTORE``."""
    return DatastoreFacts(
        moref=item.moref,
        name=decode_name(item.text("name") or item.moref),
        capacity_bytes=item.number("summary.capacity"),
        free_bytes=item.number("summary.freeSpace"),
        accessible=item.flag("summary.accessible"),
    )


def _busy_with(found: _Related) -> str | None:
    """The operation of a queued or running task of the machine, like ``VirtualMachine.createSnapshot``."""
    tasks = (item for item in found.by_moref.values() if item.kind == "Task" and item.text("info.state") in RUNNING)
    return next((clean_text(task.text("info.descriptionId") or task.moref) for task in tasks), None)


def _guest(vm: ObjectProperties) -> GuestFacts:
    addresses = [vm.text("guest.ipAddress") or ""]
    for card in vm.items("guest.net"):
        addresses += [address.text or "" for address in children(card, "ipAddress")]
    return GuestFacts(
        os_id=vm.text("guest.guestId"),
        os_name=vm.text("guest.guestFullName"),
        hostname=vm.text("guest.hostName"),
        addresses=tuple(dict.fromkeys(address for address in addresses if address)),
        tools_running=vm.text("guest.toolsRunningStatus") == "guestToolsRunning",
        tools_version=vm.text("guest.toolsVersion"),
    )


def snapshot_nodes(info: Element | None) -> tuple[SnapshotNode, ...]:
    """The snapshots in the property ``snapshot`` of a machine, parents first."""
    current = child_text(info, "currentSnapshot")
    found: list[SnapshotNode] = []
    waiting = [(root, 0) for root in reversed(children(info, "rootSnapshotList"))]
    while waiting and len(found) < _MAX_SNAPSHOTS:
        node, depth = waiting.pop()
        found.append(_snapshot(node, depth, current))
        waiting += [(below, depth + 1) for below in reversed(children(node, "childSnapshotList"))]
    return tuple(found)


def _snapshot(node: Element, depth: int, current: str | None) -> SnapshotNode:
    moref = child_text(node, "snapshot") or ""
    return SnapshotNode(
        moref=moref,
        name=decode_name(child_text(node, "name") or ""),
        description=child_text(node, "description") or "",
        created=parse_time(child_text(node, "createTime")) or UNKNOWN_TIME,
        depth=depth,
        current=bool(moref) and moref == current,
        quiesced=child_text(node, "quiesced") == "true",
        power=power_of(child_text(node, "state")),
    )


def _used_by_disk(layout: Element | None) -> dict[int, int]:
    """Bytes that each disk's files take on the datastore, its snapshots' included, from ``layoutEx``."""
    sizes = {
        child_text(file, "key"): to_int(child_text(file, "size")) or 0
        for file in children(layout, "file")
        if child_text(file, "type") in _DISK_FILES
    }
    used: dict[int, int] = {}
    for disk in children(layout, "disk"):
        keys = {item.text for unit in children(disk, "chain") for item in children(unit, "fileKey")}
        used[to_int(child_text(disk, "key")) or 0] = sum(sizes.get(key, 0) for key in keys)
    return used
