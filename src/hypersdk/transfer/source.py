"""Where the bytes of one disk come from: a stream that is decoded, or ranges of a raw disk.

Implemented by ``vsphere`` (lease stream, datastore ranges) and by ``migration`` (local files). They raise HyperSDK's
errors: TransientError may be retried, everything else ends the copy of the disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from hypersdk.transfer.cancel import CancelToken

StreamAlgorithm: TypeAlias = Literal["sha256", "sha1"]


@dataclass(frozen=True, slots=True)
class StreamDigests:
    """Hex digests of the bytes received from first to last; ``None`` for those not asked for."""

    sha256: str | None
    sha1: str | None
    length_bytes: int


class ByteStream(Protocol):
    """An open stream. ``readinto`` blocks; 0 means the end as confirmed by the protocol (a short body is an error)."""

    length_bytes: int | None
    """Length announced by the server, if any."""
    route: str
    """The route to show to the user: ``esx1.example.com via vCenter``."""

    def readinto(self, buffer: memoryview) -> int:
        """Fills up to ``len(buffer)`` bytes; returns how many. Raises TransientError on reset, stall or a short
        body."""


class StreamSource(Protocol):
    """A streamOptimized VMDK. Every ``open`` starts at the first byte of **the same point in time** of the disk."""

    label: str
    capacity_bytes: int
    allocated_bytes: int | None
    """Bytes the source says are allocated: the basis of the percentage when no length is known."""
    algorithm: StreamAlgorithm
    """The digest that the manifest of the source has. Read once the stream is open: another lease may have another."""
    host: str
    """The ESXi host that serves it, for the budget (streams per host)."""

    def open(self, cancel: CancelToken) -> AbstractContextManager[ByteStream]:
        """Opens the stream at its first byte. Renews a lost lease when the point in time is provably the same.

        After ``cancel`` a blocked ``readinto`` should raise within half a second. Otherwise another thread leaves the
        context, which must end it: shut the socket down, do not merely close it.

        Raises TransientError when a retry may help, SourceError otherwise.
        """


@runtime_checkable
class RangeSource(Protocol):
    """A raw disk that serves ranges, frozen while it is read. Several ranges may be read at once from several
    threads."""

    label: str
    capacity_bytes: int
    host: str

    def extents(self, cancel: CancelToken) -> Iterator[tuple[int, int]]:
        """Yields ``(offset, length)`` of ranges that may hold data, rising; the whole disk where nothing better is
        known."""

    def read(self, offset: int, buffer: memoryview, cancel: CancelToken) -> None:
        """Fills the whole ``buffer`` from guest ``offset``. Raises TransientError when a retry may help."""


DiskSource = StreamSource | RangeSource
