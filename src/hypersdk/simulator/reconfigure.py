"""ReconfigVM: the changes of a machine's configuration that the simulator knows. All others are rejected by
name; none is ignored."""

from __future__ import annotations

from typing import Any, Final

from hypersdk.simulator import devices
from hypersdk.simulator.entities import escape_name
from hypersdk.simulator.machine_state import MachineState
from hypersdk.simulator.storage import datastore_of_path
from hypersdk.simulator.values import Data, MethodFault

MAX_MEMORY_MB: Final = 24 * 1024 * 1024
MAX_CPUS: Final = 768
REMOVABLE: Final = ("VirtualCdrom", "VirtualFloppy")


def reconfigure(machine: MachineState, spec: Data) -> None:
    """Applies the spec. Raises MethodFault before any change is made."""
    for name in spec.fields:
        if name not in (*_FIELDS, "deviceChange", "changeVersion"):
            raise MethodFault.of("NotSupported", f"The simulator does not reconfigure '{name}'.")
    expected = spec.changeVersion
    if expected and expected != machine.get("config").changeVersion:
        raise MethodFault.of("ConcurrentAccess", "The configuration was changed meanwhile.")
    listed = _changed_devices(machine, spec.deviceChange or [])
    for name, value in spec.fields.items():
        if name in _FIELDS:
            _set(machine, name, value)
    if listed is not None:
        machine.device_list = listed
    machine.changed_config()


_FIELDS: Final = ("name", "numCPUs", "memoryMB", "annotation", "changeTrackingEnabled", "extraConfig")


def _set(machine: MachineState, name: str, value: Any) -> None:
    """Sets one of ``_FIELDS``."""
    match name:
        case "name":
            machine.rename(escape_name(value))
        case "numCPUs":
            machine.require_power("poweredOff")
            machine.cpus = _within(name, value, MAX_CPUS)
        case "memoryMB":
            machine.require_power("poweredOff")
            machine.memory_mb = _within(name, value, MAX_MEMORY_MB)
        case "annotation":
            machine.annotation = value
        case "changeTrackingEnabled":
            machine.cbt = value
            machine.refresh_disk_devices()
        case _:
            given = {option.key: option.value for option in value}
            merged = {**machine.extra, **given}
            machine.extra = {key: str(text) for key, text in merged.items() if text not in ("", None)}


def _within(name: str, value: int, most: int) -> int:
    if not 0 < value <= most:
        raise MethodFault.of(
            "InvalidArgument", f"{name} must lie between 1 and {most}.", invalidProperty=f"spec.{name}"
        )
    return value


def _changed_devices(machine: MachineState, changes: list[Data]) -> list[Data] | None:
    """The device list after the changes; ``None`` when there are none."""
    if not changes:
        return None
    listed = list(machine.device_list)
    for index, change in enumerate(changes):
        _OPERATIONS.get(change.operation, _edit)(machine, listed, change.device, index)
    return listed


def _bad_device(index: int, why: str) -> MethodFault:
    return MethodFault.of(
        "InvalidDeviceSpec",
        f"Invalid configuration for device '{index}': {why}.",
        property=f"deviceChange[{index}].device",
        deviceIndex=index,
    )


def _find(listed: list[Data], device: Data, index: int) -> int:
    place = next((place for place, have in enumerate(listed) if have.key == device.key), None)
    if place is None:
        raise _bad_device(index, f"there is no device with key {device.key}")
    return place


def _add(machine: MachineState, listed: list[Data], device: Data, index: int) -> None:
    if device.type not in REMOVABLE:
        raise MethodFault.of("NotSupported", f"The simulator does not add a {device.type}.")
    keys = {have.key for have in listed}
    taken = {(have.controllerKey, have.unitNumber) for have in listed}
    controller_key = device.controllerKey
    if controller_key is None or controller_key < 0 or controller_key not in keys:
        controller_key = devices.IDE
    first = (
        devices.FIRST_DISK["ide"] if controller_key in (devices.IDE, devices.IDE + 1) else devices.FIRST_DISK["sata"]
    )
    unit = device.unitNumber
    if unit is None or unit < 0 or (controller_key, unit) in taken:
        unit = next(number for number in range(64) if (controller_key, number) not in taken)
    key = next(number for number in range(first, first + 1000) if number not in keys)
    number = sum(1 for have in listed if have.type == device.type) + 1
    label = f"CD/DVD drive {number}" if device.type == "VirtualCdrom" else f"Floppy drive {number}"
    listed.append(
        _completed(machine, device.replace(key=key, controllerKey=controller_key, unitNumber=unit), label, index)
    )


def _edit(machine: MachineState, listed: list[Data], device: Data, index: int) -> None:
    place = _find(listed, device, index)
    have = listed[place]
    if have.type != device.type:
        raise _bad_device(index, f"it is a {have.type}")
    if device.type in REMOVABLE:
        listed[place] = _completed(machine, have.replace(**device.fields), have.deviceInfo.label, index)
    elif device.connectable is not None and device.type.startswith("VirtualVmxnet"):
        listed[place] = have.replace(connectable=_connection(machine, device.connectable))
    else:
        raise MethodFault.of("NotSupported", f"The simulator does not edit a {device.type}.")


def _remove(_machine: MachineState, listed: list[Data], device: Data, index: int) -> None:
    place = _find(listed, device, index)
    if listed[place].type not in REMOVABLE:
        raise MethodFault.of("NotSupported", f"The simulator does not remove a {listed[place].type}.")
    del listed[place]


_OPERATIONS: Final = {"add": _add, "edit": _edit, "remove": _remove}


def _completed(machine: MachineState, device: Data, label: str, index: int) -> Data:
    """A removable device, completed with the values that the server sets."""
    backing = device.backing
    if backing is None:
        raise _bad_device(index, "it has no backing")
    if backing.type == "VirtualCdromIsoBackingInfo":
        datastore = datastore_of_path(backing.fileName or "", machine)  # as on vCenter, without looking for the file
        if datastore is None:
            raise _bad_device(index, f"there is no datastore for '{backing.fileName}'")
        backing = backing.replace(datastore=datastore.ref)
    description = Data("Description", label=label, summary=devices.summary_of_backing(backing))
    requested = device.connectable or Data(
        "VirtualDeviceConnectInfo", startConnected=False, allowGuestControl=True, connected=False
    )
    return device.replace(backing=backing, deviceInfo=description, connectable=_connection(machine, requested))


def _connection(machine: MachineState, requested: Data) -> Data:
    """A device is only ever connected while the machine runs."""
    connected = bool(requested.connected) and machine.power == "poweredOn"
    return requested.replace(connected=connected, status="ok" if connected else "untried")
