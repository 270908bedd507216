"""Ejecting ISO images from CD-ROM drives, and re-inserting them.

vSphere exports an inserted image with the machine, and the export fails when its file is missing. While it is ejected,
the drive is a client device, which does not depend on a host.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from hypersdk.errors import HyperSDKError, NotRestored, Refused, SourceError
from hypersdk.model import Machine, split_datastore_path
from hypersdk.remedies import First, Retry, SetOption
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.devices import label_of
from hypersdk.vsphere.faults import FILE_FAULT, clean_text
from hypersdk.vsphere.inventory import DEVICES
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.soap import Element, child, child_text, kind_of, read_one, to_int
from hypersdk.vsphere.tasks import RECONFIGURE_TASK, run_whole_task

LOG: Final = logging.getLogger(__name__)
_ISO: Final = "VirtualCdromIsoBackingInfo"


@dataclass(frozen=True, slots=True)
class CdromChange:
    """A drive with an inserted image, before the change; JSON-able. ``key`` is the device key, ``iso`` is ``[datastore]
    path``.

    ``datastore`` is a moref and ``backing_object`` the id of an object-backed file, where the server returned them. The
    others are the members of *VirtualDeviceConnectInfo* that a client may set.
    """

    key: int
    label: str
    iso: str
    datastore: str | None
    backing_object: str | None
    connected: bool
    start_connected: bool
    allow_guest_control: bool
    migrate_connect: str | None


@dataclass(frozen=True, slots=True)
class _Drive:
    """A drive now; ``iso`` is None when no image is inserted."""

    key: int
    label: str
    controller_key: int | None
    unit_number: int | None
    iso: CdromChange | None


def name_inserted_iso(error: HyperSDKError, machine: Machine) -> None:
    """Sets cause and remedies of ``error`` where the file on which an export failed is an inserted image of
    ``machine``, which must be ejected."""
    if error.code != FILE_FAULT:
        return
    named = str(error.fields.get("file") or error.message)
    for cdrom in machine.cdroms:
        _, path = split_datastore_path(cdrom.iso or "") or ("", "")
        name = clean_text(path.rpartition("/")[2])
        # A host names the file by its own path, /vmfs/volumes/...: only the last part is the same.
        if cdrom.iso and name and any(f"{before}{name}" in named for before in "/ "):
            error.cause = f"The image in '{cdrom.label}', {clean_text(cdrom.iso)}, cannot be read."
            error.remedies = (First("eject it"), Retry(), SetOption("remove_cdrom", True))


def remove_isos(
    session: Session, machine: Machine, *, before: Callable[[list[CdromChange]], None], cancel: CancelToken
) -> None:
    """Ejects the images from all drives of ``machine`` in one reconfiguration. ``before`` is called first with the
    changes that ``restore_isos`` needs, unless there is nothing to eject. A cancel waits for the end of the task.
    """
    from pyVmomi import vim

    full = [drive for drive in _drives(session, machine.moref, cancel) if drive.iso is not None]
    if not full:
        return
    before([drive.iso for drive in full if drive.iso is not None])
    kinds = vim.vm.device
    empty = kinds.VirtualCdrom.RemotePassthroughBackingInfo(deviceName="", useAutoDetect=False, exclusive=False)
    shut = kinds.VirtualDevice.ConnectInfo(startConnected=False, connected=False, allowGuestControl=True)
    edit_devices(session, machine.moref, [_device(drive, empty, shut) for drive in full], cancel)


def restore_isos(session: Session, moref: str, changes: Sequence[CdromChange], *, cancel: CancelToken) -> None:
    """Re-inserts images, with their connection flags. A drive that is restored already is skipped, and so is one in
    which another image was inserted since.

    Raises NotRestored for drives that no longer exist, and vSphere's error for a drive, after all others are restored.
    """
    now = {drive.key: drive for drive in _drives(session, moref, cancel)}
    due = [change for change in changes if change.key in now and _is_due(now[change.key], change)]
    devices = [_with_iso(session, now[change.key], change) for change in due]
    try:
        if devices:
            edit_devices(session, moref, devices, cancel)
    except (SourceError, Refused):
        # An image whose datastore no longer exists must not prevent the others.
        for device in devices if len(devices) > 1 else ():
            with suppress(SourceError, Refused):
                edit_devices(session, moref, [device], cancel)
        raise
    gone = [change for change in changes if change.key not in now]
    if gone:
        words = "; ".join(f"{change.label} with {change.iso}" for change in gone)
        raise NotRestored(
            f"{moref} no longer has this drive: {words}", cause="Somebody removed the drive while the export ran."
        )


def _is_due(drive: _Drive, change: CdromChange) -> bool:
    if drive.iso is not None and drive.iso.iso != change.iso:
        LOG.warning("%s now has %s; %s is not re-inserted", drive.label, drive.iso.iso, change.iso)
        return False
    return drive.iso != change


def _drives(session: Session, moref: str, cancel: CancelToken) -> list[_Drive]:
    devices = read_one(session, "VirtualMachine", moref, [DEVICES], cancel=cancel).items(DEVICES)
    return [_drive(device) for device in devices if kind_of(device) == "VirtualCdrom"]


def _drive(device: Element) -> _Drive:
    key, label = to_int(child_text(device, "key")) or 0, label_of(device)
    controller, unit = to_int(child_text(device, "controllerKey")), to_int(child_text(device, "unitNumber"))
    return _Drive(key, label, controller, unit, _iso(device, key, label))


def _iso(device: Element, key: int, label: str) -> CdromChange | None:
    backing = child(device, "backing")
    name = child_text(backing, "fileName") if kind_of(backing) == _ISO else None
    if not name:
        return None
    return CdromChange(
        key=key,
        label=label,
        iso=name,
        datastore=child_text(backing, "datastore"),
        backing_object=child_text(backing, "backingObjectId"),
        connected=child_text(device, "connectable", "connected") == "true",
        start_connected=child_text(device, "connectable", "startConnected") == "true",
        allow_guest_control=child_text(device, "connectable", "allowGuestControl") == "true",
        migrate_connect=child_text(device, "connectable", "migrateConnect"),
    )


def _with_iso(session: Session, drive: _Drive, change: CdromChange) -> Any:
    """The drive with the image and the connection flags of ``change``, as the device of an edit."""
    from pyVmomi import vim

    backing = vim.vm.device.VirtualCdrom.IsoBackingInfo(
        fileName=change.iso,
        datastore=session.ref("Datastore", change.datastore) if change.datastore else None,
        backingObjectId=change.backing_object,
    )
    connection = vim.vm.device.VirtualDevice.ConnectInfo(
        connected=change.connected,
        startConnected=change.start_connected,
        allowGuestControl=change.allow_guest_control,
        migrateConnect=change.migrate_connect,
    )
    return _device(drive, backing, connection)


def _device(drive: _Drive, backing: Any, connectable: Any) -> Any:
    """The drive with another backing, as the device of an edit."""
    from pyVmomi import vim

    return vim.vm.device.VirtualCdrom(
        key=drive.key,
        controllerKey=drive.controller_key,
        unitNumber=drive.unit_number,
        backing=backing,
        connectable=connectable,
    )


def edit_devices(session: Session, moref: str, devices: Sequence[Any], cancel: CancelToken) -> None:
    """Edits devices of a machine in one reconfiguration: all of them or none."""
    from pyVmomi import vim

    changes = [vim.vm.device.VirtualDeviceSpec(operation="edit", device=device) for device in devices]
    spec = vim.vm.ConfigSpec(deviceChange=changes)
    run_whole_task(
        session,
        moref,
        lambda: session.ref("VirtualMachine", moref).ReconfigVM_Task(spec=spec),
        what=RECONFIGURE_TASK,
        cancel=cancel,
    )
