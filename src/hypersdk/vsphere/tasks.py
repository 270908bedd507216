"""vSphere tasks: started when the machine is free, awaited, read, cancelled."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from hypersdk.errors import Cancelled, ConnectError, HyperSDKError, Refused, SourceError
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.faults import BUSY, NOT_SUPPORTED, OBJECT_GONE, POWER_STATE, VSPHERE_FAULT
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.soap import ObjectProperties, child_text, localized_fault, parse_time, read_objects, read_one
from hypersdk.vsphere.specs import filter_spec, traversal

LOG: Final = logging.getLogger(__name__)

BUSY_PATIENCE_S: Final = 60.0
"""vCenter calls a machine busy for some seconds after a lease or task of ours has ended on it; backups hold it for
longer."""
FIRST_PAUSE_S: Final = 0.25
LAST_PAUSE_S: Final = 3.0
FIRST_POLL_S: Final = 0.05
LAST_POLL_S: Final = 1.0
SETTLE_S: Final = 120.0
"""How long the end of a task is waited for that makes a change, when its own run has ended: seconds, but where the
server is very busy."""
POWER_OFF_TASK: Final = "poweroff"
RECONFIGURE_TASK: Final = "reconfig"
RUNNING: Final = frozenset({"queued", "running"})
_RUNNING_INFO: Final = ("info.state", "info.descriptionId", "info.reason", "info.queueTime")
_INFO: Final = ("info.state", "info.progress", "info.error", "info.result", "info.cancelable")


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task as it is now. ``state`` is ``queued``, ``running``, ``success`` or ``error``; ``result`` a moref or a
    text; ``progress`` in percent."""

    state: str
    progress: int | None
    result: str | None
    error: HyperSDKError | None
    cancelable: bool


@dataclass(frozen=True, slots=True)
class RunningTask:
    """A machine's task that has not ended. ``what`` is its ``descriptionId``; ``user`` and ``queued`` are None where
    the server does not say."""

    moref: str
    what: str
    user: str | None
    queued: datetime | None

    @property
    def exports(self) -> bool:
        """Whether it is an export: vCenter and ESXi word it differently (``VirtualMachine.exportVm``,
        ``vm.Snapshot.exportSnapshot``)."""
        return "export" in self.what.lower()


def running_tasks(session: Session, moref: str, *, cancel: CancelToken) -> list[RunningTask]:
    """Queued and running tasks of a machine. Raises LookupFailed ``object_gone`` when the machine is."""

    def read() -> list[RunningTask]:
        spec = filter_spec(
            session.ref("VirtualMachine", moref),
            {"Task": _RUNNING_INFO},
            select=[traversal("VirtualMachine", "recentTask")],
            skip=True,
        )
        found = read_objects(session, [spec], cancel=cancel)
        return [_running(task) for task in found if task.text("info.state") in RUNNING]

    return session.call(read)


def _running(task: ObjectProperties) -> RunningTask:
    reason = task.values.get("info.reason")
    return RunningTask(
        moref=task.moref,
        what=task.text("info.descriptionId") or "",
        user=None if reason is None else child_text(reason, "userName"),
        queued=parse_time(task.text("info.queueTime")),
    )


def run_task(
    session: Session,
    start: Callable[[], Any],
    *,
    cancel: CancelToken,
    busy_patience_s: float = BUSY_PATIENCE_S,
    abandoned: Callable[[str | None], None] | None = None,
) -> str | None:
    """Starts a task by ``start`` (which looks its objects up itself) and waits for its result; waits before that while
    the machine is busy.

    Raises what the fault means; ``busy`` once the patience is used up. ``abandoned`` is called before Cancelled or
    ConnectError is raised while the task may go on, with its moref where the server named it.
    """
    until = time.monotonic() + busy_patience_s
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return _run_once(session, start, cancel, abandoned)
        except HyperSDKError as error:
            if error.code != BUSY or time.monotonic() + pause_s > until:
                raise
        cancel.sleep(pause_s)
        pause_s = min(pause_s * 1.5, LAST_PAUSE_S)


def _run_once(
    session: Session, start: Callable[[], Any], cancel: CancelToken, abandoned: Callable[[str | None], None] | None
) -> str | None:
    task: str | None = None

    def started() -> str:
        begun = start()
        return begun if isinstance(begun, str) else str(begun._moId)

    try:
        task = session.call(started)
        return wait_for_task(session, task, cancel=cancel)
    except (Cancelled, ConnectError):
        if abandoned is not None:
            abandoned(task)
        raise


def run_whole_task(session: Session, moref: str, start: Callable[[], Any], *, what: str, cancel: CancelToken) -> None:
    """As ``run_task``, for a task of the machine that makes a change. When cancelled, or when the connection was lost,
    its end is waited for first, as far as it can be reached: otherwise the change would be made after its undo.
    ``what`` is part of its ``descriptionId``, in small letters."""
    run_task(session, start, cancel=cancel, abandoned=lambda task: _settle(session, moref, task, what))


def _settle(session: Session, moref: str, task: str | None, what: str) -> None:
    """Until the task has ended, ``SETTLE_S`` at most. Without one, where the answer was lost that would have named it:
    the machine's tasks of that kind."""
    patience = CancelToken()
    timer = threading.Timer(SETTLE_S, patience.cancel, ["the task did not end"])
    timer.start()
    try:
        if task is None:
            wait_for_no_task(session, moref, what, timeout_s=SETTLE_S, cancel=patience)
        else:
            wait_for_task(session, task, cancel=patience)
    except HyperSDKError as error:
        # It failed, hangs, or cannot be seen: the undo looks in any case.
        LOG.info("the task %r of %s: %s", what, moref, error.message)
    finally:
        timer.cancel()


def wait_for_no_task(session: Session, moref: str, what: str, *, timeout_s: float, cancel: CancelToken) -> None:
    """Until no task of the machine has ``what`` in its ``descriptionId``. Raises Refused ``busy`` after
    ``timeout_s``."""
    until = time.monotonic() + timeout_s
    while running := [task for task in running_tasks(session, moref, cancel=cancel) if what in task.what.lower()]:
        if time.monotonic() >= until:
            raise Refused(f"the task {running[0].what} of {moref} has not ended", code=BUSY)
        cancel.sleep(LAST_POLL_S)


def read_task(session: Session, moref: str, *, cancel: CancelToken) -> TaskState:
    """Reads a task. Raises LookupFailed ``object_gone`` once vSphere has forgotten it (minutes after its end)."""
    item = read_one(session, "Task", moref, _INFO, cancel=cancel)
    fault = item.values.get("info.error")
    return TaskState(
        state=item.text("info.state") or "queued",
        progress=item.number("info.progress"),
        result=item.text("info.result"),
        error=None if fault is None else localized_fault(fault),
        cancelable=item.flag("info.cancelable"),
    )


def wait_for_task(
    session: Session, task: Any, *, cancel: CancelToken, on_progress: Callable[[int], None] | None = None
) -> str | None:
    """Waits for ``task`` (a pyVmomi object or a moref) to succeed and returns its result: a moref, a text or None.

    Raises what the task's fault means; Cancelled at once when ``cancel`` is set, while the task itself goes on
    (``cancel_task`` ends it). ``on_progress`` is called with percentages.
    """
    moref = task if isinstance(task, str) else str(task._moId)
    pause_s = FIRST_POLL_S
    while True:
        now = read_task(session, moref, cancel=cancel)
        if on_progress is not None and now.progress is not None:
            on_progress(now.progress)
        if now.state == "error":
            raise now.error or SourceError(f"the task {moref} failed, and its fault is not told", code=VSPHERE_FAULT)
        if now.state not in RUNNING:
            return now.result
        cancel.sleep(pause_s)
        pause_s = min(pause_s * 1.5, LAST_POLL_S)


def cancel_task(session: Session, moref: str) -> bool:
    """Asks vSphere to cancel a task. False when it cannot be cancelled or has ended."""
    try:
        session.call(lambda: session.ref("Task", moref).CancelTask())
    except HyperSDKError as exc:
        if exc.code in (NOT_SUPPORTED, POWER_STATE, OBJECT_GONE) or exc.fields.get("fault") == "InvalidState":
            return False
        raise
    return True
