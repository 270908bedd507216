"""``/folder/PATH?dcPath=DC&dsName=DS``: files of datastores, with ranges; small uploads."""

from __future__ import annotations

import base64
import re
from contextlib import closing
from datetime import UTC
from email.utils import format_datetime, parsedate_to_datetime
from typing import Final
from urllib.parse import parse_qs, unquote

from hypersdk.simulator.counters import OpenRange
from hypersdk.simulator.datacenter import Datacenter
from hypersdk.simulator.delivery import Delivery
from hypersdk.simulator.faults import STREAM_FAULTS, Fault, FaultKind
from hypersdk.simulator.httpd import ClientConnection, Refusal
from hypersdk.simulator.nfc import stream_faults
from hypersdk.simulator.platform import Platform
from hypersdk.simulator.storage import MAX_UPLOAD_BYTES, Datastore, StoredFile, datastores
from hypersdk.simulator.values import MethodFault
from hypersdk.units import MiB

RANGE: Final = re.compile(r"^bytes=(\d{0,18})-(\d{0,18})$")


class FolderServer:
    """Serves datastores."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def serve(self, connection: ClientConnection, path: str, query: str) -> None:
        """Answers GET and HEAD."""
        store, name, cookie = self._locate(connection, path, query)
        with self._platform.world.lock:
            file = store.file(name)
        if file is None:
            raise Refusal(404, f"There is no file [{store.name}] {name}.")
        if file.content is None:
            raise Refusal(403, "The simulator lists this file but does not serve it.")
        if file.locked:
            raise Refusal(500, "The file is locked by a running virtual machine.")
        self._answer(connection, store, file, cookie)

    def upload(self, connection: ClientConnection, path: str, query: str) -> None:
        """Answers PUT."""
        store, name, cookie = self._locate(connection, path, query)
        data = connection.body(MAX_UPLOAD_BYTES)
        try:
            with self._platform.world.lock:
                new = store.put(name, data)
        except MethodFault as fault:
            raise Refusal(507 if fault.fault.type == "NoDiskSpace" else 500, fault.message) from fault
        connection.reply(201 if new else 200, b"", "text/plain", cookie)

    # Requests

    def _locate(self, connection: ClientConnection, path: str, query: str) -> tuple[Datastore, str, dict[str, str]]:
        """Datastore, path on it, and the header that sets a cookie. Raises Refusal."""
        cookie = self._authenticate(connection)
        privilege = "Datastore.FileManagement" if connection.command == "PUT" else "Datastore.Browse"
        if privilege in self._platform.config.denied_privileges:
            raise Refusal(403, f"Permission to perform this operation was denied: {privilege}.")
        options = parse_qs(query)
        names, places = options.get("dsName", []), options.get("dcPath", [])
        name = unquote(path).strip("/")
        if len(names) != 1 or not name or ".." in name.split("/"):
            raise Refusal(400, "A datastore (dsName) and a path are needed.")
        with self._platform.world.lock:
            datacenter = self._datacenter(places[0]) if places else None
            store = next(
                (store for store in datastores(self._platform.world, datacenter) if store.name == names[0]), None
            )
        if store is None or (places and datacenter is None):
            raise Refusal(404, f"There is no datastore '{names[0]}' in that datacenter.")
        return store, name, cookie

    def _datacenter(self, path: str) -> Datacenter | None:
        """The datacenter of an inventory path, with or without a leading slash."""
        wanted = "/" + path.strip("/")
        found = self._platform.world.all(Datacenter)
        return next((datacenter for datacenter in found if datacenter.path() == wanted), None)

    def _authenticate(self, connection: ClientConnection) -> dict[str, str]:
        """Headers for the response. Raises Refusal when the client has neither a session's cookie nor Basic
        credentials."""
        sessions = self._platform.sessions
        with self._platform.world.lock:
            if sessions.by_cookie(session_cookie(connection)) is not None:
                return {}
            credentials = _basic(connection.headers.get("Authorization", ""))
            if credentials is None or not sessions.accepts(*credentials):
                raise Refusal(401, "Log in first.", {"WWW-Authenticate": 'Basic realm="VMware HTTP server"'})
            return set_cookie(sessions.log_in(*credentials).cookie)

    # Responses

    def _answer(
        self, connection: ClientConnection, store: Datastore, file: StoredFile, headers: dict[str, str]
    ) -> None:
        requested = _range(connection, file)
        if connection.command == "HEAD":
            self._head(connection, file, requested, headers, None)
            return
        host = file.host or store.hosts[0].name
        book, machine, index = self._platform.faults, file.machine, file.disk_index
        kinds = STREAM_FAULTS - {FaultKind.LEASE_TIMEOUT}
        faults = stream_faults(book, kinds, host=host, machine=machine, index=index)
        offset, length = requested or (0, file.size_bytes)
        short = min([length, *(fault.after_bytes for fault in faults if fault.kind is FaultKind.SHORT)])
        self._head(connection, file, requested, headers, short)
        with closing(OpenRange(self._platform.counters, host, f"[{store.name}] {file.path}", offset)) as answer:
            self._pump(connection, file, offset, short, faults, answer)

    def _head(
        self,
        connection: ClientConnection,
        file: StoredFile,
        requested: tuple[int, int] | None,
        headers: dict[str, str],
        short: int | None,
    ) -> None:
        """Status and headers. ``short`` is the length of a body that will be shorter than the range that it claims to
        be."""
        offset, length = requested or (0, file.size_bytes)
        fields = {
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
            "ETag": file.etag,
            "Content-Length": str(length if short is None else short),
            "Last-Modified": format_datetime(file.modified, usegmt=True),
            **headers,
        }
        if requested is not None:
            fields["Content-Range"] = f"bytes {offset}-{offset + length - 1}/{file.size_bytes}"
        connection.head(200 if requested is None else 206, fields)

    def _pump(
        self,
        connection: ClientConnection,
        file: StoredFile,
        offset: int,
        length: int,
        faults: list[Fault],
        answer: OpenRange,
    ) -> None:
        delivery = Delivery(
            connection,
            faults,
            lambda: self._platform.config.rate_bytes_s,
            alive=lambda: not self._platform.world.closing,
            on_fault=lambda _fault: self._expire(connection),
            count=answer.sent,
            ending=answer.close,
            length=length,
        )
        for position in range(offset, offset + length, MiB):
            delivery.send(file.read(position, min(MiB, offset + length - position)))

    def _expire(self, connection: ClientConnection) -> None:
        with self._platform.world.lock:
            session = self._platform.sessions.by_cookie(session_cookie(connection))
            if session is not None:
                self._platform.sessions.end(session)


def session_cookie(connection: ClientConnection) -> str | None:
    """The session's id in the request: bare, quoted, or followed by the attributes that some clients send back."""
    for part in connection.headers.get("Cookie", "").replace(",", ";").split(";"):
        name, _, value = part.strip().partition("=")
        if name == "vmware_soap_session":
            return value.strip().strip('"')
    return None


def set_cookie(cookie: str) -> dict[str, str]:
    """The header that gives the client its session's cookie."""
    return {"Set-Cookie": f'vmware_soap_session="{cookie}"; Path=/; HttpOnly; Secure'}


def _basic(header: str) -> tuple[str, str] | None:
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(token, validate=True).decode().partition(":")
    except ValueError:  # not Base64, not ASCII, or not UTF-8 inside
        return None
    return user, password


def _range(connection: ClientConnection, file: StoredFile) -> tuple[int, int] | None:
    """Offset and length requested for; ``None`` for the whole file. Raises Refusal for a range outside of the file."""
    match = RANGE.match(connection.headers.get("Range", "").strip())
    if match is None or (match[1] == match[2] == "") or not _still_valid(connection.headers.get("If-Range", ""), file):
        return None
    size = file.size_bytes
    if match[1] == "":
        start, end = max(0, size - int(match[2])), size - 1
    else:
        start, end = int(match[1]), min(int(match[2] or size - 1), size - 1)
    if start >= size or start > end:
        raise Refusal(416, "The range lies outside of the file.", {"Content-Range": f"bytes */{size}"})
    return start, end - start + 1


def _still_valid(condition: str, file: StoredFile) -> bool:
    """If-Range: whether the file is still the one that the client knows."""
    if not condition:
        return True
    if condition.startswith('"'):
        return condition == file.etag
    try:
        moment = parsedate_to_datetime(condition)
    except ValueError:
        return False
    return moment.replace(tzinfo=UTC) == file.modified.replace(microsecond=0)
