"""Releasing leases of a crashed process: they belong to its login session, and block the machine until they end.

::

    the session is this one     abort the lease
    otherwise                   cancel its export task
    if that fails               end the old session, which ends its leases (needs a privilege)
    if that fails               wait: the lease is no longer renewed, so it times out

A record without a task is one whose request may not have been answered: then any export task counts that began on the
machine while the answer was awaited.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from hypersdk.errors import AccessError, HyperSDKError, LookupFailed, Refused, SourceError, register
from hypersdk.remedies import First, Retry
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import format_duration
from hypersdk.vsphere.answers import REPLY_TIMEOUT_S
from hypersdk.vsphere.nfc import DEFAULT_TIMEOUT_S, HOLDING, abort, lease_state
from hypersdk.vsphere.session import NEVER, Session
from hypersdk.vsphere.soap import parse_time
from hypersdk.vsphere.tasks import RUNNING, RunningTask, cancel_task, read_task, running_tasks

LOG: Final = logging.getLogger(__name__)

LEASE_HELD: Final = register(
    "lease_held",
    "An interrupted export still holds the machine, and has not timed out as it should have.",
    First("cancel its export task in vCenter, or end the old session of this account"),
    Retry(),
)

GRACE_S: Final = 60.0
"""A lease may end this long after its time-out: vCenter looks for expired leases at intervals."""
SETTLE_S: Final = 10.0
"""How long a cancelled task or an ended session may take to free the machine."""
LOOK_EVERY_S: Final = 1.0
EARLY: Final = timedelta(seconds=2)
"""``opened_at`` is in whole seconds, and read from the server's clock shortly before the request."""
LATE: Final = timedelta(seconds=REPLY_TIMEOUT_S + GRACE_S)
"""A request that timed out here may still be queued in vCenter for a while."""


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """An open lease, for the journal; JSON-able. ``opened_at`` is RFC 3339 in UTC, by the server's clock.

    ``lease_moref`` is empty until the server has named it; ``task_moref`` is None until then, and where the server
    shows no task.
    """

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
    """Ends a lease whose process no longer runs, by the first means that succeeds; returns once the machine is free.

    ``on_wait`` is called with messages while waiting. Raises SourceError ``lease_held`` after ``timeout_s``.
    """
    if record.session_key == session.key and record.lease_moref:
        end_quietly(session, record.lease_moref)
    for means in (_cancel_task, _end_session):
        if not _is_held(session, record, cancel):
            return
        try:
            agreed = means(session, record, cancel)
        except (AccessError, LookupFailed, Refused, SourceError) as error:
            LOG.info(
                "the interrupted export of %s cannot be ended in this way: %s", record.machine_moref, error.message
            )
            continue
        if agreed:
            _wait(session, record, SETTLE_S, cancel, lambda _: on_wait("waiting for vSphere to free the machine"))
    held = "the machine is held by our own interrupted export, which times out in at most"
    _wait(session, record, timeout_s, cancel, lambda left_s: on_wait(f"{held} {format_duration(left_s)}"))
    if _is_held(session, record, cancel):
        raise SourceError(f"{record.machine_moref} is still held by the interrupted export", code=LEASE_HELD)


def end_quietly(session: Session, lease: str) -> bool:
    """Aborts a lease of this session, which may have ended already. False when it may still hold the machine because
    the server did not answer."""
    try:
        abort(session, lease)
        return True
    except HyperSDKError as error:
        LOG.info("lease %s could not be aborted: %s", lease, error.message)
    try:
        return lease_state(session, lease, NEVER) not in HOLDING
    except HyperSDKError:
        return False


def _is_held(session: Session, record: LeaseRecord, cancel: CancelToken) -> bool:
    """Whether the export still runs. It does not when its task or machine no longer exists."""
    try:
        if record.task_moref is None:
            return bool(_likely_tasks(session, record, cancel))
        return read_task(session, record.task_moref, cancel=cancel).state in RUNNING
    except LookupFailed:
        return False


def _likely_tasks(session: Session, record: LeaseRecord, cancel: CancelToken) -> list[RunningTask]:
    """Running exports of the machine that may belong to a record without a task: those that began at its time."""
    asked = parse_time(record.opened_at)
    return [
        task
        for task in running_tasks(session, record.machine_moref, cancel=cancel)
        if task.exports and (asked is None or task.queued is None or asked - EARLY <= task.queued <= asked + LATE)
    ]


def _cancel_task(session: Session, record: LeaseRecord, cancel: CancelToken) -> bool:
    if record.task_moref is not None:
        return cancel_task(session, record.task_moref)
    own = [task for task in _likely_tasks(session, record, cancel) if task.user == session.user]
    return True in [cancel_task(session, task.moref) for task in own]


def _end_session(session: Session, record: LeaseRecord, _cancel: CancelToken) -> bool:
    if record.session_key == session.key:
        return False
    session.call(lambda: session.content.sessionManager.TerminateSession(sessionId=[record.session_key]))
    return True


def _wait(
    session: Session, record: LeaseRecord, limit_s: float, cancel: CancelToken, tell: Callable[[float], None]
) -> None:
    """Waits until the machine is free, for ``limit_s`` at most."""
    until = time.monotonic() + limit_s
    while _is_held(session, record, cancel) and (left_s := until - time.monotonic()) > 0:
        tell(left_s)
        cancel.sleep(min(LOOK_EVERY_S, left_s))
