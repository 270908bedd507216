"""``/nfc/TICKET/FILE``: the files of an open lease. Disks are made while they are sent: chunked, without a length, without ranges."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

from hypersdk.simulator.content import DiskImage
from hypersdk.simulator.delivery import Delivery, EndEarly
from hypersdk.simulator.fault import MethodFault
from hypersdk.simulator.faults import STREAM_FAULTS, Fault, FaultKind
from hypersdk.simulator.httpd import Connection
from hypersdk.simulator.lease import Lease, LeaseFile
from hypersdk.simulator.platform import Platform
from hypersdk.simulator.stream import VmdkStream
from hypersdk.units import MiB

CONTENT_TYPE: Final = "application/x-vnd.vmware-streamVmdk"
EXHAUSTED: Final = "NFC server failed to allocate a buffer: the host has too many open streams"
Digests = tuple[str, str, int]


def chunk_frame(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def plain_frame(data: bytes) -> bytes:
    """Bytes of a body with a length."""
    return data


class NfcServer:
    """Serves leases. Digests of streams are kept: the same content has the same stream."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._digests: dict[str, Digests] = {}

    def serve(self, connection: Connection, ticket: str, name: str) -> None:
        """Answers one GET."""
        with self._platform.world.lock:
            lease = self._platform.lease(ticket)
            file = lease.file(name) if lease is not None and lease.state == "ready" else None
        if lease is None or file is None or connection.site.host not in (None, lease.machine.host.ref.moref):
            connection.refuse(404, "There is no such file in an open lease here.")
            return
        host, machine = lease.machine.host.name, lease.machine.spec.name
        label = f"{machine}:{file.index}" if file.index is not None else f"{machine}:{file.name}"
        faults = self._platform.faults.take(
            STREAM_FAULTS | {FaultKind.SESSION_EXPIRY}, host=host, machine=machine, index=file.index
        )
        with self._platform.counters.nfc_stream(host, label, via_vcenter=connection.site.host is None) as streams:
            limit = self._platform.config.nfc_streams_per_host
            if limit is not None and streams > limit:
                connection.refuse(500, EXHAUSTED)
            elif not refused(connection, faults):
                self._send(connection, lease, file, faults, label)

    def _send(self, connection: Connection, lease: Lease, file: LeaseFile, faults: list[Fault], label: str) -> None:
        disk = isinstance(file.content, DiskImage) and file.index is not None
        chunked = disk and connection.request_version != "HTTP/1.0"
        connection.send_response(200)
        connection.send_header("Content-Type", CONTENT_TYPE if disk else "application/octet-stream")
        if chunked:
            connection.send_header("Transfer-Encoding", "chunked")
        elif disk:
            connection.send_header("Connection", "close")
            connection.close_connection = True
        else:
            connection.send_header("Content-Length", str(file.capacity_bytes))
        connection.end_headers()
        if connection.command == "HEAD":
            return
        delivery = Delivery(
            connection, faults, self._platform.config.rate_bytes_s, frame=chunk_frame if chunked else plain_frame,
            alive=lambda: not lease.ended and not self._platform.world.closing, struck=lambda fault: self._strike(lease, fault),
        )  # fmt: skip
        try:
            self._pump(delivery, lease, file)
        except EndEarly:
            if not chunked:
                connection.drop()
        finally:
            self._platform.counters.sent(label, delivery.sent)
        if chunked:
            connection.transmit(b"0\r\n\r\n")

    def _pump(self, delivery: Delivery, lease: Lease, file: LeaseFile) -> None:
        """Sends the whole file and notes its digests, as the host does."""
        key = f"{file.content.key()}/{file.name}" if isinstance(file.content, DiskImage) else ""
        known = self._digests.get(key)
        hashes = [] if known else [hashlib.sha1(usedforsecurity=False), hashlib.sha256()]
        for data, starts in _pieces(file):
            for one in hashes:
                one.update(data)
            delivery.send(data, starts)
        if not known:
            known = (hashes[0].hexdigest(), hashes[1].hexdigest(), delivery.sent)
            if key:
                self._digests[key] = known
        with self._platform.world.lock:
            file.sha1, file.sha256, file.sent_bytes = known

    def _strike(self, lease: Lease, fault: Fault) -> None:
        """Faults that take the lease or the session away under the stream."""
        with self._platform.world.lock:
            if fault.kind is FaultKind.LEASE_TIMEOUT:
                lease.end(MethodFault.of("Timedout", "The lease timed out."))
            elif fault.kind is FaultKind.SESSION_EXPIRY and lease.owner is not None:
                session = self._platform.sessions.by_key(lease.owner)
                if session is not None:
                    self._platform.sessions.end(session)


def _pieces(file: LeaseFile) -> Iterator[tuple[bytes, list[int]]]:
    """The body in pieces, with the offsets at which grains begin."""
    if isinstance(file.content, DiskImage) and file.index is not None:
        stream = VmdkStream(file.content, file.name)
        for chunk in stream.chunks():
            yield chunk, stream.next_chunk_starts()
    else:
        for offset in range(0, file.capacity_bytes, MiB):
            content = file.content
            piece = content.read(offset, MiB) if isinstance(content, DiskImage) else content[offset : offset + MiB]
            yield piece, []


def refused(connection: Connection, faults: list[Fault]) -> bool:
    """Whether a fault answers the request with an error instead of data."""
    for fault in faults:
        if fault.kind is FaultKind.NFC_EXHAUSTED:
            connection.refuse(500, EXHAUSTED)
            return True
        if fault.kind is FaultKind.STATUS:
            retry = {"Retry-After": str(fault.retry_after_s)} if fault.retry_after_s is not None else None
            connection.refuse(fault.status, "The simulator refuses on purpose.", retry)
            return True
    return False
