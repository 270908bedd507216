"""Waiting for vSphere's tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from hypersdk.errors import HyperSDKError, LookupFailed
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.faults import NOT_SUPPORTED, OBJECT_GONE, POWER_STATE
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.soap import localized_fault, read_one
from hypersdk.vsphere.specs import filter_spec

FIRST_POLL_S: Final = 0.05
LAST_POLL_S: Final = 1.0
RUNNING: Final = frozenset({"queued", "running"})
_INFO: Final = ("info.state", "info.progress", "info.error", "info.result", "info.cancelable")


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task as it is now. ``state`` is ``queued``, ``running``, ``success`` or ``error``; ``result`` a moref or a text; ``progress`` in percent."""

    state: str
    progress: int | None
    result: str | None
    error: HyperSDKError | None
    cancelable: bool


def read_task(session: Session, moref: str, *, cancel: CancelToken) -> TaskState:
    """One look at a task. Raises LookupFailed ``object_gone`` once vSphere has forgotten it (minutes after its end)."""

    item = session.call(
        lambda: read_one(session, filter_spec(session.ref("Task", moref), {"Task": _INFO}), cancel=cancel)
    )
    if item is None:
        raise LookupFailed(f"the task {moref} is gone", code=OBJECT_GONE, object=moref)
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

    Raises what the task's fault means; Cancelled at once when ``cancel`` is set, while the task itself goes on (``cancel_task`` ends it).
    ``on_progress`` hears percentages.
    """
    moref = task if isinstance(task, str) else str(task._moId)
    pause_s = FIRST_POLL_S
    while True:
        now = read_task(session, moref, cancel=cancel)
        if on_progress is not None and now.progress is not None:
            on_progress(now.progress)
        if now.error is not None and now.state == "error":
            raise now.error
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
