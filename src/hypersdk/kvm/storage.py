"""Storage of a hypervisor: its pools, and volumes that are uploaded into them.

An upload is a stream of data and holes, so what the image does not hold is neither sent nor stored.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lxml import etree

from hypersdk.errors import Cancelled, ConnectError, HyperSDKError, LookupFailed, Refused, TargetError, register
from hypersdk.kvm.connection import Connection
from hypersdk.kvm.document import parsed
from hypersdk.kvm.library import LIBVIRT_TIMEOUT, libvirt, translated
from hypersdk.remedies import First, Resume, Retry
from hypersdk.text import clean
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import open_regular, target_errors
from hypersdk.transfer.holes import runs
from hypersdk.units import KiB, format_size

NO_SUCH_POOL: Final = register(
    "no_such_pool",
    "The target has no storage pool of that name.",
    "Check the name in `virsh pool-list`. `virsh pool-define-as NAME dir - - - - FOLDER` makes a pool of a folder.",
)
POOL_INACTIVE: Final = register(
    "pool_inactive",
    "The storage pool is not active.",
    First("start it with `virsh pool-start POOL`, and with `virsh pool-autostart POOL` for the next start of the host"),
    Retry(),
)
POOL_UNSUITABLE: Final = register(
    "pool_unsuitable",
    "Images are files, and the storage pool does not hold files.",
    "Choose a pool of type dir, fs or netfs.",
)
POOL_TOO_SMALL: Final = register(
    "pool_too_small",
    "The storage pool has less free space than the disks need.",
    First("free space in the pool, or choose another one"),
    Retry(),
)
VOLUME_EXISTS: Final = register(
    "volume_exists",
    "The storage pool has a volume of the name that a disk would get. It is never overwritten.",
    "Remove the volume if it is not needed (`virsh vol-delete NAME POOL`), or choose another name for the domain.",
)
UPLOAD_DIFFERS: Final = register(
    "upload_differs",
    "The size of an uploaded volume is not that of the image.",
    First("check the log of libvirtd on the target"),
    Resume(),
)

FILE_POOLS: Final = frozenset({"dir", "fs", "netfs"})
CHUNK_BYTES: Final = 256 * KiB
"""Bytes of one read. A message to libvirt is a little smaller (VIR_NET_MESSAGE_LEGACY_PAYLOAD_MAX: 262,120)."""
STALL_S: Final = 300.0
"""An upload that moves nothing for so long has failed. At its end the other side writes its caches to disk."""
_POLL_S: Final = 0.2

Report = Callable[[int], None]
"""Called with the bytes that were sent by now."""


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """A storage pool. ``folder`` is its path at the hypervisor, None for a pool that holds no files."""

    name: str
    kind: str
    active: bool
    folder: Path | None
    available_bytes: int
    volumes: frozenset[str]


def read_pool(connection: Connection, name: str) -> PoolFacts:
    """Reads a pool, after a look at what is in it. Raises LookupFailed ``no_such_pool``."""

    def read(raw: Any) -> tuple[str, bool, list[str]]:
        pool = raw.storagePoolLookupByName(name)
        active = bool(pool.isActive())
        if active:
            with suppress(libvirt().libvirtError):  # another one may be running: what it knows is good enough
                pool.refresh()
        return pool.XMLDesc(), active, pool.listVolumes() if active else []

    try:
        text, active, volumes = connection.call(f"cannot read the storage pool '{clean(name, 80)}'", read)
    except LookupFailed as error:
        raise LookupFailed(error.message, code=NO_SUCH_POOL, pool=name) from error
    pool = parsed(text)
    kind, folder = str(pool.get("type")), pool.findtext("target/path")
    return PoolFacts(
        name=name,
        kind=kind,
        active=active,
        folder=Path(folder) if folder and kind in FILE_POOLS else None,
        available_bytes=int(pool.findtext("available") or 0),
        volumes=frozenset(volumes),
    )


def pool_refusals(pool: PoolFacts, *, names: frozenset[str], needed_bytes: int) -> list[HyperSDKError]:
    """Why volumes with these ``names`` and so many bytes cannot be put into ``pool``."""
    shown = f"the storage pool '{clean(pool.name, 80)}'"
    if pool.folder is None:
        return [Refused(f"{shown} is of type {clean(pool.kind, 20)}", code=POOL_UNSUITABLE, pool=pool.name)]
    if not pool.active:
        return [Refused(f"{shown} is not active", code=POOL_INACTIVE, pool=pool.name)]
    found: list[HyperSDKError] = []
    if taken := sorted(names & pool.volumes):
        found.append(Refused(f"{shown} has {', '.join(taken)} already", code=VOLUME_EXISTS, volumes=taken))
    if needed_bytes > pool.available_bytes:
        found.append(
            Refused(
                f"{shown} has {format_size(pool.available_bytes)} free, and {format_size(needed_bytes)} are needed",
                code=POOL_TOO_SMALL,
                needed_bytes=needed_bytes,
                available_bytes=pool.available_bytes,
            )
        )
    return found


def volume_path(connection: Connection, pool: str, name: str) -> Path | None:
    """The path of a volume at the hypervisor, after a look at what is in the pool; None where it has none."""

    def find(raw: Any) -> str:
        found = raw.storagePoolLookupByName(pool)
        found.refresh()
        return str(found.storageVolLookupByName(name).path())

    try:
        return Path(connection.call(f"cannot find the volume {name}", find))
    except LookupFailed:
        return None


def create_volume(connection: Connection, pool: str, name: str, size_bytes: int) -> Path:
    """Creates an empty, sparse volume of ``size_bytes`` and returns its path. An image of any format is uploaded as the
    bytes that it is. Raises Refused ``libvirt_exists`` where it exists."""
    volume = etree.Element("volume")
    etree.SubElement(volume, "name").text = name
    etree.SubElement(volume, "capacity", unit="bytes").text = str(size_bytes)
    etree.SubElement(volume, "allocation", unit="bytes").text = "0"
    etree.SubElement(etree.SubElement(volume, "target"), "format", type="raw")
    text = etree.tostring(volume, encoding="unicode")
    return Path(
        connection.call(
            f"cannot create the volume {name}",
            lambda raw: str(raw.storagePoolLookupByName(pool).createXML(text).path()),
        )
    )


def delete_volume(connection: Connection, pool: str, name: str) -> None:
    """Deletes a volume; one that does not exist is no error. Raises the errors of a connection."""
    if volume_path(connection, pool, name) is None:
        return
    with suppress(LookupFailed):
        connection.call(
            f"cannot delete the volume {name}",
            lambda raw: raw.storagePoolLookupByName(pool).storageVolLookupByName(name).delete(),
        )


def upload(connection: Connection, pool: str, name: str, image: Path, *, report: Report, cancel: CancelToken) -> None:
    """Sends the bytes of ``image`` into a volume that ``create_volume`` made, without its holes, and checks the size.

    Raises Cancelled, ConnectError where nothing moves any more, TargetError ``upload_differs``.
    """
    with target_errors(f"reading {image.name}"):
        descriptor = open_regular(image)
    try:
        size_bytes = os.fstat(descriptor).st_size
        # A thread that had to be left behind must not read from a number that is another file by then.
        _Upload(connection, pool, name, os.dup(descriptor), size_bytes).run(report, cancel)
    finally:
        os.close(descriptor)
    _check_size(connection, pool, name, size_bytes)


def _check_size(connection: Connection, pool: str, name: str, size_bytes: int) -> None:
    physical = connection.call(
        f"cannot read the volume {name}",
        lambda raw: int(
            raw.storagePoolLookupByName(pool)
            .storageVolLookupByName(name)
            .infoFlags(libvirt().VIR_STORAGE_VOL_GET_PHYSICAL)[2]
        ),
    )
    if physical != size_bytes:
        raise TargetError(
            f"the volume {name} has {physical:,} bytes, and the image {size_bytes:,}", code=UPLOAD_DIFFERS
        )


class _Upload:
    """One upload: a thread sends, and the caller waits, reports and may cancel it."""

    def __init__(self, connection: Connection, pool: str, name: str, descriptor: int, size_bytes: int) -> None:
        self._connection = connection
        self._pool = pool
        self._name = name
        self._descriptor = descriptor
        self._size_bytes = size_bytes
        self._sent_bytes = 0
        self._stop = threading.Event()

    def run(self, report: Report, cancel: CancelToken) -> None:
        errors: list[BaseException] = []
        ended = threading.Event()

        def send() -> None:
            try:
                with translated(f"cannot upload {self._name}"):
                    self._connection.use(self._send)
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
                errors.append(error)
            os.close(self._descriptor)
            ended.set()

        threading.Thread(target=send, name=f"upload {self._name}", daemon=True).start()
        self._wait(ended, report, cancel)
        if errors and not isinstance(errors[0], Cancelled):
            raise errors[0]
        cancel.check()
        report(self._sent_bytes)

    def _wait(self, ended: threading.Event, report: Report, cancel: CancelToken) -> None:
        moved, at = -1, time.monotonic()
        with cancel.calling(self._stop.set):
            while not ended.wait(_POLL_S):
                report(self._sent_bytes)
                if self._sent_bytes != moved:
                    moved, at = self._sent_bytes, time.monotonic()
                elif time.monotonic() - at > STALL_S:
                    self._stop.set()
                    raise ConnectError(
                        f"uploading {self._name}: nothing moved for {STALL_S:.0f} s", code=LIBVIRT_TIMEOUT
                    )

    def _send(self, raw: Any) -> None:
        volume = raw.storagePoolLookupByName(self._pool).storageVolLookupByName(self._name)
        stream = raw.newStream()
        volume.upload(stream, 0, self._size_bytes, libvirt().VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM)
        try:
            for run, is_data in runs(self._descriptor, range(self._size_bytes)):
                if is_data:
                    self._send_data(stream, run)
                elif run:
                    stream.sendHole(len(run))
        except BaseException:
            with suppress(libvirt().libvirtError):  # the first error is the one to tell
                stream.abort()
            raise
        stream.finish()

    def _send_data(self, stream: Any, run: range) -> None:
        while run:
            if self._stop.is_set():
                raise Cancelled("the upload was stopped")
            data = os.pread(self._descriptor, min(CHUNK_BYTES, len(run)), run.start)
            if not data:
                raise TargetError(f"the image became shorter while {self._name} was uploaded", code=UPLOAD_DIFFERS)
            sent = 0
            while sent < len(data):
                sent += stream.send(data[sent:])
            self._sent_bytes += len(data)
            run = run[len(data) :]
