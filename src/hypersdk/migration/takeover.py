"""Checks the files of disks that an earlier process finished, before they are published.

::

    recorded               read                                              compared
    tree digest            the file, in several threads                      all of it
    SHA-256 of the file    the file                                          all of it
    content digest         raw: everything but holes                         the guest's data
                           VMDK: the stream, from first to last              grains, tables, directory, footer, front
                           qcow2: every cluster, through the tables          grains; header and refcounts are rewritten
    none of them                                                             nothing: the disk starts again

Tree digest and SHA-256 are known where they were computed before the process ended. Growing disks:
``transfer.takeover``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from hypersdk.errors import IntegrityError
from hypersdk.formats.image import BLOCK
from hypersdk.formats.vmdk.log import FRONT_BYTES
from hypersdk.formats.vmdk.stream import GrainDecoder, inflate
from hypersdk.formats.vmdk.writer import is_front
from hypersdk.migration.outputs import Outputs
from hypersdk.migration.readback import digests_of
from hypersdk.migration.runfile import DiskRecord
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.digest import content_digest_of, hash_block
from hypersdk.transfer.files import target_errors
from hypersdk.transfer.holes import pieces
from hypersdk.transfer.ledger import BlockLedger
from hypersdk.transfer.progress import Meter
from hypersdk.transfer.treehash import tree_digest

UNPROVABLE = "neither its checksum nor its content digest was known when the earlier run ended"
CHANGED = "its file is not what was written"


def damage_of(outputs: Outputs, record: DiskRecord, meter: Meter, cancel: CancelToken) -> str | None:
    """Why a finished disk cannot be published; None where its file is as recorded. ``record`` may get another size.

    Raises TargetError and Cancelled.
    """
    assert record.receipt is not None
    if record.tree is None and record.sha256 is None and record.receipt.content is None:
        return UNPROVABLE
    try:
        with target_errors(f"reading {record.file_name} back"):
            found = _Finished(outputs, record, meter, cancel)
            return None if found.is_as_recorded() else CHANGED
    except IntegrityError as error:
        return f"{CHANGED}: {error.message}"


class _Finished:
    """One finished disk and its open file."""

    def __init__(self, outputs: Outputs, record: DiskRecord, meter: Meter, cancel: CancelToken) -> None:
        self._outputs = outputs
        self._file = outputs.finished(record)
        self._record = record
        self._meter = meter
        self._cancel = cancel

    def is_as_recorded(self) -> bool:
        """Reads the file and compares it. Raises IntegrityError, OSError and Cancelled."""
        try:
            if self._record.tree is not None:
                self._meter.check_earlier(len(self._file.region))
                return tree_digest(self._file.descriptor, self._cancel, self._meter.add_read_back) == self._record.tree
            if self._record.sha256 is not None:
                return digests_of(self._pieces(), ["SHA256"])["SHA256"] == self._record.sha256
            assert self._record.receipt is not None
            wanted = self._record.receipt.content
            return self._stream_digest() == wanted if self._outputs.image.appended else self._rewritten(wanted)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise IntegrityError("the drive cannot read it") from error

    def _pieces(self) -> Iterator[memoryview]:
        self._meter.check_earlier(len(self._file.region))
        for piece in pieces(self._file.descriptor, self._file.region):
            self._cancel.check()
            yield piece
            self._meter.add_read_back(len(piece))

    @property
    def _capacity(self) -> int:
        return self._record.capacity_bytes

    def _rewritten(self, wanted: str | None) -> bool:
        """Compares the content digest; header and refcounts, which it does not cover, are written again."""
        file = self._file.held.from_byte(0)
        image = self._outputs.image.resume(file, self._capacity, self._outputs.spec.compress, lambda _: True)
        self._meter.check_earlier(self._capacity)
        digest = content_digest_of(
            image,
            self._capacity,
            stored=image.stored(),
            cancel=self._cancel,
            on_bytes=self._meter.add_read_back,
        )
        if digest != wanted:
            return False
        image.finish()
        self._record.size_bytes = file.size()
        return True

    def _stream_digest(self) -> str | None:
        """The content digest of a stream. Raises IntegrityError where its parts do not match."""
        front = os.pread(self._file.descriptor, FRONT_BYTES, self._file.region.start)
        if not is_front(front, self._capacity):
            raise IntegrityError("its header or descriptor is damaged")
        decoder = GrainDecoder(expected_capacity=self._capacity)
        with BlockLedger.unnamed(self._capacity) as blocks:
            for piece in self._pieces():
                for grain in decoder.feed(piece):
                    blocks.record(grain.offset // BLOCK, [hash_block(inflate(grain))])
            decoder.close()
            return blocks.content_digest()
