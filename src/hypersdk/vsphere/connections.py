"""What of a running machine's removable devices and network cards is connected, and the same again after a power cycle.

A machine that is powered on connects what has ``startConnected``. That need not be what was connected before: a card
may have been cut off on purpose, a drive connected by hand.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from hypersdk.errors import AccessError
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.cdrom import DEVICES
from hypersdk.vsphere.faults import PRIVILEGE_MISSING
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.soap import child_text, read_one, to_int
from hypersdk.vsphere.tasks import RECONFIGURE_TASK, run_whole_task

LOG: Final = logging.getLogger(__name__)


def connections(session: Session, moref: str, *, cancel: CancelToken) -> dict[str, bool]:
    """Device key -> connected, of all devices that can be connected; JSON-able."""
    devices = read_one(session, "VirtualMachine", moref, [DEVICES], cancel=cancel).items(DEVICES)
    known = ((to_int(child_text(one, "key")), child_text(one, "connectable", "connected")) for one in devices)
    return {str(key): connected == "true" for key, connected in known if key is not None and connected is not None}


def reconnect(session: Session, moref: str, found: Mapping[str, bool], *, cancel: CancelToken) -> None:
    """Connects and disconnects what is not as ``found``, in one reconfiguration. A device that is gone meanwhile is
    left out.

    A power cycle needs no right to do so: an account that lacks it is told which devices are left otherwise, and that
    is all.
    """
    now = connections(session, moref, cancel=cancel) if found else {}
    due = {key: connected for key, connected in found.items() if now.get(key, connected) != connected}
    if not due:
        return
    from pyVmomi import vim

    machine = session.ref("VirtualMachine", moref)
    changes, words = [], []
    for device in session.call(lambda: machine.config.hardware.device):
        if str(device.key) in due:
            device.connectable.connected = due[str(device.key)]
            changes.append(vim.vm.device.VirtualDeviceSpec(operation="edit", device=device))
            label = device.deviceInfo.label if device.deviceInfo else f"device {device.key}"
            words.append(f"{label} was {'' if device.connectable.connected else 'not '}connected")
    spec = vim.vm.ConfigSpec(deviceChange=changes)
    try:
        run_whole_task(session, moref, lambda: machine.ReconfigVM_Task(spec=spec), what=RECONFIGURE_TASK, cancel=cancel)
    except AccessError as error:
        if error.code != PRIVILEGE_MISSING:
            raise
        LOG.warning("%s: the power cycle changed what is connected: %s (%s)", moref, ", ".join(words), error.message)
