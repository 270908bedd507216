"""The record of a disk's transfer: which blocks are in the image, and the hash of each. The file is
``NAME.partial.blocks``.

::

    0        header, 512 bytes: magic, geometry, identity, boot id, epochs, CRC
    4096     record of block 0: hash 32, epoch u32, CRC-32 u32     40 bytes, little endian
    4136     record of block 1 ...

The file is sparse: blocks that were never recorded take no space. Memory is one bit for each 64 KiB of the disk.

**What a record guarantees.** It is written after the writer returned, so the operating system had the block's data and
the tables that point to it. The death of the process (kill -9, crash, out of memory) loses nothing of that: in the same
boot every complete record is valid. A power cut may lose any of it, in any order: after a reboot only records up to the
last *durable* epoch are valid. ``checkpoint`` begins a new epoch, syncs the image, then the records, and only then
marks the old epoch durable in the header (one sector, one write). After a failed sync the header says that the records
of this boot are not valid.

The image is authoritative: a recorded block of data that is not there (the file was cut, or a file system lost parts of
it) is removed by ``forget_except``, and one that differs by ``forget`` (``transfer.takeover``). Both are copied again.

A record that was only written in part fails its CRC and is ignored; the CRC is salted with a random number of the
ledger and the index, so a record of another ledger or place is never valid."""

from __future__ import annotations

import array
import fcntl
import hashlib
import os
import struct
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Final

from hypersdk.errors import TargetError, register
from hypersdk.formats.image import BLOCK
from hypersdk.remedies import Discard, First, Look, Retry
from hypersdk.transfer.blockmap import BlockMap, cut
from hypersdk.transfer.digest import (
    GROUP_BLOCKS,
    HASH_SIZE,
    ZERO_BLOCK,
    ZERO_GROUP,
    disk_digest,
    group_digest,
    groups_of,
)
from hypersdk.transfer.files import open_output, target_errors
from hypersdk.transfer.holes import runs
from hypersdk.units import KiB

LEDGER_UNUSABLE: Final = register(
    "ledger_unusable",
    "The record of what was already copied is damaged or belongs to another point in time, disk or format.",
    Discard(),
)
LEDGER_BUSY: Final = register(
    "ledger_busy",
    "Another process is writing this image.",
    First("wait until it has finished, or stop it"),
    Retry(),
    Look("runs"),
)

UNHASHED: Final = bytes(HASH_SIZE)
"""Stands for the hash of a block that was stored without a look at its content."""

_MAGIC: Final = b"HSDKBLK1"
_HEADER: Final = struct.Struct(
    "<8sIIQ32s16sIII"
)  # magic, block, record size, capacity, identity, boot, salt, epoch, durable
_HEADER_SIZE: Final = 512
_RECORDS_AT: Final = 4 * KiB
_RECORD: Final = struct.Struct(f"<{HASH_SIZE}sII")
_STAMP: Final = struct.Struct("<I")
FEW_BLOCKS: Final = 64
"""Up to so many blocks of a group are read one run at a time. That takes 2 s instead of 12 s for 4 TiB with one block
in each 512 MiB."""
_SCAN_RECORDS: Final = 16 * KiB
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_NO_BOOT: Final = bytes(16)
_ALL_EPOCHS: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class _LedgerHeader:
    capacity: int
    identity: bytes
    boot: bytes
    salt: int
    epoch: int
    durable: int

    def pack(self) -> bytes:
        body = _HEADER.pack(
            _MAGIC, BLOCK, _RECORD.size, self.capacity, self.identity, self.boot, self.salt, self.epoch, self.durable
        )
        body = body.ljust(_HEADER_SIZE - 4, b"\0")
        return body + _STAMP.pack(zlib.crc32(body))

    @classmethod
    def unpack(cls, data: bytes) -> _LedgerHeader | None:
        """Returns None unless ``data`` is a complete header of this version."""
        if len(data) != _HEADER_SIZE or zlib.crc32(data[:-4]) != _STAMP.unpack(data[-4:])[0]:
            return None
        magic, block, record, *rest = _HEADER.unpack_from(data)
        if (magic, block, record) != (_MAGIC, BLOCK, _RECORD.size):
            return None
        return cls(*rest)


def boot_id() -> bytes:
    """Returns 16 bytes that change with every boot of this machine; random ones where the system has none, so that
    records of an earlier process are not trusted."""
    try:
        return bytes.fromhex(_BOOT_ID.read_text().strip().replace("-", ""))
    except (OSError, ValueError):
        return os.urandom(16)


class BlockLedger:
    """The recorded blocks of one disk. Thread-safe; its file is exclusively locked while it is open.

    ``identity`` is a text that names what the blocks belong to: point in time, disk and format. OSError of ``record``
    passes through unchanged (the caller waits while the disk is full); everything else is raised as TargetError.
    """

    def __init__(self, handle: int, header: _LedgerHeader) -> None:
        self._handle = handle
        self._lock = threading.Lock()
        self.capacity = header.capacity
        self.blocks = -(-header.capacity // BLOCK)
        self._begin(header)

    def _begin(self, header: _LedgerHeader) -> None:
        self._header = header
        self._map = BlockMap(self.blocks)
        self._data_bytes = 0
        self._unhashed = False

    @classmethod
    def create(cls, path: Path, capacity: int, identity: str) -> BlockLedger:
        """Creates an empty ledger, which replaces an old one. Raises TargetError ``ledger_busy`` when that one is in
        use."""
        if path.is_file() and not path.is_symlink():
            with _closing_on_error(open_output(path, fresh=False)) as old:
                _lock(old, path)
            os.close(old)
        return cls._create(open_output(path, fresh=True), path, capacity, identity)

    @classmethod
    def open(cls, path: Path, capacity: int, identity: str) -> BlockLedger:
        """Opens the ledger of an earlier run. Raises TargetError ``ledger_unusable`` when it does not match,
        ``ledger_busy`` when it is in use."""
        with _closing_on_error(open_output(path, fresh=False)) as handle:
            _lock(handle, path)
            with target_errors(f"reading {path.name}"):
                header = _LedgerHeader.unpack(os.pread(handle, _HEADER_SIZE, 0))
                if header is None:
                    raise TargetError(f"{path.name} is damaged", code=LEDGER_UNUSABLE)
                if header.capacity != capacity or header.identity != _identity(identity):
                    message = f"{path.name} belongs to another point in time, disk or format"
                    raise TargetError(message, code=LEDGER_UNUSABLE)
                ledger = cls(handle, header)
                ledger._load()
        return ledger

    @classmethod
    def unnamed(cls, capacity: int) -> BlockLedger:
        """Creates a temporary ledger, for a run that cannot be resumed."""
        with target_errors("creating a temporary file"), tempfile.TemporaryFile() as file:
            return cls._create(os.dup(file.fileno()), Path("temporary file"), capacity, "")

    @classmethod
    def _create(cls, handle: int, path: Path, capacity: int, identity: str) -> BlockLedger:
        with _closing_on_error(handle):
            _lock(handle, path)
            ledger = cls(handle, _first_header(capacity, _identity(identity)))
            with target_errors(f"writing {path.name}"):
                ledger._write_header()
        return ledger

    @staticmethod
    def recorded_about(path: Path) -> int:
        """Estimates the guest bytes that are recorded at ``path`` from the size of the file on disk, because reading it
        takes long. 0 where there is none."""
        try:
            room = path.stat().st_blocks * 512
        except FileNotFoundError:
            return 0
        return max(0, room - _RECORDS_AT) // _RECORD.size * BLOCK

    def close(self) -> None:
        """Closes the file and releases its lock."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> BlockLedger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def recorded(self) -> int:
        """Number of recorded blocks, including those of zeros."""
        return self._map.count

    @property
    def data_bytes(self) -> int:
        """Guest bytes in recorded blocks that are not all zero."""
        return self._data_bytes

    def has(self, index: int) -> bool:
        """Whether block ``index`` is recorded, by this run or by an earlier one."""
        return index in self._map

    def record(self, first: int, hashes: Sequence[bytes]) -> None:
        """Records blocks ``first``, ``first + 1`` ... with their hashes (also ZERO_BLOCK, UNHASHED). To be called after
        the writer returned."""
        if not 0 <= first <= first + len(hashes) <= self.blocks:
            raise ValueError(f"blocks {first}..{first + len(hashes)} of {self.blocks}")
        with self._lock:
            data = b"".join(self._pack(first + at, digest) for at, digest in enumerate(hashes))
            _write_all(self._handle, data, _position(first))
            for at, digest in enumerate(hashes):
                self._count(first + at, digest)

    def forget_except(self, stored: Iterable[range]) -> None:
        """Removes each block of data that is not in ``stored``, rising runs of blocks. Blocks of zeros are not stored
        in an image.

        To be called before anything is recorded. Raises OSError.
        """
        position = 0
        for run in chain(stored, [range(self.blocks, self.blocks)]):
            for known in self._map.runs(position, run.start, present=True):
                self._wipe(known, zeros=False)
            position = run.stop
        os.fdatasync(self._handle)  # else they could be back after a power cut, when other data is in their place

    def forget(self, blocks: Iterable[range]) -> None:
        """Removes ``blocks``, which differ in the image. Not while other threads record. Raises OSError."""
        for run in blocks:
            self._wipe(run, zeros=True)
        os.fdatasync(self._handle)

    def begin_again(self) -> None:
        """Removes all records, for an image that is created again. No earlier record is valid afterwards, whenever the
        process dies. Raises OSError."""
        os.ftruncate(self._handle, 0)
        self._begin(_first_header(self.capacity, self._header.identity))
        self._write_header()

    def hashes(self, first: int, count: int) -> list[bytes]:
        """Returns the recorded hashes of ``count`` blocks from ``first``; UNHASHED also for blocks without a record."""
        return [digest for digest, _, _ in _RECORD.iter_unpack(self._read(first, count))]

    def missing(self, low: int, high: int) -> Iterator[range]:
        """Returns runs of blocks in ``low..high`` that are not recorded, rising. They may include blocks that are
        recorded meanwhile."""
        return self._map.runs(low, high, present=False)

    def data_outside(self, blocks: BlockMap) -> int | None:
        """Returns the first recorded block that is not all zeros and not in ``blocks``; None where there is none."""
        for others in blocks.runs(0, self.blocks, present=False):
            for part in cut(self._map.runs(others.start, others.stop, present=True), _SCAN_RECORDS):
                if self._read(part.start, len(part)).count(ZERO_BLOCK) < len(part):
                    hashes = self.hashes(part.start, len(part))
                    return next(index for index, digest in zip(part, hashes, strict=True) if digest != ZERO_BLOCK)
        return None

    def checkpoint(self, sync: Callable[[], None]) -> None:
        """Makes all records so far survive a power cut. ``sync`` syncs the image. One caller at a time.

        Raises the OSError of a failed sync; records of this boot since the last checkpoint are not valid then.
        """
        with self._lock:
            closing = self._header.epoch
            self._header = replace(self._header, epoch=closing + 1)
        with self.syncing():
            sync()
            os.fdatasync(self._handle)
        self._settle(replace(self._header, durable=closing))

    @contextmanager
    def syncing(self) -> Iterator[None]:
        """To be used around every sync of the image; not while a checkpoint runs.

        After an OSError, records of this boot since the last checkpoint are not valid: a failed sync has lost data,
        although the next one of the same file succeeds.
        """
        try:
            yield
        except OSError:
            self._settle(replace(self._header, boot=_NO_BOOT))
            raise

    def content_digest(self) -> str | None:
        """Returns the hex content digest of the disk (``transfer.digest``); None where there are UNHASHED blocks."""
        if self._unhashed:
            return None
        return disk_digest(self.capacity, map(self._group, groups_of(self.capacity)))

    # Records

    def _read(self, first: int, count: int) -> bytes:
        """Returns the records of ``count`` blocks from ``first``; zeros beyond the end of the file, which may have been
        cut inside a record."""
        size = count * _RECORD.size
        return os.pread(self._handle, size, _position(first)).ljust(size, b"\0")

    def _pack(self, index: int, digest: bytes) -> bytes:
        head = digest + _STAMP.pack(self._header.epoch)
        return head + _STAMP.pack(self._crc(index, head))

    def _crc(self, index: int, head: bytes) -> int:
        return zlib.crc32(head, self._header.salt ^ (index & 0xFFFFFFFF))

    def _count(self, index: int, digest: bytes) -> None:
        if not self._map.add(index):
            return
        self._unhashed = self._unhashed or digest == UNHASHED
        if digest != ZERO_BLOCK:
            self._data_bytes += self._length(index)

    def _wipe(self, known: range, *, zeros: bool) -> None:
        """Wipes the records of ``known``, those of zero blocks only with ``zeros``."""
        for start in range(known.start, known.stop, _SCAN_RECORDS):
            count = min(_SCAN_RECORDS, known.stop - start)
            data = self._read(start, count)
            # Nearly always all are zero: this check is a hundred times as fast as the loop.
            if not zeros and data.count(ZERO_BLOCK) == count:
                continue
            for index, (digest, _, _) in enumerate(_RECORD.iter_unpack(data), start):
                if zeros or digest != ZERO_BLOCK:
                    _write_all(self._handle, bytes(_RECORD.size), _position(index))
                    if self._map.remove(index):
                        self._data_bytes -= 0 if digest == ZERO_BLOCK else self._length(index)

    def _length(self, index: int) -> int:
        return min(BLOCK, self.capacity - index * BLOCK)

    # Digest

    def _group(self, blocks: range) -> bytes:
        absent = list(self.missing(blocks.start, blocks.stop))
        if absent == [blocks] and len(blocks) == GROUP_BLOCKS:
            return ZERO_GROUP
        if len(blocks) - sum(map(len, absent)) <= FEW_BLOCKS:
            return group_digest(self._few(blocks))
        hashes = self._column(blocks)
        for run in absent:
            at = (run.start - blocks.start) * HASH_SIZE
            hashes[at : at + len(run) * HASH_SIZE] = ZERO_BLOCK * len(run)
        return group_digest(hashes)

    def _few(self, blocks: range) -> bytearray:
        """Returns the hashes of a group that is nearly all holes, without reading its other records."""
        hashes = bytearray(ZERO_BLOCK * len(blocks))
        for run in self._map.runs(blocks.start, blocks.stop, present=True):
            at = (run.start - blocks.start) * HASH_SIZE
            hashes[at : at + len(run) * HASH_SIZE] = b"".join(self.hashes(run.start, len(run)))
        return hashes

    def _column(self, blocks: range) -> bytearray:
        """Returns the hash column of the records, which are five words of 64 bits each: the first four are the
        hash."""
        records = array.array("Q", self._read(blocks.start, len(blocks)))
        column = array.array("Q", bytes(len(blocks) * HASH_SIZE))
        for word in range(4):
            column[word::4] = records[word::5]
        return bytearray(column.tobytes())

    # Load

    def _load(self) -> None:
        """Reads the records of an earlier run, removes those that are not valid, and begins a new epoch in this
        boot."""
        here = boot_id()
        newest = self._header.epoch
        trusted = _ALL_EPOCHS if self._header.boot == here else self._header.durable
        for first, data in self._stored():
            newest = max(newest, self._load_records(first, data, trusted))
        os.fdatasync(self._handle)  # the removals, before a later epoch is marked durable
        self._header = replace(self._header, boot=here, epoch=newest + 1)
        self._write_header()

    def _stored(self) -> Iterator[tuple[int, bytes]]:
        """Yields ``(first block, records)`` of the parts of the file that are not holes."""
        last = 0
        for run, is_data in runs(self._handle, range(_RECORDS_AT, _position(self.blocks))):
            if not is_data:
                continue
            first = max(last, (run.start - _RECORDS_AT) // _RECORD.size)  # a record may begin in the hole before
            last = -(-(run.stop - _RECORDS_AT) // _RECORD.size)
            for start in range(first, last, _SCAN_RECORDS):
                yield start, self._read(start, min(_SCAN_RECORDS, last - start))

    def _load_records(self, first: int, data: bytes, trusted: int) -> int:
        """Counts the valid records and wipes the others. Returns the newest epoch."""
        newest = 0
        for at, (digest, epoch, crc) in enumerate(_RECORD.iter_unpack(data)):
            if not epoch:
                continue
            start = at * _RECORD.size
            whole = crc == self._crc(first + at, data[start : start + _RECORD.size - 4])
            if whole and epoch <= trusted:
                self._count(first + at, digest)
            else:
                _write_all(self._handle, bytes(_RECORD.size), _position(first + at))
            if whole:
                newest = max(newest, epoch)
        return newest

    def _settle(self, header: _LedgerHeader) -> None:
        self._header = header
        self._write_header()
        os.fdatasync(self._handle)

    def _write_header(self) -> None:
        _write_all(self._handle, self._header.pack(), 0)


@contextmanager
def _closing_on_error(handle: int) -> Iterator[int]:
    try:
        yield handle
    except BaseException:
        os.close(handle)
        raise


def _first_header(capacity: int, identity: bytes) -> _LedgerHeader:
    salt = int.from_bytes(os.urandom(4), "little")
    return _LedgerHeader(capacity, identity, boot_id(), salt, epoch=1, durable=0)


def _identity(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _lock(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise TargetError(f"{path.name} is in use", code=LEDGER_BUSY) from error


def _position(index: int) -> int:
    return _RECORDS_AT + index * _RECORD.size


def _write_all(handle: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written
