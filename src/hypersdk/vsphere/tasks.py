"""vSphere tasks: started when the machine is not busy, waited for, read, cancelled."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from hypersdk.errors import (
    AccessError,
    Cancelled,
    ConnectError,
    HyperSDKError,
    LookupFailed,
    Refused,
    SourceError,
)
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.faults import BUSY, VSPHERE_FAULT
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.soap import child_text, localized_fault, parse_time, read_linked, read_one

LOG: Final = logging.getLogger(__name__)
T = TypeVar("T")

BUSY_PATIENCE_S: Final = 60.0
"""vCenter reports a machine as busy for some seconds after a lease or task of ours has ended; backups take longer."""
FIRST_PAUSE_S: Final = 0.25
LAST_PAUSE_S: Final = 3.0
FIRST_POLL_S: Final = 0.05
LAST_POLL_S: Final = 1.0
SETTLE_S: Final = 120.0
"""How long to wait for the end of a task that makes a change, after a cancel or a lost connection. It takes seconds,
unless the server is very busy."""
POWER_OFF_TASK: Final = "poweroff"
RECONFIGURE_TASK: Final = "reconfig"
RUNNING: Final = frozenset({"queued", "running"})
_RUNNING_INFO: Final = ("info.state", "info.descriptionId", "info.reason", "info.queueTime")
_INFO: Final = ("info.state", "info.error", "info.result")


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task as it is now. ``state`` is ``queued``, ``running``, ``success`` or ``error``; ``result`` a moref or a
    text."""

    state: str
    result: str | None
    error: HyperSDKError | None


@dataclass(frozen=True, slots=True)
class RunningTask:
    """A machine's task that has not ended. ``what`` is its ``descriptionId``; ``user`` and ``queued`` are None where
    the server does not report them."""

    moref: str
    what: str
    user: str | None
    queued: datetime | None

    @property
    def exports(self) -> bool:
        """Whether it is an export: vCenter and ESXi name it differently (``VirtualMachine.exportVm``,
        ``vm.Snapshot.exportSnapshot``)."""
        return "export" in self.what.lower()


def running_tasks(session: Session, moref: str, *, cancel: CancelToken) -> list[RunningTask]:
    """Queued and running tasks of a machine. Raises LookupFailed ``object_gone`` when the machine no longer exists."""
    found = read_linked(session, "VirtualMachine", moref, "recentTask", "Task", _RUNNING_INFO, cancel=cancel)
    return [
        RunningTask(
            moref=task.moref,
            what=task.text("info.descriptionId") or "",
            user=child_text(task.values.get("info.reason"), "userName"),
            queued=parse_time(task.text("info.queueTime")),
        )
        for task in found
        if task.text("info.state") in RUNNING
    ]


def when_free(
    call: Callable[[], T],
    *,
    cancel: CancelToken,
    on_busy: Callable[[HyperSDKError], None] = lambda _: None,
) -> T:
    """``call()``, repeated while the machine is busy, for ``BUSY_PATIENCE_S`` at most. Raises its errors."""
    until = time.monotonic() + BUSY_PATIENCE_S
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return call()
        except HyperSDKError as error:
            if error.code != BUSY or time.monotonic() + pause_s > until:
                raise
            on_busy(error)
        cancel.sleep(pause_s)
        pause_s = min(pause_s * 1.5, LAST_PAUSE_S)


def run_task(
    session: Session,
    start: Callable[[], Any],
    *,
    cancel: CancelToken,
    abandoned: Callable[[str | None], None] = lambda _: None,
) -> str | None:
    """Starts a task by ``start`` (which looks its objects up itself) once the machine is not busy, and waits for its
    result.

    Raises the error for the task's fault. ``abandoned`` is called before Cancelled or ConnectError is raised while the
    task may go on, with its moref where the server named it."""

    def run() -> str | None:
        task: str | None = None
        try:
            task = session.call(lambda: str(start()._moId))
            return wait_for_task(session, task, cancel=cancel)
        except (Cancelled, ConnectError):
            abandoned(task)
            raise

    return when_free(run, cancel=cancel)


def run_whole_task(
    session: Session,
    moref: str,
    start: Callable[[], Any],
    *,
    what: str,
    cancel: CancelToken,
    settle_s: float = SETTLE_S,
    stop: bool = False,
) -> str | None:
    """As ``run_task``, for a task of the machine that makes a change. When cancelled, or when the connection was lost,
    its end is waited for first, as far as it can be reached: otherwise the change would be made after its undo.

    ``what`` is part of its ``descriptionId``, in small letters. It is waited for ``settle_s`` at most; with ``stop`` it
    is cancelled before.
    """

    def settle(task: str | None) -> None:
        patience = CancelToken()
        timer = threading.Timer(settle_s, patience.cancel, ["the task did not end"])
        timer.start()
        try:
            if task is None:  # the answer with its moref was lost
                wait_for_no_task(session, moref, what, timeout_s=settle_s, cancel=patience)
            else:
                if stop:
                    cancel_task(session, task)
                wait_for_task(session, task, cancel=patience)
        except HyperSDKError as error:
            # It failed, was cancelled, hangs, or cannot be seen: the undo looks in any case.
            LOG.info("the task %r of %s: %s", what, moref, error.message)
        finally:
            timer.cancel()

    return run_task(session, start, cancel=cancel, abandoned=settle)


def wait_for_no_task(session: Session, moref: str, what: str, *, timeout_s: float, cancel: CancelToken) -> None:
    """Waits until no task of the machine except exports has ``what`` in its ``descriptionId``. Raises Refused ``busy``
    after ``timeout_s``."""
    until = time.monotonic() + timeout_s
    while running := [
        task.what
        for task in running_tasks(session, moref, cancel=cancel)
        if what in task.what.lower() and not task.exports
    ]:
        if time.monotonic() >= until:
            raise Refused(f"the task {running[0]} of {moref} has not ended", code=BUSY)
        cancel.sleep(LAST_POLL_S)


def read_task(session: Session, moref: str, *, cancel: CancelToken) -> TaskState:
    """Reads a task. Raises LookupFailed ``object_gone`` once vSphere has forgotten it (minutes after its end)."""
    item = read_one(session, "Task", moref, _INFO, cancel=cancel)
    fault = item.values.get("info.error")
    return TaskState(
        state=item.text("info.state") or "queued",
        result=item.text("info.result"),
        error=None if fault is None else localized_fault(fault),
    )


def wait_for_task(session: Session, task: str, *, cancel: CancelToken) -> str | None:
    """Waits for ``task`` (a moref) to succeed and returns its result: a moref, a text or None.

    Raises the error for the task's fault; Cancelled at once when ``cancel`` is set, while the task itself goes on
    (``cancel_task`` ends it).
    """
    pause_s = FIRST_POLL_S
    while True:
        now = read_task(session, task, cancel=cancel)
        if now.state == "error":
            raise now.error or SourceError(f"the task {task} failed without a fault", code=VSPHERE_FAULT)
        if now.state not in RUNNING:
            return now.result
        cancel.sleep(pause_s)
        pause_s = min(pause_s * 1.5, LAST_POLL_S)


def cancel_task(session: Session, moref: str) -> bool:
    """Asks vSphere to cancel a task. False, and the reason in the log, when it cannot be cancelled, has ended, or the
    account may not."""
    try:
        session.call(lambda: session.ref("Task", moref).CancelTask())
    except (AccessError, LookupFailed, Refused, SourceError) as error:
        LOG.info("the task %s was not cancelled: %s", moref, error.message)
        return False
    return True
