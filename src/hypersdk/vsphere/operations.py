"""What the calls that change a machine share: one object's properties, and a task that is started when the machine is free."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from hypersdk.errors import HyperSDKError, LookupFailed
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.faults import BUSY, OBJECT_GONE
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.soap import ObjectProperties, read_objects
from hypersdk.vsphere.specs import filter_spec
from hypersdk.vsphere.tasks import wait_for_task

BUSY_PATIENCE_S: Final = 60.0
"""vCenter calls a machine busy for some seconds after a lease or task of ours has ended on it; backups hold it for longer."""
FIRST_PAUSE_S: Final = 0.25
LAST_PAUSE_S: Final = 3.0


def read_one(session: Session, kind: str, moref: str, paths: Sequence[str], *, cancel: CancelToken) -> ObjectProperties:
    """Properties ``paths`` of one object, in one call. Raises LookupFailed ``object_gone``."""

    def read() -> ObjectProperties | None:
        spec = filter_spec(session.ref(kind, moref), {kind: paths})
        return next(iter(list(read_objects(session, [spec], cancel=cancel, keep=True))), None)

    found = session.call(read)
    if found is None:
        raise LookupFailed(f"{kind} {moref} is gone", code=OBJECT_GONE, object=f"{kind}:{moref}")
    return found


def run_task(
    session: Session, start: Callable[[], Any], *, cancel: CancelToken, busy_patience_s: float = BUSY_PATIENCE_S
) -> str | None:
    """Starts a task by ``start`` (which looks its objects up itself) and waits for its result; waits before that while the machine is busy.

    Raises what the fault means; ``busy`` once the patience is used up.
    """
    until = time.monotonic() + busy_patience_s
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return wait_for_task(session, session.call(start), cancel=cancel)
        except HyperSDKError as error:
            if error.code != BUSY or time.monotonic() + pause_s > until:
                raise
        cancel.sleep(pause_s)
        pause_s = min(pause_s * 1.5, LAST_PAUSE_S)
