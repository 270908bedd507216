"""Which removable devices and network adapters of a running machine are connected, restored after a power cycle.

Power-on connects the devices with ``startConnected``. Those need not be the ones that were connected before: an adapter
may have been disconnected on purpose, a drive connected by hand.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from hypersdk.errors import AccessError
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.cdrom import edit_devices
from hypersdk.vsphere.faults import PRIVILEGE_MISSING
from hypersdk.vsphere.inventory import DEVICES
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.soap import child_text, read_one, to_int

LOG: Final = logging.getLogger(__name__)


def connections(session: Session, moref: str, *, cancel: CancelToken) -> dict[str, bool]:
    """Device key -> connected, of all devices that can be connected; JSON-able."""
    devices = read_one(session, "VirtualMachine", moref, [DEVICES], cancel=cancel).items(DEVICES)
    known = ((to_int(child_text(device, "key")), child_text(device, "connectable", "connected")) for device in devices)
    return {str(key): connected == "true" for key, connected in known if key is not None and connected is not None}


def reconnect(session: Session, moref: str, found: Mapping[str, bool], *, cancel: CancelToken) -> None:
    """Connects and disconnects what is not as ``found``, in one reconfiguration. A device that no longer exists is
    skipped.

    An account may power-cycle a machine without the privilege to do so: then the devices that differ are logged.
    """
    now = connections(session, moref, cancel=cancel) if found else {}
    due = {key: connected for key, connected in found.items() if now.get(key, connected) != connected}
    if not due:
        return
    machine = session.ref("VirtualMachine", moref)
    devices, words = [], []
    for device in session.call(lambda: machine.config.hardware.device):
        if str(device.key) in due:
            device.connectable.connected = due[str(device.key)]
            devices.append(device)
            label = device.deviceInfo.label if device.deviceInfo else f"device {device.key}"
            words.append(f"{label} was {'' if device.connectable.connected else 'not '}connected")
    try:
        edit_devices(session, moref, devices, cancel)
    except AccessError as error:
        if error.code != PRIVILEGE_MISSING:
            raise
        LOG.warning("%s: the power cycle changed what is connected: %s (%s)", moref, ", ".join(words), error.message)
