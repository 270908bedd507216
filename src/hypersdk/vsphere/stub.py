"""pyVmomi's SOAP stub on our connections. Imported late: pyVmomi takes half a second."""

from __future__ import annotations

import http.client
import weakref
from collections.abc import Callable
from typing import Any, Final

from pyVmomi import vim
from pyVmomi.SoapAdapter import SoapStubAdapter
from pyVmomi.VmomiSupport import GetServiceVersions, versionIdMap

from hypersdk.errors import ConnectError
from hypersdk.units import MiB
from hypersdk.vsphere.connection import TrustedConnection
from hypersdk.vsphere.faults import BAD_ANSWER

MAX_ANSWER_BYTES: Final = 64 * MiB
"""What pyVmomi decodes: one machine, one task, one descriptor. Lists are read by ``soap``, which has a limit of its own."""
IDLE_CONNECTION_S: Final = 240
"""A pooled connection that was idle for longer is not used again: proxies and firewalls forget it after some minutes."""


class BoundedAnswer(http.client.HTTPResponse):
    """An answer of ``MAX_ANSWER_BYTES`` at most: pyVmomi makes objects of all that comes, and a job may name its own server."""

    _taken = 0

    def read(self, amt: int | None = None) -> bytes:
        """As ``HTTPResponse``; raises HTTPException beyond the limit."""
        most = MAX_ANSWER_BYTES - self._taken + 1
        data = super().read(most if amt is None else min(amt, most))
        self._taken += len(data)
        if self._taken > MAX_ANSWER_BYTES:
            raise http.client.HTTPException(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        return data


class SessionStub(SoapStubAdapter):  # type: ignore[misc]  # pyVmomi is untyped
    """Connects through ``make_connection``; an answer that pyVmomi cannot decode is a ConnectError ``bad_answer``, not a KeyError."""

    def __init__(self, address: str, version: str, make_connection: Callable[[], TrustedConnection]) -> None:
        # Not compressed: what a few bytes may become is known only once it is there.
        super().__init__(
            host=address, version=version, connectionPoolTimeout=IDLE_CONNECTION_S, acceptCompressedResponses=False
        )
        self._make_connection = make_connection
        self._in_use: weakref.WeakSet[TrustedConnection] = weakref.WeakSet()
        self.aborted = False

    def GetConnection(self) -> Any:  # noqa: N802 - pyVmomi's name
        with self.lock:
            self._check()
            self._CloseIdleConnections()
            if self.pool:
                connection, _ = self.pool.pop(0)
                connection.response_class = BoundedAnswer
                self._in_use.add(connection)
                return connection
        connection = self._make_connection()
        connection.response_class = BoundedAnswer
        with self.lock:
            self._check()
            self._in_use.add(connection)
        connection.connect()
        return connection

    def ReturnConnection(self, conn: Any) -> None:  # noqa: N802
        self._in_use.discard(conn)
        super().ReturnConnection(conn)

    def abort(self) -> None:
        """Ends all calls that other threads wait for, with an error there, and takes no more. Thread-safe."""
        with self.lock:
            self.aborted = True
            waiting = list(self._in_use)
        for connection in waiting:
            connection.abort()

    def _check(self) -> None:
        if self.aborted:
            raise ConnectionAbortedError("the session was broken off")

    def InvokeMethod(self, mo: Any, info: Any, args: Any, outerStub: Any = None) -> Any:  # noqa: N802, N803 - pyVmomi's names
        try:
            return super().InvokeMethod(mo, info, args, outerStub)
        except (KeyError, AttributeError, TypeError, ValueError) as exc:
            # pyVmomi meets unknown types, unknown enum values and untyped values with these (it raises faults as they are).
            raise ConnectError(
                f"the answer to {info.wsdlName} cannot be decoded: {type(exc).__name__}",
                code=BAD_ANSWER,
                method=info.wsdlName,
            ) from exc


def api_versions() -> list[tuple[str, str]]:
    """pyVmomi's versions of the API as ``(name, number on the wire)``, newest first."""
    return [(name, versionIdMap[name].rpartition("/")[2]) for name in GetServiceVersions("vim25")]


def service_instance(stub: SessionStub) -> Any:
    """The root object of the API."""
    return vim.ServiceInstance("ServiceInstance", stub)
