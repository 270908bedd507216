"""The interface of all image writers and of the files that they write to.

::

    transfer ──write / write_deflated──> ImageWriter ──pwrite──> BlockFile (a file, a region of an OVA, memory)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol, TypeAlias

from hypersdk.units import KiB

Buffer: TypeAlias = bytes | bytearray | memoryview

BLOCK: Final = 64 * KiB
"""Bytes of one block: a VMDK grain, a qcow2 cluster and the unit of digests, ledgers and resume are all 64 KiB."""


class ReadableFile(Protocol):
    """Positioned reading. Thread-safe; reads past the end are short; raises OSError."""

    def pread(self, length: int, offset: int) -> bytes:
        """Returns up to ``length`` bytes at ``offset``; fewer only at the end of the file."""

    def size(self) -> int:
        """Returns the bytes from the start to the end of the file."""


class BlockFile(ReadableFile, Protocol):
    """Positioned access to the bytes of one output. Thread-safe; reads past the end are short; raises OSError."""

    def pwrite(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Writes all buffers, one after another, at ``offset``; never short."""

    def truncate(self, size: int) -> None:
        """Sets the size; added bytes read as zeros and take no space."""

    def discard(self, offset: int, length: int) -> None:
        """Frees the space of a range where the file system can (punch hole); it always reads as zeros afterwards."""

    def data_runs(self, start: int) -> Iterator[range]:
        """Returns runs of bytes from ``start`` on that hold data, rising; between them are holes. All is data where the
        file system has no holes."""

    def sync(self) -> None:
        """Makes all that was written durable (fdatasync)."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One deflated block for ``write_deflated``: guest ``offset`` (multiple of BLOCK), inflated ``length`` in bytes,
    the RFC 1950 stream."""

    offset: int
    length: int
    zlib: Buffer


class ImageWriter(Protocol):
    """Writes one guest disk of ``capacity`` bytes. What is never written reads as zeros.

    Disjoint ranges may be written from several threads. A block that the image has is not written again, unless it was
    dropped. When ``write*`` returns, data **and the table entries that lead to it** have been handed to the operating
    system: they survive the death of this process (not a power cut; ``sync`` is for that). OSError passes through
    unchanged. After any error, and after ``finish``, the writer cannot be used any more: the image is resumed with a
    new one.
    """

    ordered: ClassVar[bool]
    """Whether blocks should come in the order of the stream, one call at a time."""
    capacity: int

    def write(self, offset: int, data: Buffer) -> None:
        """Writes ``data`` at guest ``offset``. ``offset`` is a multiple of BLOCK; so is the length, except at the end
        of the disk."""

    def write_deflated(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Stores compressed blocks as they are where the format can; returns the others: inflate them and call
        ``write``.

        A writer without compression returns all of them. The caller has checked the grains (or was told not to).
        """

    def sync(self) -> None:
        """Makes all that was written so far durable."""

    def finish(self) -> None:
        """Writes the tables, then the header, and syncs. Before it returns, no reader accepts the file as an image."""

    def stored(self) -> Iterator[range]:
        """Returns runs of blocks that may read as anything but zeros, rising. Not while others write."""

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fills ``buffer`` from guest ``offset``, through the image's own tables. Whole blocks, as in ``write``.

        Thread-safe; not while others write there. Raises IntegrityError where the data cannot be decoded.
        """

    def drop(self, blocks: Iterable[int]) -> None:
        """Removes ``blocks``, which rise: they read as zeros until they are written again. A writer that appends may
        lose other blocks with them; ``stored`` has what is left. Not while others write."""


def check_range(offset: int, length: int, capacity: int) -> None:
    """Raises ValueError unless the range is valid for ``ImageWriter.write``: whole blocks within the disk; only the
    last block of the disk may be short."""
    end = offset + length
    if offset < 0 or offset % BLOCK or length <= 0 or end > capacity or (end % BLOCK and end != capacity):
        raise ValueError(f"a writer takes whole blocks of its disk, not {length} bytes at {offset} of {capacity}")


def runs_of(indexes: Iterable[int]) -> Iterator[range]:
    """Joins rising ``indexes`` to runs of neighbours."""
    start = end = 0
    for index in indexes:
        if index != end:
            if end > start:
                yield range(start, end)
            start = index
        end = index + 1
    if end > start:
        yield range(start, end)
