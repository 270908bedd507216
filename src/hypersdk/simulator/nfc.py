"""``/nfc/TICKET/FILE``: the files of an open lease. Disks are generated while they are sent: chunked, without a length,
without ranges."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import closing
from typing import Final

from hypersdk.simulator.content import DiskImage
from hypersdk.simulator.counters import OpenStream
from hypersdk.simulator.delivery import Delivery, EndEarly
from hypersdk.simulator.faults import STREAM_FAULTS, Fault, FaultBook, FaultKind
from hypersdk.simulator.httpd import ClientConnection, Refusal
from hypersdk.simulator.lease import ExportLease, LeaseFile, open_leases
from hypersdk.simulator.platform import Platform
from hypersdk.simulator.stream import VmdkStream
from hypersdk.simulator.values import MethodFault
from hypersdk.units import MiB

CONTENT_TYPE: Final = "application/x-vnd.vmware-streamVmdk"
EXHAUSTED: Final = "NFC server failed to allocate a buffer: the host has too many open streams"


class NfcServer:
    """Serves leases. Digests of streams are kept: the same content has the same stream."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._digests: defaultdict[str, dict[str, str]] = defaultdict(dict)  # by content, then by algorithm

    def serve(self, connection: ClientConnection, ticket: str, name: str) -> None:
        """Answers one GET."""
        with self._platform.world.lock:
            lease = next((lease for lease in open_leases(self._platform.world) if lease.ticket == ticket), None)
            file = lease.file(name) if lease is not None and lease.state == "ready" else None
        if lease is None or file is None or connection.site.host not in (None, lease.machine.host.ref.moref):
            raise Refusal(404, "There is no such file in an open lease here.")
        if connection.command == "HEAD":
            self._head(connection, file)
            return
        host, machine = lease.machine.host.name, lease.machine.spec.name
        label = f"{machine}:{file.index}" if file.index is not None else f"{machine}:{file.name}"
        limit = self._platform.config.nfc_streams_per_host
        book = self._platform.faults
        via_vcenter = connection.site.host is None
        with closing(self._platform.counters.open_stream(host, label, via_vcenter=via_vcenter)) as stream:
            if limit is not None and stream.number > limit:
                raise Refusal(500, EXHAUSTED)
            faults = stream_faults(book, STREAM_FAULTS, host=host, machine=machine, index=file.index)
            self._send(connection, lease, file, faults, stream)

    def _head(self, connection: ClientConnection, file: LeaseFile) -> bool:
        """Status and headers; says whether the body will be chunked."""
        if file.index is None:
            length = str(file.capacity_bytes)
            connection.head(200, {"Content-Type": "application/octet-stream", "Content-Length": length})
            return False
        chunked = connection.request_version != "HTTP/1.0"
        framing = {"Transfer-Encoding": "chunked"} if chunked else {"Connection": "close"}
        connection.close_connection = not chunked
        connection.head(200, {"Content-Type": CONTENT_TYPE, **framing})
        return chunked

    def _send(
        self,
        connection: ClientConnection,
        lease: ExportLease,
        file: LeaseFile,
        faults: list[Fault],
        stream: OpenStream,
    ) -> None:
        chunked = self._head(connection, file)
        world = self._platform.world
        delivery = Delivery(
            connection,
            faults,
            lambda: self._platform.config.rate_bytes_s,
            chunked=chunked,
            alive=lambda: not lease.ended and not world.closing,
            on_fault=lambda fault: self._end_lease_or_session(lease, fault),
            count=stream.sent,
            ending=stream.close,
            length=file.capacity_bytes if file.index is None else None,
        )
        try:
            self._pump(delivery, lease, file)
        except EndEarly:
            if not chunked:
                connection.drop()
        if chunked:
            stream.close()
            connection.wfile.write(b"0\r\n\r\n")

    def _pump(self, delivery: Delivery, lease: ExportLease, file: LeaseFile) -> None:
        """Sends the whole file and records its digests before the last bytes are sent, as the host does."""
        known = self._digests[f"{file.content.key()}/{file.name}"] if isinstance(file.content, DiskImage) else {}
        wanted = lease.digests()
        hashes = {name: hashlib.new(name, usedforsecurity=False) for name in wanted if name not in known}
        last, starts = b"", [0]
        for data, next_starts in _pieces(file):
            for digest in hashes.values():
                digest.update(data)
            if last:
                delivery.send(last, starts)
            last, starts = data, next_starts
        known.update({name: digest.hexdigest() for name, digest in hashes.items()})
        before = file.digests, file.sent_bytes
        self._note(file, {name: known[name] for name in wanted}, delivery.sent + len(last))
        try:
            delivery.send(last, starts)
        except BaseException:
            self._note(file, *before)
            raise

    def _note(self, file: LeaseFile, digests: dict[str, str], sent_bytes: int) -> None:
        with self._platform.world.lock:
            file.digests, file.sent_bytes = digests, sent_bytes

    def _end_lease_or_session(self, lease: ExportLease, fault: Fault) -> None:
        """Faults that end the lease or the session during the stream."""
        with self._platform.world.lock:
            if fault.kind is FaultKind.LEASE_TIMEOUT:
                lease.end(MethodFault.of("Timedout", "The lease timed out."))
            elif fault.kind is FaultKind.SESSION_EXPIRY and lease.owner is not None:
                self._platform.sessions.end(lease.owner)


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


def stream_faults(
    book: FaultBook, kinds: Collection[FaultKind], *, host: str, machine: str | None, index: int | None
) -> list[Fault]:
    """The faults of a stream that begins. Raises Refusal where one refuses it."""
    fault = book.take_refusal(host=host, machine=machine, index=index)
    if fault is None:
        return book.take(kinds, host=host, machine=machine, index=index)
    if fault.kind is FaultKind.NFC_EXHAUSTED:
        raise Refusal(500, EXHAUSTED)
    retry = {"Retry-After": str(fault.retry_after_s)} if fault.retry_after_s is not None else None
    raise Refusal(fault.status, "The simulator refuses the request: an injected fault.", retry)
