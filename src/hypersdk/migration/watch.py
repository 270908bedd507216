"""Watches a temporary snapshot of ours and the datastore that it grows on. Where too little space is left there, the
export ends and the snapshot is removed.

It also ends where others removed the snapshot, hours before the end of the copy would show it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from hypersdk.errors import HyperSDKError, SourceError, register
from hypersdk.migration.plan import MinFreeSpace
from hypersdk.migration.point import SNAPSHOT_GONE
from hypersdk.migration.preflight import min_free_bytes
from hypersdk.remedies import First, Retry, SetOption
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import format_size
from hypersdk.vsphere.machine import delta_bytes, read_datastores
from hypersdk.vsphere.session import Session

DATASTORE_FLOOR = register(
    "datastore_floor",
    "While the temporary snapshot existed, the free space of its datastore fell below the minimum.",
    "The snapshot has been removed.",
    First("free space on the datastore"),
    Retry(),
    SetOption("source", "power-off"),
)


class SnapshotWatch:
    """A thread that reads delta size and free space every ``interval_s``. Cancels ``cancel`` below the floor; then
    ``error`` is set.

    The same where ``check`` raises ``snapshot_gone``.
    """

    def __init__(
        self,
        session: Session,
        moref: str,
        min_free: MinFreeSpace,
        *,
        interval_s: float,
        cancel: CancelToken,
        note: Callable[[str], None],
        check: Callable[[], None],
    ) -> None:
        self._session = session
        self._moref = moref
        self._min_free = min_free
        self._interval_s = interval_s
        self._cancel = cancel
        self._note = note
        self._check = check
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshot-watch", daemon=True)
        self.error: SourceError | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            try:
                self._look()
            except HyperSDKError as error:
                # The copy itself may go on while vCenter is away for a moment; the next look tells.
                self._note(f"the datastore could not be watched: {error.message}")

    def _look(self) -> None:
        try:
            self._check()
        except SourceError as error:
            if error.code != SNAPSHOT_GONE:
                raise
            self._end(error)
            return
        grown = delta_bytes(self._session, self._moref)
        for store in read_datastores(self._session, self._moref):
            if store.capacity_bytes is None or store.free_bytes is None:
                continue
            needed = min_free_bytes(store.capacity_bytes, self._min_free.fraction, self._min_free.at_least_bytes)
            self._note(f"snapshot holds {format_size(grown)}; {format_size(store.free_bytes)} free on '{store.name}'")
            if store.free_bytes < needed:
                self._end(
                    SourceError(
                        f"datastore '{store.name}' has only {format_size(store.free_bytes)} free;"
                        f" {format_size(needed)} must stay free",
                        code=DATASTORE_FLOOR,
                    )
                )

    def _end(self, error: SourceError) -> None:
        self.error = error
        self._cancel.cancel(error.message)
