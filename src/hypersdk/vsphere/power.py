"""Power state, changed only where the user asked for it, and the connected devices that a power cycle changes.

Power-on connects the removable devices and network adapters with ``startConnected``. Those need not be the ones that
were connected before: an adapter may have been disconnected on purpose, a drive connected manually.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from hypersdk.errors import AccessError, HyperSDKError, Refused, SourceError, register
from hypersdk.model import Power
from hypersdk.remedies import First, Retry, SetOption
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.cdrom import edit_devices
from hypersdk.vsphere.faults import POWER_STATE, PRIVILEGE_MISSING
from hypersdk.vsphere.inventory import DEVICES, power_of
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.soap import child_text, read_one, to_int
from hypersdk.vsphere.tasks import POWER_OFF_TASK, run_task, run_whole_task

LOG: Final = logging.getLogger(__name__)

SHUTDOWN_TIMEOUT: Final = register(
    "shutdown_timeout",
    "The guest was asked to shut down and is still running.",
    First("check the guest's console and shut it down from within"),
    Retry(),
    SetOption("source", "power-off"),
)

LOOK_EVERY_S: Final = 1.0


def power_off(session: Session, moref: str, *, cancel: CancelToken) -> bool:
    """Powers the machine off without a guest shutdown. False when it was off already. Raises Refused ``power_state``
    for a suspended machine: its memory would be lost."""
    if _power(session, moref, cancel) is Power.SUSPENDED:
        raise Refused(
            f"{moref} is suspended: powering it off would lose its memory",
            code=POWER_STATE,
            next_step="Resume it and shut it down, or power it off in vCenter if its memory may be lost.",
        )
    return _change(session, moref, Power.OFF, lambda machine: machine.PowerOffVM_Task(), POWER_OFF_TASK, cancel)


def power_on(session: Session, moref: str, *, cancel: CancelToken) -> bool:
    """Powers on (or resumes). False when it was on already."""
    return _change(session, moref, Power.ON, lambda machine: machine.PowerOnVM_Task(host=None), None, cancel)


def ask_guest_down(session: Session, moref: str, *, cancel: CancelToken) -> bool:
    """Asks the guest to shut down, which cannot be cancelled. False when the machine was off already.

    Raises Refused ``tools_unavailable`` (no VMware Tools running). After a ConnectError the guest may have been asked.
    """
    if _power(session, moref, cancel) is Power.OFF:
        return False
    session.call(lambda: session.ref("VirtualMachine", moref).ShutdownGuest())
    return True


def wait_until_off(session: Session, moref: str, *, timeout_s: float, cancel: CancelToken) -> None:
    """Waits until the machine is off. Raises SourceError ``shutdown_timeout`` after ``timeout_s``."""
    until = time.monotonic() + timeout_s
    while _power(session, moref, cancel) is not Power.OFF:
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise SourceError(f"the guest of {moref} did not shut down in {timeout_s:g} s", code=SHUTDOWN_TIMEOUT)
        cancel.sleep(min(LOOK_EVERY_S, left_s))


def _power(session: Session, moref: str, cancel: CancelToken) -> Power:
    return power_of(
        read_one(session, "VirtualMachine", moref, ["runtime.powerState"], cancel=cancel).text("runtime.powerState")
    )


def _change(
    session: Session, moref: str, wanted: Power, start: Callable[[Any], Any], what: str | None, cancel: CancelToken
) -> bool:
    """Runs the task unless the machine is in the state ``wanted``, also by another client at the same time. With
    ``what``, the end of the task is waited for even when cancelled (``run_whole_task``)."""

    def begin() -> Any:
        return start(session.ref("VirtualMachine", moref))

    if _power(session, moref, cancel) is wanted:
        return False
    try:
        if what is None:
            run_task(session, begin, cancel=cancel)
        else:
            run_whole_task(session, moref, begin, what=what, cancel=cancel)
    except HyperSDKError as error:
        if error.code != POWER_STATE or _power(session, moref, cancel) is not wanted:
            raise
        return False
    return True


def connections(session: Session, moref: str, *, cancel: CancelToken) -> dict[str, bool]:
    """Whether each device that can be connected is connected, by device key; JSON-able."""
    devices = read_one(session, "VirtualMachine", moref, [DEVICES], cancel=cancel).items(DEVICES)
    known = ((to_int(child_text(device, "key")), child_text(device, "connectable", "connected")) for device in devices)
    return {str(key): connected == "true" for key, connected in known if key is not None and connected is not None}


def reconnect(session: Session, moref: str, found: Mapping[str, bool], *, cancel: CancelToken) -> None:
    """Restores which devices are connected, in one reconfiguration. A device that no longer exists is skipped.

    An account may have the privilege to power-cycle a machine and not this one: then the devices that differ are
    logged.
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
