"""The paths of the simulator, and what serves them."""

from __future__ import annotations

from html import escape
from urllib.parse import SplitResult, urlsplit

from hypersdk.simulator.decode import MAX_REQUEST_BYTES
from hypersdk.simulator.dispatch import Dispatcher
from hypersdk.simulator.folder import FolderServer, session_cookie
from hypersdk.simulator.httpd import BadRequest, ClientConnection
from hypersdk.simulator.machine import SimulatedMachine
from hypersdk.simulator.nfc import NfcServer
from hypersdk.simulator.platform import Platform
from hypersdk.simulator.service import VERSIONS_XML

XML = "text/xml; charset=utf-8"


class SimulatorRouter:
    """The paths of a vCenter: ``/sdk``, ``/folder``, ``/nfc``."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._dispatcher = Dispatcher(platform)
        self._nfc = NfcServer(platform)
        self._folder = FolderServer(platform)

    def get(self, connection: ClientConnection) -> None:
        """GET and HEAD."""
        url = _split(connection.path)
        parts = url.path.split("/")
        if url.path == "/sdk/vimServiceVersions.xml":
            connection.reply(200, VERSIONS_XML.encode(), XML)
        elif parts[1:2] == ["nfc"] and len(parts) == 4:
            self._nfc.serve(connection, parts[2], parts[3])
        elif parts[1:2] == ["folder"]:
            self._folder.serve(connection, url.path.removeprefix("/folder"), url.query)
        elif url.path == "/":
            connection.reply(200, self._welcome().encode(), "text/html; charset=utf-8")
        else:
            connection.refuse(404, "The simulator serves /sdk, /folder and /nfc.")

    def post(self, connection: ClientConnection) -> None:
        """SOAP calls."""
        if _split(connection.path).path.rstrip("/") not in ("/sdk", "/sdk/vimService"):
            connection.refuse(404, "SOAP calls go to /sdk.")
            return
        body = connection.body(MAX_REQUEST_BYTES)
        cookie = session_cookie(connection.headers.get("Cookie", ""))
        answer = self._dispatcher.answer(body, cookie, connection.peer_gone)
        headers = {}
        if answer.cookie is not None:
            headers["Set-Cookie"] = f'vmware_soap_session="{answer.cookie}"; Path=/; HttpOnly; Secure'
        connection.reply(answer.status, answer.body, XML, headers)

    def put(self, connection: ClientConnection) -> None:
        """Uploads."""
        url = _split(connection.path)
        if not url.path.startswith("/folder/"):
            connection.refuse(404, "Uploads go to /folder.")
            return
        self._folder.upload(connection, url.path.removeprefix("/folder"), url.query)

    def _welcome(self) -> str:
        names = "".join(
            f"<li>{escape(machine.path())} ({machine.power})</li>"
            for machine in self._platform.world.all(SimulatedMachine)[:500]
        )
        return f"<!doctype html><title>HyperSDK simulator</title><h1>HyperSDK simulator</h1><ul>{names}</ul>"


def _split(path: str) -> SplitResult:
    try:
        return urlsplit(path)
    except ValueError as error:
        raise BadRequest("the path cannot be read") from error
