"""Leases that a crashed process left behind: they belong to its login session, and hold the machine until someone ends them.

::

    our own session still?      abort it
    else                        cancel its export task
    else, may we?               end our old session: its leases end with it
    else                        wait: nobody renews it any more, so it times out
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hypersdk.errors import AccessError, HyperSDKError, LookupFailed, SourceError, register
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import format_duration
from hypersdk.vsphere.faults import OBJECT_GONE
from hypersdk.vsphere.nfc import DEFAULT_TIMEOUT_S, HOLDING, abort, lease_state, running_tasks
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.tasks import RUNNING, cancel_task, read_task

LOG: Final = logging.getLogger(__name__)

LEASE_HELD: Final = register(
    "lease_held",
    "An export that was interrupted still holds the machine, and did not time out when it should have.",
    "Cancel its export task in vCenter, or end the old session of this account; then run the command again.",
)

GRACE_S: Final = 60.0
"""A lease may end this much after its time-out: vCenter looks for dead ones now and then."""
SETTLE_S: Final = 10.0
"""How long a cancelled task or an ended session may take to free the machine."""
LOOK_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """An open lease, for the journal; JSON-able. ``opened_at`` is RFC 3339 in UTC; ``task_moref`` is None where the server shows no task."""

    session_key: str
    lease_moref: str
    task_moref: str | None
    opened_at: str
    machine_moref: str


def release_stale(
    session: Session,
    record: LeaseRecord,
    *,
    cancel: CancelToken,
    on_wait: Callable[[str], None],
    timeout_s: float = DEFAULT_TIMEOUT_S + GRACE_S,
) -> None:
    """Frees the machine of a lease that nobody holds any more, by the gentlest means that works; returns once it is free.

    ``on_wait`` hears what is waited for, counted down. Raises SourceError ``lease_held`` after ``timeout_s``.
    """
    if record.session_key == session.key:
        end_quietly(session, record.lease_moref)
    for attempt in (_cancel_task, _end_session):
        if not _is_held(session, record, cancel):
            return
        if attempt(session, record):
            _wait(session, record, SETTLE_S, cancel, lambda _: on_wait("waiting for vSphere to free the machine"))
    _wait(session, record, timeout_s, cancel, lambda left: on_wait(_waiting(left)))
    if _is_held(session, record, cancel):
        raise SourceError(f"{record.machine_moref} is still held by the interrupted export", code=LEASE_HELD)


def end_quietly(session: Session, lease: str) -> bool:
    """Aborts a lease of this session, which may be gone already. False when it may still hold the machine: the server did not answer."""
    try:
        abort(session, lease)
    except HyperSDKError as error:
        LOG.info("lease %s could not be aborted: %s", lease, error.message)
        return _is_over(session, lease)
    return True


def _is_over(session: Session, lease: str) -> bool:
    try:
        return lease_state(session, lease, CancelToken()) not in HOLDING
    except HyperSDKError:
        return False


def _waiting(left_s: float) -> str:
    return f"the machine is held by our own interrupted export, which times out in at most {format_duration(left_s)}"


def _is_held(session: Session, record: LeaseRecord, cancel: CancelToken) -> bool:
    """Whether the export still runs. Without a task of its own to look at, any export task of the machine counts."""
    if record.task_moref is None:
        return any("export" in what.lower() for what in running_tasks(session, record.machine_moref, cancel).values())
    try:
        return read_task(session, record.task_moref, cancel=cancel).state in RUNNING
    except LookupFailed:
        return False


def _cancel_task(session: Session, record: LeaseRecord) -> bool:
    if record.task_moref is None:
        return False
    try:
        return cancel_task(session, record.task_moref)
    except AccessError as error:
        LOG.info("the export task may not be cancelled: %s", error.message)
        return False


def _end_session(session: Session, record: LeaseRecord) -> bool:
    if record.session_key == session.key:
        return False
    try:
        session.call(lambda: session.content.sessionManager.TerminateSession(sessionId=[record.session_key]))
    except (AccessError, LookupFailed, SourceError) as error:
        LOG.info("the old session cannot be ended: %s", error.message)
        return error.code == OBJECT_GONE
    return True


def _wait(
    session: Session, record: LeaseRecord, limit_s: float, cancel: CancelToken, tell: Callable[[float], None]
) -> None:
    """Until the machine is free or ``limit_s`` has passed."""
    until = time.monotonic() + limit_s
    while _is_held(session, record, cancel) and (left_s := until - time.monotonic()) > 0:
        tell(left_s)
        cancel.sleep(min(LOOK_EVERY_S, left_s))
