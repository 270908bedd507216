"""Leases for tests: a journal that records the order of its entries, and streams read to their end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypersdk.simulator import DiskSpec, MachineSpec, Simulator
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.retry import RetryPolicy
from hypersdk.transfer.source import StreamDigests, StreamSource
from hypersdk.units import MiB
from hypersdk.vsphere.lease import LeasedExport
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.stale import LeaseRecord

SMALL = MachineSpec("web", (DiskSpec(4 * MiB, allocated_bytes=2 * MiB),))
QUICK = RetryPolicy(first_s=0.05, max_s=0.1)


@dataclass(slots=True)
class Book:
    """A journal of leases. ``before`` is called with each record that is about to be written down as opened."""

    before: Callable[[LeaseRecord], None] = lambda _record: None
    entries: list[tuple[str, LeaseRecord]] = field(default_factory=list)

    def opened(self, record: LeaseRecord) -> None:
        self.before(record)
        self.entries.append(("opened", record))

    def closed(self, record: LeaseRecord) -> None:
        self.entries.append(("closed", record))

    @property
    def words(self) -> list[str]:
        """``opened ?`` is a request that is not answered yet."""
        return [f"{word} {'lease' if record.lease_moref else '?'}" for word, record in self.entries]

    @property
    def left(self) -> list[LeaseRecord]:
        """What would have to be undone after a crash now."""
        closed = [record for word, record in self.entries if word == "closed"]
        return [record for word, record in self.entries if word == "opened" and record not in closed]

    @property
    def leases(self) -> list[LeaseRecord]:
        """All leases that were opened, in their order."""
        return [record for word, record in self.entries if word == "opened" and record.lease_moref]


def moref_of(server: Simulator, name: str = "web") -> str:
    """The moref of a simulator's machine."""
    return server.vm(name).ref.moref


def lease_on(session: Session, moref: str, book: Book, **more: Any) -> LeasedExport:
    """A lease, not entered yet."""
    settings: dict[str, Any] = {"snapshot": None, "same_point": lambda: None, "cancel": CancelToken(), "retry": QUICK}
    return LeasedExport(session, moref=moref, on_opened=book.opened, on_closed=book.closed, **{**settings, **more})


def read_all(source: StreamSource, cancel: CancelToken | None = None) -> StreamDigests:
    """Reads a stream from its first byte to its last."""
    sha256, sha1, length = hashlib.sha256(), hashlib.sha1(), 0
    buffer = memoryview(bytearray(MiB))
    with source.open(cancel or CancelToken()) as stream:
        while count := stream.readinto(buffer):
            sha256.update(buffer[:count])
            sha1.update(buffer[:count])
            length += count
    assert length
    return StreamDigests(sha256.hexdigest(), sha1.hexdigest(), length)


def held(server: Simulator, name: str = "web") -> bool:
    """Whether a lease holds the machine."""
    with server.platform.world.lock:
        return server.vm(name).lease is not None
