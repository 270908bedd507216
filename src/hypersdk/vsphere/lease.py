"""An export lease from its first call to its last: opened, kept alive, opened again when it was lost, compared, ended.

::

    written down ─> ExportVm / ExportSnapshot ─> ready ─> streams ─> manifest compared ─> Complete
                                                   │  ▲                                      Abort on every other way out
                        renewed from a thread of its own, data or not                        │
                                                   └── lost (timed out, session ended): the next stream asks whether the
                                                       machine is at the same point in time, then opens another lease

A lease belongs to its login session and holds its machine: no power-on, no migration, no second export while it is there.
"""

from __future__ import annotations

import hmac
import logging
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType
from typing import Final

from hypersdk.errors import (
    MANIFEST_MISMATCH,
    AccessError,
    Cancelled,
    ConnectError,
    HyperSDKError,
    IntegrityError,
    SourceError,
    TransientError,
    register,
)
from hypersdk.formats.ovf import place_in_key
from hypersdk.model import Disk
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.source import ByteStream, StreamDigests
from hypersdk.vsphere import nfc
from hypersdk.vsphere.faults import BUSY
from hypersdk.vsphere.http import HTTP_REFUSED, STALL_TIMEOUT_S, SessionCookie
from hypersdk.vsphere.machine import read_machine
from hypersdk.vsphere.routes import Routes
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.sources import LeaseDiskSource
from hypersdk.vsphere.stale import LeaseRecord, end_quietly, release_stale

__all__ = ["LeaseDiskSource", "LeaseRecord", "LeasedExport", "Verdict", "release_stale"]

LOG: Final = logging.getLogger(__name__)

LEASE_LOST: Final = register(
    "lease_lost",
    "vSphere ended the export while it ran: its lease timed out, or someone cancelled its task or its session.",
    "Look at the export task in vCenter, then run the command again with --resume.",
)

RENEWALS_PER_TIMEOUT: Final = 5
"""A lease of the usual 300 s hears of us every minute, so that four calls may fail before it is lost."""
RENEW_AT_MOST_S: Final = 60.0
BUSY_PATIENCE_S: Final = 60.0
"""vCenter calls a machine busy for some seconds after an earlier lease has ended."""
BUSY_PAUSE_S: Final = 1.0
_ABORTED_TRIES: Final = 3

_ROUTES: weakref.WeakKeyDictionary[Session, Routes] = weakref.WeakKeyDictionary()
_ROUTES_LOCK: Final = threading.Lock()


class Verdict(StrEnum):
    """What the server's manifest says of one disk. A mismatch is no verdict but an error."""

    PROVED = "proved"
    UNPROVED = "unproved"  # the server gave no digest for it
    LOST = "lost"  # it came whole from a lease that ended before its manifest was asked for


def routes_of(session: Session, stall_timeout_s: float = STALL_TIMEOUT_S) -> Routes:
    """The routes that all leases of ``session`` share: what one of them finds out about a host, the others know."""
    with _ROUTES_LOCK:
        return _ROUTES.setdefault(session, Routes(session.endpoint, stall_s=stall_timeout_s))


@dataclass(frozen=True, slots=True)
class _Held:
    """A lease that is ready. ``files`` by their key."""

    record: LeaseRecord
    info: nfc.LeaseInfo
    files: Mapping[str, nfc.DeviceUrl]
    sha256: bool


class LeasedExport:
    """The export of one machine, or of one of its snapshots. A context manager: leaving it aborts what ``complete`` did not end.

    ``on_opened`` hears of each lease before the server is asked for it (its ``lease_moref`` is empty then) and again when the server
    has named it; ``on_closed`` when that record needs no undo any more. ``same_point`` is asked before a lost lease is replaced, and raises
    where the machine is not provably at the point in time that the first one was of.

    Entering raises what the server refuses the export with; nothing is open then.
    """

    def __init__(
        self,
        session: Session,
        *,
        moref: str,
        snapshot: str | None,
        same_point: Callable[[], None],
        cancel: CancelToken,
        on_opened: Callable[[LeaseRecord], None],
        on_closed: Callable[[LeaseRecord], None],
        routes: Routes | None = None,
    ) -> None:
        self._session = session
        self._moref = moref
        self._snapshot = snapshot
        self._same_point = same_point
        self._cancel = cancel
        self._on_opened = on_opened
        self._on_closed = on_closed
        self._routes = routes or routes_of(session)
        self._lock = threading.Lock()
        self._held: _Held | None = None
        self._delivered: dict[str, str] = {}  # file key -> moref of the lease that its stream was last opened on
        self._opened_at = time.monotonic()
        self._percent = 0
        self._stopped = threading.Event()
        self._keeper = threading.Thread(target=self._keep_alive, name="lease-keepalive", daemon=True)
        self.sources: list[LeaseDiskSource] = []

    def __enter__(self) -> LeasedExport:
        try:
            held = self._open(self._cancel)
            self._held = held
            self.sources = self._make_sources(held)
        except BaseException:
            self._abort()
            raise
        self._keeper.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        if self._keeper.is_alive():
            self._keeper.join()
        self._abort()

    @property
    def age_s(self) -> float:
        """Seconds since the lease that is held now was opened."""
        return time.monotonic() - self._opened_at

    def set_fraction(self, fraction: float) -> None:
        """How far the copy is, 0 to 1: what the server's progress bar shows after the next renewal."""
        self._percent = max(0, min(100, int(fraction * 100)))

    def verify(self, streams: Mapping[str, StreamDigests]) -> dict[str, Verdict]:
        """The server's manifest against what was received of each file (by its lease key). To be called before ``complete``.

        Raises IntegrityError ``manifest_mismatch`` that names the disks.
        """
        entries, lease = self._manifest()
        verdicts, wrong = {}, []
        for key, stream in streams.items():
            if lease and self._delivered.get(key) != lease:
                verdicts[key] = Verdict.LOST
                continue
            entry = entries.get(key)
            same = None if entry is None else _compare(entry, stream)
            if same is False:
                wrong.append(self._label(key))
            verdicts[key] = Verdict.PROVED if same else Verdict.UNPROVED
        if wrong:
            raise IntegrityError(
                f"the server's manifest has other digests for {', '.join(wrong)}", code=MANIFEST_MISMATCH, disks=wrong
            )
        return verdicts

    def complete(self) -> None:
        """Ends the export as done. A lease that has ended by itself meanwhile is no error: everything had been received."""
        self._stopped.set()
        with self._lock:
            held, self._held = self._held, None
            if held is None:
                return
            try:
                nfc.complete(self._session, held.record.lease_moref)
            except HyperSDKError as error:
                LOG.info("the export could not be completed: %s", error.message)
                if not end_quietly(self._session, held.record.lease_moref):
                    return  # stays in the journal, for the undo
            self._on_closed(held.record)

    # Opening

    def _open(self, cancel: CancelToken) -> _Held:
        """A lease that is ready, its digests chosen. Raises what the server answers; what was opened is closed again then."""
        record = self._request(cancel)
        try:
            info = nfc.wait_until_ready(self._session, record.lease_moref, cancel=cancel)
            keys = [file.key for file in info.files if file.is_disk]
            sha256 = nfc.ask_for_sha256(self._session, record.lease_moref, keys)
        except BaseException:
            self._end(record)
            raise
        self._opened_at = time.monotonic()
        return _Held(record, info, {file.key: file for file in info.files}, sha256)

    def _request(self, cancel: CancelToken) -> LeaseRecord:
        """Asks for the export, written down before and after. A machine that is busy is waited for: an earlier lease may just be ending."""
        until = time.monotonic() + BUSY_PATIENCE_S
        while True:
            try:
                return self._request_once(cancel)
            except HyperSDKError as error:
                if error.code != BUSY or time.monotonic() > until:
                    raise
            cancel.sleep(BUSY_PAUSE_S)

    def _request_once(self, cancel: CancelToken) -> LeaseRecord:
        earlier = nfc.running_tasks(self._session, self._moref, cancel)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        planned = LeaseRecord(self._session.key, "", None, now, self._moref)
        self._on_opened(planned)
        try:
            lease = nfc.request_lease(self._session, self._moref, self._snapshot)
        except ConnectError:
            raise  # whether the server has opened it is not known: the record stays, for the undo
        except HyperSDKError:
            self._on_closed(planned)
            raise
        record = LeaseRecord(self._session.key, lease, self._task(earlier), now, self._moref)
        self._on_opened(record)
        self._on_closed(planned)
        return record

    def _task(self, earlier: Collection[str]) -> str | None:
        """The task of the export that was just asked for; None where the server shows none. Not knowing it is no reason to fail."""
        try:
            running = nfc.running_tasks(self._session, self._moref, CancelToken())
        except HyperSDKError as error:
            LOG.info("the export's task is not known: %s", error.message)
            return None
        fresh = [task for task, what in running.items() if task not in earlier and "export" in what.lower()]
        return fresh[-1] if fresh else None

    def _make_sources(self, held: _Held) -> list[LeaseDiskSource]:
        disks = read_machine(self._session, self._moref).disks
        files = [file for file in held.info.files if file.is_disk]
        return [
            LeaseDiskSource(
                label=disk.label,
                device_key=disk.key,
                lease_key=file.key,
                target_id=file.target_id,
                capacity_bytes=disk.capacity_bytes,
                allocated_bytes=disk.used_bytes,
                wants_sha1=not held.sha256,
                host=self._routes.host_of(file.url),
                _opener=self._open_stream,
            )
            for disk, file in match_disks(disks, files)
        ]

    # Streams

    @contextmanager
    def _open_stream(self, source: LeaseDiskSource, cancel: CancelToken) -> Iterator[ByteStream]:
        held = self._current(cancel)
        file = held.files.get(source.lease_key)
        if file is None:
            raise SourceError(f"the lease that was opened anew does not offer {source.label}", code=LEASE_LOST)
        self._delivered[file.key] = held.record.lease_moref
        with self._connect(file, cancel) as body:
            yield body

    def _connect(self, file: nfc.DeviceUrl, cancel: CancelToken) -> AbstractContextManager[ByteStream]:
        endpoint = self._session.endpoint
        cookie = SessionCookie(endpoint.host, endpoint.port, self._session.cookie_value())
        try:
            return self._routes.open(file.url, file.pin, cookie=cookie, cancel=cancel)
        except ConnectError as error:
            raise TransientError(error.message, cause=error.cause, next_step=error.next_step) from error
        except SourceError as error:
            # A lease that has just ended refuses its files; the next try asks for its state and opens another.
            if error.code != HTTP_REFUSED or self._is_ready():
                raise
            raise TransientError(f"the lease has ended: {error.message}", code=LEASE_LOST) from error

    def _is_ready(self) -> bool:
        with self._lock:
            held = self._held
        return held is not None and self._state(held, CancelToken()) == nfc.READY

    def _current(self, cancel: CancelToken) -> _Held:
        """The lease, if it is still there; else a new one of the same point in time. Other streams wait meanwhile."""
        with self._lock:
            if self._held is not None and self._state(self._held, cancel) != nfc.READY:
                self._lost(self._held, cancel)
            if self._held is None:
                self._held = self._reopened(cancel)
            return self._held

    def _reopened(self, cancel: CancelToken) -> _Held:
        """Another lease of the same point. A vCenter that is away for the moment is a matter of retries: the export was well begun."""
        try:
            self._same_point()
            return self._open(cancel)
        except ConnectError as error:
            raise TransientError(error.message, cause=error.cause, next_step=error.next_step) from error

    def _state(self, held: _Held, cancel: CancelToken) -> str | None:
        try:
            return nfc.lease_state(self._session, held.record.lease_moref, cancel)
        except (ConnectError, AccessError) as error:
            raise TransientError(f"the lease could not be looked at: {error.message}", cause=error.cause) from error

    def _lost(self, held: _Held, cancel: CancelToken) -> None:
        LOG.info("the lease %s is lost", held.record.lease_moref)
        release_stale(self._session, held.record, cancel=cancel, on_wait=LOG.info)
        self._held = None
        self._on_closed(held.record)

    # Staying and ending

    def _keep_alive(self) -> None:
        """Renews the lease, whether bytes flow or not. A failure is left to the streams: they see whether the lease is still there."""
        while not self._stopped.wait(self._interval_s()):
            held = self._held
            if held is None:
                continue
            try:
                nfc.renew(self._session, held.record.lease_moref, self._percent)
            except HyperSDKError as error:
                LOG.info("the lease could not be renewed: %s", error.message)

    def _interval_s(self) -> float:
        held = self._held
        timeout_s = held.info.timeout_s if held is not None else 1
        return min(timeout_s / RENEWALS_PER_TIMEOUT, RENEW_AT_MOST_S)

    def _manifest(self) -> tuple[dict[str, nfc.ManifestEntry], str]:
        """The server's manifest and the lease that it is of; empty where that lease is gone, which leaves its disks unproved."""
        with self._lock:
            held = self._held
        if held is None:
            return {}, ""
        try:
            return nfc.manifest(self._session, held.record.lease_moref), held.record.lease_moref
        except Cancelled:
            raise
        except HyperSDKError as error:
            LOG.info("no manifest from the server: %s", error.message)
            return {}, ""

    def _label(self, key: str) -> str:
        return next((source.label for source in self.sources if source.lease_key == key), key)

    def _abort(self) -> None:
        with self._lock:
            held, self._held = self._held, None
        if held is not None:
            self._end(held.record)

    def _end(self, record: LeaseRecord) -> None:
        """Aborts a lease; one that may still be there stays in the journal, for the undo."""
        for _ in range(_ABORTED_TRIES):
            if end_quietly(self._session, record.lease_moref):
                self._on_closed(record)
                return


def _compare(entry: nfc.ManifestEntry, stream: StreamDigests) -> bool | None:
    """Whether the strongest digest that both sides have is the same; None where they share none."""
    for theirs, ours in ((entry.sha256, stream.sha256), (entry.sha1, stream.sha1)):
        if theirs and ours:
            return hmac.compare_digest(theirs, ours)
    return None


def match_disks(disks: Sequence[Disk], files: Sequence[nfc.DeviceUrl]) -> list[tuple[Disk, nfc.DeviceUrl]]:
    """Which disk each file of a lease is of.

    By controller and unit, which stand in the key that vSphere gives (``/vm-42/ParaVirtualSCSIController0:1``); else by the name of its
    backing file; else, where what is left is as many on both sides, by the order of the device list, which leases keep. A disk
    without a file is left out. A wrong guess would not pass: the stream's capacity is compared with the disk's.
    """
    pairs: list[tuple[Disk, nfc.DeviceUrl]] = []
    left = list(disks)
    others = []
    by_place = {(disk.bus, disk.bus_number, disk.unit_number): disk for disk in disks}
    for file in files:
        place = place_in_key(file.key)
        disk = by_place.get(place) if place else None
        disk = disk or _only([disk for disk in left if _base_name(disk) == file.target_id])
        if disk in left:
            left.remove(disk)
            pairs.append((disk, file))
        else:
            others.append(file)
    if len(left) == len(others):
        pairs += zip(left, others, strict=True)
    return pairs


def _base_name(disk: Disk) -> str | None:
    return disk.file.rpartition("/")[2] if disk.file else None


def _only(found: Sequence[Disk]) -> Disk | None:
    return found[0] if len(found) == 1 else None
