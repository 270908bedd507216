"""Watches a temporary snapshot and the datastore that it grows on. Where too little space is left, the export ends and
the snapshot is removed.

The export also ends where the snapshot was removed by others: the copy would notice it only at its end, hours later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hypersdk.errors import HyperSDKError, SourceError, register
from hypersdk.migration.point import SNAPSHOT_GONE
from hypersdk.migration.preflight import MinFreeSpace
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


@dataclass(slots=True)
class SnapshotWatch:
    """Checks the datastores of a machine whose temporary snapshot grows. Below the minimum free space it cancels
    ``cancel`` and sets ``error``; also where ``check`` raises ``snapshot_gone``."""

    session: Session
    moref: str
    min_free: MinFreeSpace
    cancel: CancelToken
    note: Callable[[str], None]
    check: Callable[[], None]
    error: SourceError | None = None

    def look(self) -> None:
        """Checks once."""
        try:
            self._look()
        except HyperSDKError as error:
            # vCenter may be unreachable for a moment while the copy continues; it is checked again.
            self.note(f"the datastore could not be checked: {error.message}")

    def _look(self) -> None:
        try:
            self.check()
        except SourceError as error:
            if error.code != SNAPSHOT_GONE:
                raise
            self._end(error)
            return
        grown = delta_bytes(self.session, self.moref)
        for store in read_datastores(self.session, self.moref):
            if store.capacity_bytes is None or store.free_bytes is None:
                continue
            needed = self.min_free.of(store.capacity_bytes)
            self.note(f"snapshot holds {format_size(grown)}; {format_size(store.free_bytes)} free on '{store.name}'")
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
        self.cancel.cancel(error.message)
