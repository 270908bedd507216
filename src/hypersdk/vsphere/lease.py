"""An export lease: opened, kept alive, reopened when lost, compared with the server's manifest, ended.

::

         journal ─> ExportVm / ExportSnapshot ─> ready ─> streams ─> manifest compared ─> Complete
                                                   │  ▲                                    Abort in every other case
                        renewed from a thread of its own, data or not                       │
                                                   └── lost (timed out, session ended): the next stream asks whether the
                                                       machine is at the same point in time, then opens another lease

A lease belongs to its login session and holds its machine: no power-on, no migration, no second export while it exists.
"""

from __future__ import annotations

import hmac
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Final

from hypersdk.errors import (
    MANIFEST_MISMATCH,
    AccessError,
    ConnectError,
    HyperSDKError,
    IntegrityError,
    LookupFailed,
    SourceError,
    TransientError,
    register,
)
from hypersdk.formats.ovf import place_in_key
from hypersdk.model import Disk
from hypersdk.remedies import First, Resume
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.retry import RetryPolicy
from hypersdk.transfer.source import ByteStream, StreamAlgorithm, StreamDigests
from hypersdk.units import format_duration
from hypersdk.vsphere import nfc
from hypersdk.vsphere.faults import retried_when_away, with_retries
from hypersdk.vsphere.http import HTTP_REFUSED, STALL_TIMEOUT_S, UNAUTHORIZED, SessionCookie
from hypersdk.vsphere.machine import read_machine
from hypersdk.vsphere.routes import Routes
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.sources import LeaseDiskSource
from hypersdk.vsphere.stale import LeaseRecord, end_quietly, release_stale
from hypersdk.vsphere.tasks import running_tasks, when_free

LOG: Final = logging.getLogger(__name__)

LEASE_LOST: Final = register(
    "lease_lost",
    "vSphere ended the export while it was running: its lease timed out, or its task or session was cancelled.",
    First("check the export task in vCenter"),
    Resume(),
)

RENEWALS_PER_TIMEOUT: Final = 5
"""A lease of the usual 300 s is renewed every minute, so that four calls may fail before it is lost."""
RENEW_AT_MOST_S: Final = 60.0
RENEW_AGAIN_S: Final = 5.0
"""Pause after a renewal that the server did not answer, which may have taken minutes of the time-out."""
OPEN_RETRY: Final = RetryPolicy()
"""Of the first lease, where the host is short of memory or time."""
TURN_S: Final = 0.25
"""How often a stream that waits for others to open the lease checks its cancel token."""
KEEPER_WAIT_S: Final = 5.0
"""A renewal that hangs does not delay the end for longer; its thread ends with the answer."""
_ABORT_TRIES: Final = 3
_ABORT_PAUSE_S: Final = 0.5


class Verdict(StrEnum):
    """The result of comparing one disk with the server's manifest. A mismatch is an error instead."""

    PROVED = "proved"
    UNPROVED = "unproved"  # the server gave no digest for it
    UNVERIFIABLE = "lost"  # it was received from a lease that ended before its manifest was read


@dataclass(frozen=True, slots=True)
class _OpenLease:
    """A lease that is ready."""

    record: LeaseRecord
    info: nfc.LeaseInfo
    algorithm: StreamAlgorithm


class LeasedExport:
    """The export of one machine, or of one of its snapshots. A context manager: leaving it aborts the lease
    unless ``complete`` ended it.

    ``on_opened`` is called with each lease before it is requested (its ``lease_moref`` is empty then) and again when
    the server has returned it; ``on_closed`` when that record no longer needs undo. ``same_point`` is called before a
    lost lease is replaced, and raises unless the machine is provably at the point in time of the first lease.
    ``on_wait`` is called with messages while waiting.

    Entering raises the server's error; nothing is open then.
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
        on_wait: Callable[[str], None] = LOG.info,
        stall_timeout_s: float = STALL_TIMEOUT_S,
        retry: RetryPolicy = OPEN_RETRY,
    ) -> None:
        self._session = session
        self._moref = moref
        self._snapshot = snapshot
        self._same_point = same_point
        self._cancel = cancel
        self._on_opened = on_opened
        self._on_closed = on_closed
        self._on_wait = on_wait
        self._routes = Routes(session.endpoint, session.detours, stall_s=stall_timeout_s)
        self._retry = retry
        self._lock = threading.Lock()
        self._open_lease: _OpenLease | None = None
        self._unanswered: LeaseRecord | None = None  # a request whose answer was lost: there may be a lease
        self._streams: Counter[tuple[str, str]] = Counter()  # streams that were opened, by file key and lease
        self._opened_at = time.monotonic()
        self._disks: tuple[Disk, ...] = ()
        self._percent = 0
        self._stopped = threading.Event()
        self._keeper = threading.Thread(target=self._keep_alive, name="lease-keepalive", daemon=True)
        self.sources: list[LeaseDiskSource] = []

    def __enter__(self) -> LeasedExport:
        try:
            # A host that cannot prepare the export yet, for lack of memory or time, is retried.
            lease = with_retries(
                lambda: self._open(self._cancel), self._retry, cancel=self._cancel, on_wait=self._note_retry
            )
            self._open_lease = lease
            self.sources = self._make_sources(lease)
        except BaseException:
            self._abort()
            raise
        self._keeper.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._keeper.join(KEEPER_WAIT_S)
        self._abort()

    @property
    def age_s(self) -> float:
        """Seconds since the current lease was opened."""
        return time.monotonic() - self._opened_at

    def set_fraction(self, fraction: float) -> None:
        """Sets the progress of the copy, 0 to 1; the server shows it after the next renewal."""
        self._percent = max(0, min(100, int(fraction * 100)))

    def verify(self, streams: Mapping[str, StreamDigests]) -> dict[str, Verdict]:
        """Compares the received files (by lease key) with the server's manifest. To be called before ``complete``.

        Raises IntegrityError ``manifest_mismatch`` that names the disks.
        """
        entries, lease = self._manifest()
        verdicts, wrong = {}, []
        for key, stream in streams.items():
            times = self._streams[key, lease]
            if not times:
                verdicts[key] = Verdict.UNVERIFIABLE
                continue
            entry = entries.get(key)
            same = None if entry is None else _compare(entry, stream, times)
            if same is False:
                wrong += [source.label for source in self.sources if source.lease_key == key] or [key]
            verdicts[key] = Verdict.PROVED if same else Verdict.UNPROVED
        if wrong:
            raise IntegrityError(
                f"the server's manifest has other digests for {', '.join(wrong)}", code=MANIFEST_MISMATCH, disks=wrong
            )
        return verdicts

    def complete(self) -> None:
        """Ends the export successfully. A lease that has already ended is not an error: everything was received."""
        self._stopped.set()
        with self._lock:
            lease, self._open_lease = self._open_lease, None
            if lease is None:
                return
            try:
                nfc.complete(self._session, lease.record.lease_moref)
            except HyperSDKError as error:
                LOG.info("the export could not be completed: %s", error.message)
                if not end_quietly(self._session, lease.record.lease_moref):
                    return  # stays in the journal, for the undo
            self._on_closed(lease.record)

    # Opening

    def _note_retry(self, error: TransientError, wait_s: float) -> None:
        self._on_wait(f"{error.message}; trying again in {format_duration(wait_s)}")

    def _open(self, cancel: CancelToken) -> _OpenLease:
        """Opens a lease and waits until it is ready. Raises the server's error, after closing the lease again."""
        record = self._request(cancel)
        try:
            if not self._disks:  # read while the server prepares the lease, which holds the machine as it is
                self._disks = self._read_disks()
            info = nfc.wait_until_ready(self._session, record.lease_moref, cancel=cancel)
            keys = [key for key, file in info.files.items() if file.is_disk]
            algorithm = nfc.manifest_algorithm(self._session, record.lease_moref, keys)
        except BaseException as error:
            self._end(record)
            if isinstance(error, LookupFailed):
                raise TransientError(
                    f"the lease ended before it was ready: {error.message}", code=LEASE_LOST
                ) from error
            raise
        self._opened_at = time.monotonic()
        return _OpenLease(record, info, algorithm)

    def _request(self, cancel: CancelToken) -> LeaseRecord:
        """Asks for the export, recorded in the journal before and after. A machine that is busy is waited for: an
        earlier lease may just be ending."""
        if self._unanswered is not None:  # what it may have opened would keep the machine busy
            release_stale(self._session, self._unanswered, cancel=cancel, on_wait=self._on_wait)
            self._on_closed(self._unanswered)
            self._unanswered = None
        return when_free(
            lambda: self._request_once(cancel),
            cancel=cancel,
            on_busy=lambda error: self._on_wait(f"another operation holds the machine: {error.message}"),
        )

    def _request_once(self, cancel: CancelToken) -> LeaseRecord:
        earlier = [task.moref for task in running_tasks(self._session, self._moref, cancel=cancel)]
        now = self._session.server_time().isoformat(timespec="seconds")
        planned = LeaseRecord(self._session.key, "", None, now, self._moref)
        self._on_opened(planned)
        try:
            lease = nfc.request_lease(self._session, self._moref, self._snapshot)
        except ConnectError:
            self._unanswered = planned  # the server may have opened it: the record stays, for the undo
            raise
        except HyperSDKError:
            self._on_closed(planned)
            raise
        try:
            record = LeaseRecord(self._session.key, lease, self._task(earlier), now, self._moref)
            self._on_opened(record)
        except BaseException:
            end_quietly(self._session, lease)
            raise
        self._on_closed(planned)
        return record

    def _task(self, earlier: Collection[str]) -> str | None:
        """The task of the export that was just requested; None where the server shows none or it cannot be read."""
        try:
            running = running_tasks(self._session, self._moref, cancel=CancelToken())
        except HyperSDKError as error:
            LOG.info("the export's task is not known: %s", error.message)
            return None
        fresh = [task.moref for task in running if task.exports and task.moref not in earlier]
        return fresh[-1] if fresh else None

    def _read_disks(self) -> tuple[Disk, ...]:
        # A snapshot has the disks of its time, which need not be those that the machine has now.
        return read_machine(self._session, self._moref, snapshot=self._snapshot, cancel=self._cancel).disks

    def _make_sources(self, lease: _OpenLease) -> list[LeaseDiskSource]:
        files = [file for file in lease.info.files.values() if file.is_disk]
        return [
            LeaseDiskSource(
                label=disk.label,
                device_key=disk.key,
                lease_key=file.key,
                capacity_bytes=disk.capacity_bytes,
                allocated_bytes=disk.used_bytes,
                algorithm=lease.algorithm,
                host=self._routes.host_of(file.url),
                _opener=self._open_stream,
            )
            for disk, file in match_disks(self._disks, files)
        ]

    # Streams

    @contextmanager
    def _open_stream(self, source: LeaseDiskSource, cancel: CancelToken) -> Iterator[ByteStream]:
        lease = self._ensure_open(cancel)
        file = lease.info.files.get(source.lease_key)
        if file is None:
            raise SourceError(f"the reopened lease does not offer {source.label}", code=LEASE_LOST)
        self._streams[file.key, lease.record.lease_moref] += 1
        source.algorithm = lease.algorithm
        with self._connect(lease, file, cancel) as body:
            yield body

    def _connect(
        self, lease: _OpenLease, file: nfc.DeviceUrl, cancel: CancelToken
    ) -> AbstractContextManager[ByteStream]:
        endpoint = self._session.endpoint
        cookie = SessionCookie(endpoint.host, endpoint.port, self._session.cookie_value())
        try:
            with retried_when_away():
                return self._routes.open(file.url, file.pin, cookie=cookie, cancel=cancel)
        except SourceError as error:
            # A lease that has just ended refuses its files; the next attempt reads its state and opens another.
            if error.fields.get("status") == UNAUTHORIZED:
                self._give_up(lease, cancel)
            elif error.code != HTTP_REFUSED or self._state(lease, cancel) == nfc.READY:
                raise
            raise TransientError(f"the lease has ended: {error.message}", code=LEASE_LOST) from error

    def _give_up(self, lease: _OpenLease, cancel: CancelToken) -> None:
        """Ends lease and session after a data request was not authorized, although the API accepts both: the next
        attempt has new ones."""
        with self._turn(cancel):
            if self._open_lease is not lease:
                return  # another stream was here first
            if end_quietly(self._session, lease.record.lease_moref):
                self._on_closed(lease.record)
            self._open_lease = None
        with retried_when_away():
            self._session.renew(lease.record.session_key)

    def _ensure_open(self, cancel: CancelToken) -> _OpenLease:
        """The lease if it still exists; otherwise a new one of the same point in time. Other streams wait until
        then."""
        with self._turn(cancel):
            if self._open_lease is None or self._state(self._open_lease, cancel) != nfc.READY:
                self._open_lease = self._reopened(self._open_lease, cancel)
            return self._open_lease

    @contextmanager
    def _turn(self, cancel: CancelToken) -> Iterator[None]:
        """Holds the lock. A cancelled stream does not wait for the one that reopens the lease, which may take
        minutes."""
        while not self._lock.acquire(timeout=TURN_S):
            cancel.check()
        try:
            yield
        finally:
            self._lock.release()

    def _reopened(self, lost: _OpenLease | None, cancel: CancelToken) -> _OpenLease:
        """Another lease of the same point in time."""
        with retried_when_away():
            if lost is not None:
                LOG.info("the lease %s is lost", lost.record.lease_moref)
                release_stale(self._session, lost.record, cancel=cancel, on_wait=self._on_wait)
                self._open_lease = None
                self._on_closed(lost.record)
            self._same_point()
            return self._open(cancel)

    def _state(self, lease: _OpenLease, cancel: CancelToken) -> str | None:
        try:
            return nfc.lease_state(self._session, lease.record.lease_moref, cancel)
        except (ConnectError, AccessError) as error:
            raise TransientError(f"the lease could not be read: {error.message}", cause=error.cause) from error

    # Keeping alive and ending

    def _keep_alive(self) -> None:
        """Renews the lease, whether or not data is read. A failure is only logged: the streams find out whether the
        lease still exists."""
        pause_s = self._interval_s()
        while not self._stopped.wait(pause_s):
            answered = self._renew()
            pause_s = self._interval_s() if answered else min(self._interval_s(), RENEW_AGAIN_S)

    def _renew(self) -> bool:
        """Renews the lease once. False when the server did not answer."""
        lease = self._open_lease
        if lease is None:
            return True
        try:
            nfc.renew(self._session, lease.record.lease_moref, self._percent)
        except HyperSDKError as error:
            LOG.info("the lease could not be renewed: %s", error.message)
            return not isinstance(error, ConnectError)
        return True

    def _interval_s(self) -> float:
        lease = self._open_lease
        timeout_s = lease.info.timeout_s if lease is not None else 1
        return min(timeout_s / RENEWALS_PER_TIMEOUT, RENEW_AT_MOST_S)

    def _manifest(self) -> tuple[dict[str, nfc.ManifestEntry], str]:
        """The server's manifest and the moref of its lease, which is empty where both no longer exist."""
        with self._lock:
            lease = self._open_lease
        if lease is None:
            return {}, ""
        try:
            return nfc.manifest(self._session, lease.record.lease_moref), lease.record.lease_moref
        except HyperSDKError as error:
            LOG.info("no manifest from the server: %s", error.message)
        try:
            ready = self._state(lease, CancelToken()) == nfc.READY
        except TransientError:
            ready = False
        return {}, lease.record.lease_moref if ready else ""

    def _abort(self) -> None:
        with self._lock:
            lease, self._open_lease = self._open_lease, None
        if lease is not None:
            self._end(lease.record)

    def _end(self, record: LeaseRecord) -> None:
        """Aborts a lease; one that may still exist stays in the journal, for the undo."""
        for _ in range(_ABORT_TRIES):
            if end_quietly(self._session, record.lease_moref):
                self._on_closed(record)
                return
            time.sleep(_ABORT_PAUSE_S)


def _compare(entry: nfc.ManifestEntry, stream: StreamDigests, times: int) -> bool | None:
    """Whether the strongest digest that both sides have is the same; None where they share none.

    When a stream was opened several ``times`` on one lease, the manifest may describe the last one or all together.
    Where the length differs from what was received, the digest is not comparable either.
    """
    if times > 1 and entry.size_bytes not in (None, stream.length_bytes):
        return None
    for theirs, ours in ((entry.sha256, stream.sha256), (entry.sha1, stream.sha1)):
        if theirs and ours:
            return hmac.compare_digest(theirs, ours)
    return None


def match_disks(disks: Sequence[Disk], files: Sequence[nfc.DeviceUrl]) -> list[tuple[Disk, nfc.DeviceUrl]]:
    """Pairs the files of a lease with the disks.

    By controller and unit, which are part of vSphere's key (``/vm-42/ParaVirtualSCSIController0:1``); else by the name
    of the backing file; else, where the keys have no such form and equally many files and disks are left, by the order
    of the device list, which leases follow. Files and disks without a match are omitted. A wrong match is detected
    later: the stream's capacity is compared with the disk's.
    """
    pairs: list[tuple[Disk, nfc.DeviceUrl]] = []
    left, others = list(disks), []
    by_place = {(disk.bus, disk.bus_number, disk.unit_number): disk for disk in disks}
    placed = {place for file in files if (place := place_in_key(file.key)) in by_place}
    for file in files:
        place = place_in_key(file.key)
        disk = by_place.get(place) if place else None
        named = [disk for disk in left if disk.file and disk.file.rpartition("/")[2] == file.target_id]
        if disk is None and len(named) == 1:
            disk = named[0]
        if disk in left:
            left.remove(disk)
            pairs.append((disk, file))
        elif place is None or not placed:
            others.append(file)
    if len(left) == len(others):
        pairs += zip(left, others, strict=True)
    return pairs
