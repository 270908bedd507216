"""The paths of the simulator, and what serves them."""

from __future__ import annotations

from html import escape
from urllib.parse import SplitResult, urlsplit

from hypersdk.simulator.decode import MAX_REQUEST_BYTES
from hypersdk.simulator.dispatch import Dispatcher
from hypersdk.simulator.folder import FolderServer, session_cookie, set_cookie
from hypersdk.simulator.httpd import ClientConnection, Refusal, bad_request
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

    def __call__(self, connection: ClientConnection) -> None:
        """Answers one request."""
        try:
            url = urlsplit(connection.path)
        except ValueError as error:
            raise bad_request("the path cannot be read") from error
        answer = {"POST": self._post, "PUT": self._put}.get(connection.command, self._get)
        answer(connection, url)

    def _get(self, connection: ClientConnection, url: SplitResult) -> None:
        """GET and HEAD."""
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
            raise Refusal(404, "The simulator serves /sdk, /folder and /nfc.")

    def _post(self, connection: ClientConnection, url: SplitResult) -> None:
        """SOAP calls."""
        if url.path.rstrip("/") not in ("/sdk", "/sdk/vimService"):
            raise Refusal(404, "SOAP calls go to /sdk.")
        body = connection.body(MAX_REQUEST_BYTES)
        answer = self._dispatcher.answer(body, session_cookie(connection), connection.peer_gone)
        headers = set_cookie(answer.cookie) if answer.cookie is not None else {}
        connection.reply(answer.status, answer.body, XML, headers)

    def _put(self, connection: ClientConnection, url: SplitResult) -> None:
        """Uploads."""
        if not url.path.startswith("/folder/"):
            raise Refusal(404, "Uploads go to /folder.")
        self._folder.upload(connection, url.path.removeprefix("/folder"), url.query)

    def _welcome(self) -> str:
        names = "".join(
            f"<li>{escape(machine.path())} ({machine.power})</li>"
            for machine in self._platform.world.all(SimulatedMachine)[:500]
        )
        return f"<!doctype html><title>HyperSDK simulator</title><h1>HyperSDK simulator</h1><ul>{names}</ul>"
