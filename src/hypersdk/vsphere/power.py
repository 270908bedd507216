"""Power state: changed only where the user asked for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from hypersdk.errors import HyperSDKError, Refused, SourceError, register
from hypersdk.model import Power
from hypersdk.remedies import First, Retry, SetOption
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.faults import POWER_STATE
from hypersdk.vsphere.inventory import power_of
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.soap import read_one
from hypersdk.vsphere.tasks import POWER_OFF_TASK, run_task, run_whole_task

SHUTDOWN_TIMEOUT: Final = register(
    "shutdown_timeout",
    "The guest was asked to shut down and is still running.",
    First("check the guest's console and shut it down from within"),
    Retry(),
    SetOption("source", "power-off"),
)

LOOK_EVERY_S: Final = 1.0


def power_off(session: Session, moref: str, *, cancel: CancelToken) -> bool:
    """Powers off, hard. False when it was off already. Raises Refused ``power_state`` for a suspended machine: its
    memory would be lost."""
    if _power(session, moref, cancel) is Power.SUSPENDED:
        raise Refused(
            f"{moref} is suspended: powering it off would throw its memory away",
            code=POWER_STATE,
            next_step="Resume it and shut it down, or power it off in vCenter if its memory may be lost.",
        )
    return _change(session, moref, Power.OFF, lambda machine: machine.PowerOffVM_Task(), POWER_OFF_TASK, cancel)


def power_on(session: Session, moref: str, *, cancel: CancelToken) -> bool:
    """Powers on (or resumes). False when it was on already."""
    return _change(session, moref, Power.ON, lambda machine: machine.PowerOnVM_Task(host=None), None, cancel)


def ask_guest_down(session: Session, moref: str, *, cancel: CancelToken) -> bool:
    """Asks the guest to shut down, which cannot be recalled. False when the machine was off already.

    Raises Refused ``tools_unavailable`` (no VMware Tools running). After a ConnectError the guest may have been asked.
    """
    if _power(session, moref, cancel) is Power.OFF:
        return False
    session.call(lambda: session.ref("VirtualMachine", moref).ShutdownGuest())
    return True


def wait_until_off(session: Session, moref: str, *, timeout_s: float, cancel: CancelToken) -> None:
    """Until the machine is off. Raises SourceError ``shutdown_timeout`` after ``timeout_s``."""
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
    """Runs the task unless the machine is as ``wanted``; someone else may bring it there at the same moment. One of a
    kind ``what`` is never left running."""

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
