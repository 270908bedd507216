"""Where the bytes of one disk come from: a stream that is decoded, or ranges of a raw disk.

Implemented by ``vsphere`` (lease stream, datastore ranges) and by ``migration`` (local files). Errors are already
translated: TransientError may be tried again, everything else ends the disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from hypersdk.transfer.cancel import CancelToken


@dataclass(frozen=True, slots=True)
class StreamDigests:
    """Hex digests of the bytes received from first to last; ``None`` for those not asked for."""

    sha256: str | None
    sha1: str | None
    length_bytes: int


class ByteStream(Protocol):
    """An open stream. ``readinto`` blocks; 0 means the end that the protocol itself confirmed (a short body is an
    error)."""

    length_bytes: int | None
    """Length announced by the server, when there is one."""
    route: str
    """Where it comes from, for people: ``esx1.example.com via vCenter``."""

    def readinto(self, buffer: memoryview) -> int:
        """Fills up to ``len(buffer)`` bytes; returns how many. Raises TransientError on reset, stall or a short
        body."""


class StreamSource(Protocol):
    """A streamOptimized VMDK. Every ``open`` starts at the first byte of **the same point in time**."""

    label: str
    capacity_bytes: int
    allocated_bytes: int | None
    """Bytes the source says are allocated: the basis of the percentage when no length is known."""
    wants_sha1: bool
    """The server's manifest only has SHA-1."""
    host: str
    """The real host that serves it, for the budget (streams per host)."""

    def open(self, cancel: CancelToken) -> AbstractContextManager[ByteStream]:
        """Opens the stream from its first byte. A lost lease is renewed inside, when the point in time is provably the
        same.

        After ``cancel`` a ``readinto`` that blocks should raise within half a second. One that does not is woken by
        leaving the context from another thread, which must then end it: shut the socket down, do not merely close it.

        Raises TransientError when another try may help, SourceError otherwise.
        """


@runtime_checkable
class RangeSource(Protocol):
    """A raw disk that serves ranges, frozen while it is read. Several ranges may be read at once from several
    threads."""

    label: str
    capacity_bytes: int
    host: str

    def extents(self, cancel: CancelToken) -> Iterator[tuple[int, int]]:
        """``(offset, length)`` of areas that may hold data, rising. The whole disk as one area where nothing better is
        known."""

    def read(self, offset: int, buffer: memoryview, cancel: CancelToken) -> None:
        """Fills the whole ``buffer`` from guest ``offset``. Raises TransientError when another try may help."""


DiskSource = StreamSource | RangeSource
