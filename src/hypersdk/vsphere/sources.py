"""The two sources of a disk's data: the stream of an export lease, and ranges of a flat file on its datastore.

::

    LeaseDiskSource   streamOptimized VMDK, made on the fly, always from its first byte      lease.py opens it
    FlatDiskSource    NAME-flat.vmdk through https://HOST/folder/...: the raw disk, any range, from several threads

A flat file is used only while it does not change: the machine is off and has no snapshots, or the file is the base of
its only snapshot. Answers to a range request::

    206, Content-Range as requested, total = capacity, same validators    accepted
    200: the whole file                                                   range_ignored
    206: another part, or a file of another size                          range_mismatch
    416: the file has become shorter                                      range_mismatch
    fewer bytes than requested                                            retried, like a failed connection
    other ETag or Last-Modified                                           source_file_changed
"""

from __future__ import annotations

import logging
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

from hypersdk.errors import Cancelled, HyperSDKError, SourceError, TransientError, register
from hypersdk.model import Backing, Disk, Machine, Power, split_datastore_path
from hypersdk.remedies import Discard, First, SetOption
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.retry import RetryPolicy
from hypersdk.transfer.source import ByteStream, StreamAlgorithm
from hypersdk.units import SECTOR
from hypersdk.vsphere.connection import open_connection
from hypersdk.vsphere.faults import retried_when_away, with_retries
from hypersdk.vsphere.http import (
    HTTP_REFUSED,
    STALL_TIMEOUT_S,
    UNAUTHORIZED,
    DataConnection,
    HttpBody,
    SessionCookie,
)
from hypersdk.vsphere.inventory import datacenter_path
from hypersdk.vsphere.paths import encode_name
from hypersdk.vsphere.session import NEVER, Session
from hypersdk.vsphere.wire import CONNECTION_RESET, short_body

LOG: Final = logging.getLogger(__name__)

RANGE_IGNORED: Final = register(
    "range_ignored",
    "The server sent the whole file where a range of it was requested.",
    SetOption("export_method", "lease"),
    "A proxy on the network path may not support ranges.",
)
RANGE_MISMATCH: Final = register(
    "range_mismatch",
    "The server sent another range of the file than was requested, or the file has another size.",
    SetOption("export_method", "lease"),
    "If it happens again, a proxy on the network path alters traffic.",
)
SOURCE_FILE_CHANGED: Final = register(
    "source_file_changed",
    "The disk's file changed while it was read.",
    First("find out what writes to the disk"),
    Discard(),
    SetOption("export_method", "lease"),
)
CBT_TRUSTED_SINCE: Final = (6, 7)
"""In earlier versions, QueryChangedDiskAreas could miss areas of a disk that was grown past a 128 GiB boundary (VMware
KB 2090639)."""
PROBE_RETRIES: Final = 2
MAX_AREAS: Final = 1 << 22
_DELTA_AND_BASE: Final = 2
_DESCRIPTOR: Final = ".vmdk"
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", re.ASCII)


@dataclass(slots=True)
class LeaseDiskSource:
    """A ``StreamSource``: one disk of an export lease.

    ``device_key`` is vSphere's key of the disk, ``lease_key`` its key in the lease (``deviceUrl.key``). Both stay the
    same when the lease is renewed; ``algorithm`` is that of the lease whose stream was opened last.
    """

    label: str
    device_key: int
    lease_key: str
    capacity_bytes: int
    allocated_bytes: int | None
    algorithm: StreamAlgorithm
    host: str
    _opener: Callable[[LeaseDiskSource, CancelToken], AbstractContextManager[ByteStream]] = field(repr=False)

    def open(self, cancel: CancelToken) -> AbstractContextManager[ByteStream]:
        """See ``StreamSource.open``."""
        return self._opener(self, cancel)


class FlatDiskSource:
    """A ``RangeSource``: a flat file that does not change, read through the server's ``/folder``. Made by
    ``probe_flat``.

    Connections are kept for the next range and end with the source.
    """

    def __init__(
        self,
        session: Session,
        disk: Disk,
        target: str,
        areas: Callable[[CancelToken], list[tuple[int, int]] | None],
        *,
        stall_timeout_s: float = STALL_TIMEOUT_S,
    ) -> None:
        self.label = disk.label
        self.capacity_bytes = disk.capacity_bytes
        self.host = session.endpoint.host
        self._session = session
        self._target = target
        self._areas = areas
        self._stall_timeout_s = stall_timeout_s
        self._validators: tuple[str | None, str | None] | None = None  # ETag, Last-Modified (RFC 9110, section 8.8)
        self._lock = threading.Lock()
        self._idle: list[DataConnection] = []
        weakref.finalize(self, _close_all, self._idle)

    def extents(self, cancel: CancelToken) -> Iterator[tuple[int, int]]:
        """The allocated areas where change tracking reports them; otherwise the whole disk."""
        cancel.check()
        areas = self._areas(cancel)
        yield from [(0, self.capacity_bytes)] if areas is None else areas

    def read(self, offset: int, buffer: memoryview, cancel: CancelToken) -> None:
        """Fills ``buffer`` from ``offset``. Raises TransientError (try again) or SourceError as in the table of this
        module."""
        part = range(offset, offset + len(buffer))
        idle, key = self._take_idle(), self._session.key
        try:
            return self._read(idle, part, buffer, cancel)
        except SourceError as error:
            if not self._is_stale(error, idle, key):
                raise
        try:
            return self._read(None, part, buffer, cancel)
        except SourceError as error:
            if error.fields.get("status") != UNAUTHORIZED:
                raise
            raise TransientError(error.message, cause=error.cause, remedies=error.remedies) from error

    def _is_stale(self, error: SourceError, connection: DataConnection | None, key: str) -> bool:
        """Whether ``error`` only means that a connection, or the session with that ``key``, was idle for too long; both
        are renewed then."""
        if connection is not None and error.code == CONNECTION_RESET:
            self.close()  # the other idle ones have timed out too
            return True
        if error.fields.get("status") == UNAUTHORIZED:
            self._log_in_again(key)
            return True
        return False

    def _log_in_again(self, key: str) -> None:
        """Makes a call that needs a login (not every server requires one to read its time), and renews the session
        unless the call has done so."""
        root = self._session.content.rootFolder._moId
        with retried_when_away():
            self._session.call(lambda: self._session.ref("Folder", root).name)
            self._session.renew(key)

    def close(self) -> None:
        """Drops the idle connections; the next read makes new ones."""
        with self._lock:
            _close_all(self._idle)

    def _take_idle(self) -> DataConnection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _connect(self, cancel: CancelToken) -> DataConnection:
        with retried_when_away():
            return DataConnection(open_connection(self._session.endpoint), cancel=cancel, stall_s=self._stall_timeout_s)

    def _read(self, connection: DataConnection | None, part: range, buffer: memoryview, cancel: CancelToken) -> None:
        endpoint = self._session.endpoint
        cookie = SessionCookie(endpoint.host, endpoint.port, self._session.cookie_value())
        connection = connection or self._connect(cancel)
        with _ranged(lambda: connection.get(self._target, cancel=cancel, cookie=cookie, byte_range=part)) as body:
            self._check(body, part)
            body.fill(buffer)
            if body.readinto(memoryview(bytearray(1))):
                raise SourceError(f"{self.label}: the server sent more than was requested", code=RANGE_MISMATCH)
        if connection.alive:
            with self._lock:
                self._idle.append(connection)

    def _check(self, body: HttpBody, part: range) -> None:
        """Raises SourceError unless ``body`` is exactly ``part`` of the file that was probed."""
        if body.status == 200:
            raise SourceError(f"{self.label}: the server ignored the range", code=RANGE_IGNORED)
        found = _CONTENT_RANGE.fullmatch((body.header("Content-Range") or "").strip())
        wanted = (part[0], part[-1], self.capacity_bytes)
        if found is None or tuple(int(number) for number in found.groups()) != wanted:
            raise SourceError(
                f"{self.label}: the server sent another part of the file",
                code=RANGE_MISMATCH,
                wanted="bytes {}-{}/{}".format(*wanted),
                got=(body.header("Content-Range") or "")[:100],
            )
        if body.length_bytes is not None and body.length_bytes < len(part):
            raise short_body(f"{body.length_bytes} of {len(part)} bytes are announced")
        if body.length_bytes not in (None, len(part)):
            raise SourceError(f"{self.label}: the part has another length than announced", code=RANGE_MISMATCH)
        now = body.header("ETag"), body.header("Last-Modified")
        with self._lock:
            first = self._validators = self._validators or now
        if now != first:
            raise SourceError(
                f"{self.label}: its file changed while it was read",
                code=SOURCE_FILE_CHANGED,
                before=first[1],
                now=now[1],
            )


def _close_all(idle: list[DataConnection]) -> None:
    while idle:
        idle.pop().close()


def _ranged(get: Callable[[], HttpBody]) -> HttpBody:
    """The answer to a range request. Raises SourceError ``range_mismatch`` for 416: the file has become shorter."""
    try:
        return get()
    except SourceError as error:
        if error.fields.get("status") != 416:
            raise
        raise SourceError("the file has become shorter", code=RANGE_MISMATCH, status=416) from error


def probe_flat(
    session: Session,
    machine: Machine,
    disk: Disk,
    *,
    snapshot: str | None = None,
    cancel: CancelToken = NEVER,
    stall_timeout_s: float = STALL_TIMEOUT_S,
) -> FlatDiskSource | str:
    """The disk as ranges of its flat file, at the point in time that is exported (``snapshot``, or None for the
    powered-off machine); or the reason why that is not possible, as text. One range is read to find out.

    Raises Cancelled, and ConnectError for a certificate that is not trusted; a server that refuses or cannot be
    reached is a reason, not an error.
    """
    reason = _why_not_frozen(machine, disk, snapshot)
    target = _folder_target(machine, disk)
    if reason is not None or target is None:
        return reason or "the name of its file or its datacenter is not known"
    source = FlatDiskSource(
        session,
        disk,
        target,
        lambda token: allocated_areas(session, machine, disk, snapshot, cancel=token),
        stall_timeout_s=stall_timeout_s,
    )
    try:
        beginning = memoryview(bytearray(min(SECTOR, disk.capacity_bytes)))
        with_retries(lambda: source.read(0, beginning, cancel), RetryPolicy(retries=PROBE_RETRIES), cancel=cancel)
    except TransientError as error:
        return f"its file could not be read: {error.message}"
    except SourceError as error:
        return _why(error)
    return source


def _why(error: SourceError) -> str:
    """The reason for a refused probe, as text."""
    status = error.fields.get("status")
    if error.code == HTTP_REFUSED and status == 404:
        return "its datastore has no flat file of it (as with vSAN and vVols)"
    if error.code == HTTP_REFUSED and status == 403:
        return "its file may not be read: the privilege Datastore.Browse is missing, or the file is locked"
    return f"its file is not served in ranges: {error.message}"


def _chain(disk: Disk) -> tuple[str, ...]:
    """The files that make up the disk, the base last."""
    return disk.chain or ((disk.file,) if disk.file else ())


def _why_not_frozen(machine: Machine, disk: Disk, snapshot: str | None) -> str | None:
    """Why the base file does not contain the whole disk unchanged; None where it does."""
    files = len(_chain(disk))
    if disk.encrypted or disk.backing not in (Backing.FLAT, Backing.SESPARSE):
        return f"it is not stored in a plain file ({'encrypted' if disk.encrypted else disk.backing.value})"
    if snapshot is not None:
        # Only the base of a single snapshot has the content of the snapshot; a disk with one file is newer than it.
        single = [node.moref for node in machine.snapshots] == [snapshot] and files == _DELTA_AND_BASE
        return (
            None if single else "only the base of a machine's only snapshot does not change, and this file is not one"
        )
    if machine.power is not Power.OFF:
        return "the machine is not powered off"
    if files != 1 or disk.backing is not Backing.FLAT:
        return "it has snapshots: its present state is spread over several files"
    return None


def _folder_target(machine: Machine, disk: Disk) -> str | None:
    """Path and query of the base's flat file below ``/folder``; None where its name or datacenter is not known."""
    chain, datacenter = _chain(disk), datacenter_path(machine.summary)
    known = (disk.datastore, encode_name(disk.datastore)) if disk.datastore else ()
    parts = split_datastore_path(chain[-1], known) if chain else None
    if parts is None or datacenter is None or not parts[1].endswith(_DESCRIPTOR):
        return None
    store, path = parts
    query = urlencode({"dcPath": datacenter, "dsName": store}, quote_via=quote, safe="")
    return f"/folder/{quote(path.removesuffix(_DESCRIPTOR))}-flat.vmdk?{query}"


def allocated_areas(
    session: Session, machine: Machine, disk: Disk, snapshot: str | None, *, cancel: CancelToken
) -> list[tuple[int, int]] | None:
    """``(offset, length)`` of the areas allocated on the datastore, in order; None where change tracking is not
    available or not reliable."""
    version = tuple(int(part) for part in re.findall(r"\d+", session.about.api_version)[:2])
    if not machine.cbt_enabled or version < CBT_TRUSTED_SINCE:
        return None
    try:
        return list(_changed_areas(session, machine.moref, disk, snapshot, cancel))
    except Cancelled:
        raise
    except HyperSDKError as error:
        LOG.info("%s: allocated areas are not known, the whole disk is read: %s", disk.label, error.message)
        return None


def _changed_areas(
    session: Session, moref: str, disk: Disk, snapshot: str | None, cancel: CancelToken
) -> Iterator[tuple[int, int]]:
    """``QueryChangedDiskAreas`` with the change id ``*``, piece by piece. Raises SourceError for an
    inconsistent answer."""
    position, count = 0, 0
    while position < disk.capacity_bytes:
        cancel.check()
        info = session.call(lambda start=position: _query(session, moref, disk.key, snapshot, start))  # type: ignore[misc]
        end = info.startOffset + info.length
        count += 1
        if info.startOffset > position or end <= position or end > disk.capacity_bytes or count > MAX_AREAS:
            raise SourceError(f"{disk.label}: change tracking answered for another part of the disk")
        for area in info.changedArea or ():
            count += 1
            if not position <= area.start < area.start + area.length <= end or count > MAX_AREAS:
                raise SourceError(f"{disk.label}: change tracking names areas that are out of order")
            yield area.start, area.length
            position = area.start + area.length
        position = end


def _query(session: Session, moref: str, key: int, snapshot: str | None, start: int) -> Any:
    return session.ref("VirtualMachine", moref).QueryChangedDiskAreas(
        snapshot=session.ref("VirtualMachineSnapshot", snapshot) if snapshot else None,
        deviceKey=key,
        startOffset=start,
        changeId="*",
    )
