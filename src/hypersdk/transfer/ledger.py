"""What a disk's transfer remembers: which blocks are in the image, and the hash of each. The file
``NAME.partial.blocks``.

::

    0        header, 512 bytes: magic, geometry, identity, boot id, epochs, CRC
    4096     record of block 0: hash 32, epoch u32, CRC-32 u32     40 bytes, little endian
    4136     record of block 1 ...

The file is sparse: blocks never seen take no room. Memory is one bit for each 64 KiB of the disk.

**What a record promises.** It is written after the writer returned, so the block's data and the tables that lead to it
were in the operating system's hands. Death of the process (kill -9, crash, out of memory) loses nothing of that: in the
same boot every whole record counts. A power cut may lose any of it, in any order: after a reboot only records up to the
last *durable* epoch count. ``checkpoint`` moves the epoch on, makes the image durable, then the records, and only then
declares the epoch durable in the header (one sector, one write). A failed sync leaves the header saying that this
boot's records prove nothing.

The image has the last word: what is recorded as data and is not there (the file was cut, or a file system lost parts of
it) is forgotten by ``keep``, and what is there and is not what was recorded by ``forget`` (``transfer.takeover``). Both
are copied again.

A record torn by a kill in the middle of a write fails its CRC and counts as absent; the CRC is salted with the ledger's
own random number and the index, so a record of another ledger or place never counts.
"""

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
from hypersdk.transfer.blockmap import BlockMap
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
"""In the place of a hash: the block was stored unseen (grains passed through unchecked)."""

_MAGIC: Final = b"HSDKBLK1"
_HEADER: Final = struct.Struct(
    "<8sIIQ32s16sIII"
)  # magic, block, record size, capacity, identity, boot, salt, epoch, durable
_HEADER_SIZE: Final = 512
_RECORDS_AT: Final = 4 * KiB
_RECORD: Final = struct.Struct(f"<{HASH_SIZE}sII")
_STAMP: Final = struct.Struct("<I")
FEW_BLOCKS: Final = 64
"""Up to so many blocks of a group are read one run at a time. 4 TiB with a block in each 512 MiB: 2 s in place of 12 s,
on a busy machine."""
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
        """None unless ``data`` is a whole header of this version."""
        if len(data) != _HEADER_SIZE or zlib.crc32(data[:-4]) != _STAMP.unpack(data[-4:])[0]:
            return None
        magic, block, record, *rest = _HEADER.unpack_from(data)
        if (magic, block, record) != (_MAGIC, BLOCK, _RECORD.size):
            return None
        return cls(*rest)


def boot_id() -> bytes:
    """16 bytes that change with every boot of this machine; random where the system does not tell, so that nothing is
    taken on trust."""
    try:
        return bytes.fromhex(_BOOT_ID.read_text().strip().replace("-", ""))
    except (OSError, ValueError):
        return os.urandom(16)


class BlockLedger:
    """The blocks of one disk. Thread-safe; held under an exclusive lock on its file for as long as it is open.

    ``identity`` is the text of what the blocks belong to: point in time, disk and format. OSError of ``record`` passes
    through unchanged (a full disk is waited for by the caller); everything else is raised as TargetError.
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
        """A new, empty ledger; an old one of that name is gone. Raises TargetError ``ledger_busy`` when that one is in
        use."""
        if path.is_file() and not path.is_symlink():
            with _closing_on_error(open_output(path, fresh=False)) as old:
                _lock(old, path)
            os.close(old)
        return cls._create(open_output(path, fresh=True), path, capacity, identity)

    @classmethod
    def open(cls, path: Path, capacity: int, identity: str) -> BlockLedger:
        """The ledger of an earlier run. Raises TargetError ``ledger_unusable`` when it does not fit, ``ledger_busy``
        when in use."""
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
        """A ledger that ends with this process: for a run that is not to be resumed."""
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
        """Guest bytes that the ledger at ``path`` has about, from the room that it takes: to read it all takes long. 0
        where there is none."""
        try:
            room = path.stat().st_blocks * 512
        except FileNotFoundError:
            return 0
        return max(0, room - _RECORDS_AT) // _RECORD.size * BLOCK

    def close(self) -> None:
        """Gives the file and its lock back. Records survive, as the module says."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> BlockLedger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def recorded(self) -> int:
        """How many blocks are recorded, zero ones included."""
        return self._map.count

    @property
    def data_bytes(self) -> int:
        """Guest bytes in recorded blocks that are not all zero."""
        return self._data_bytes

    def has(self, index: int) -> bool:
        """Whether block ``index`` is recorded: written by this run or, provably, by an earlier one."""
        return index in self._map

    def record(self, first: int, hashes: Sequence[bytes]) -> None:
        """Notes blocks ``first``, ``first + 1`` ... with their hashes (ZERO_BLOCK, UNHASHED). Call it after the writer
        returned."""
        if not 0 <= first <= first + len(hashes) <= self.blocks:
            raise ValueError(f"blocks {first}..{first + len(hashes)} of {self.blocks}")
        with self._lock:
            data = b"".join(self._pack(first + at, digest) for at, digest in enumerate(hashes))
            _write_all(self._handle, data, _position(first))
            for at, digest in enumerate(hashes):
                self._count(first + at, digest)

    def forget_except(self, stored: Iterable[range]) -> None:
        """Forgets each block of data that is not in ``stored``, runs of blocks that rise. Blocks of zeros need no place
        in an image.

        To be called before anything is recorded. Raises OSError.
        """
        position = 0
        for run in chain(stored, [range(self.blocks, self.blocks)]):
            for known in self._map.runs(position, run.start, present=True):
                self._wipe(known, zeros=False)
            position = run.stop
        os.fdatasync(self._handle)  # else a power cut could bring them back when others lie in their place

    def forget(self, blocks: Iterable[range]) -> None:
        """Takes back that ``blocks`` are in the image: what was read back from there is something else. Not while
        others record. Raises OSError."""
        for run in blocks:
            self._wipe(run, zeros=True)
        os.fdatasync(self._handle)

    def begin_again(self) -> None:
        """Forgets everything: the image is written anew. Whenever the process dies, no record of before counts. Raises
        OSError."""
        os.ftruncate(self._handle, 0)
        self._begin(_first_header(self.capacity, self._header.identity))
        self._write_header()

    def hashes(self, first: int, count: int) -> list[bytes]:
        """The hashes on record for ``count`` blocks from ``first``; UNHASHED also for those that are not recorded."""
        return [digest for digest, _, _ in _RECORD.iter_unpack(self._read(first, count))]

    def missing(self, low: int, high: int) -> Iterator[range]:
        """Runs of blocks in ``low..high`` that are not recorded, rising. Blocks recorded meanwhile may still be among
        them."""
        return self._map.runs(low, high, present=False)

    def checkpoint(self, sync: Callable[[], None]) -> None:
        """Makes all that is recorded up to now survive a power cut. ``sync`` makes the image durable. One caller at a
        time.

        Raises the OSError of a failed sync; what this boot recorded since the last checkpoint then no longer counts.
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
        """Goes around whatever syncs the image; not while a checkpoint runs.

        After an OSError, what this boot recorded since the last checkpoint no longer counts: a failed sync has lost
        data, and the next one of the same file succeeds all the same.
        """
        try:
            yield
        except OSError:
            self._settle(replace(self._header, boot=_NO_BOOT))
            raise

    def content_digest(self) -> str | None:
        """Hex content digest of the disk as recorded (``transfer.digest``); None when blocks were stored unseen."""
        if self._unhashed:
            return None
        return disk_digest(self.capacity, map(self._group, groups_of(self.capacity)))

    # Records

    def _read(self, first: int, count: int) -> bytes:
        """The records of ``count`` blocks from ``first``; zeros behind the end of the file, which may have been cut
        inside a record."""
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
            # All zero, as it nearly always is: that is a hundred times as fast as to look at each.
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
        """The hashes of a group that is nearly all holes: its other records are not read."""
        hashes = bytearray(ZERO_BLOCK * len(blocks))
        for run in self._map.runs(blocks.start, blocks.stop, present=True):
            at = (run.start - blocks.start) * HASH_SIZE
            hashes[at : at + len(run) * HASH_SIZE] = b"".join(self.hashes(run.start, len(run)))
        return hashes

    def _column(self, blocks: range) -> bytearray:
        """The hash column of the records: five words of 64 bits each, of which the first four are the hash. Words are
        only moved."""
        records = array.array("Q", self._read(blocks.start, len(blocks)))
        column = array.array("Q", bytes(len(blocks) * HASH_SIZE))
        for word in range(4):
            column[word::4] = records[word::5]
        return bytearray(column.tobytes())

    # Load

    def _load(self) -> None:
        """Reads what an earlier run left, forgets what does not count, and starts a new epoch in this boot."""
        here = boot_id()
        newest = self._header.epoch
        trusted = _ALL_EPOCHS if self._header.boot == here else self._header.durable
        for first, data in self._stored():
            newest = max(newest, self._load_records(first, data, trusted))
        os.fdatasync(self._handle)  # what was forgotten stays so before a later epoch is declared durable
        self._header = replace(self._header, boot=here, epoch=newest + 1)
        self._write_header()

    def _stored(self) -> Iterator[tuple[int, bytes]]:
        """``(first block, records)`` of the parts of the file that take room."""
        last = 0
        for run, is_data in runs(self._handle, range(_RECORDS_AT, _position(self.blocks))):
            first = max(last, (run.start - _RECORDS_AT) // _RECORD.size)
            last = -(-(run.stop - _RECORDS_AT) // _RECORD.size)
            if is_data:
                for start in range(first, last, _SCAN_RECORDS):
                    yield start, self._read(start, min(_SCAN_RECORDS, last - start))

    def _load_records(self, first: int, data: bytes, trusted: int) -> int:
        """Counts the records that hold; wipes those that do not. Returns the newest epoch seen."""
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
