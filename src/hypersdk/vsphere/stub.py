"""pyVmomi's SOAP stub on our connections. Imported late: pyVmomi takes half a second to import."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import NoneType
from typing import Any, Final

from pyVmomi.SoapAdapter import SoapStubAdapter
from pyVmomi.VmomiSupport import F_OPTIONAL, GetServiceVersions, versionIdMap

from hypersdk.errors import ConnectError
from hypersdk.vsphere.answers import UNKNOWN_SERVER
from hypersdk.vsphere.connection import TrustedConnection
from hypersdk.vsphere.faults import BAD_ANSWER

IDLE_CONNECTION_S: Final = 240
"""A pooled connection that was idle for longer is not reused: proxies and firewalls drop it after some minutes."""


class SessionStub(SoapStubAdapter):  # type: ignore[misc]  # pyVmomi is untyped
    """Connects through ``make_connection``; an answer that pyVmomi cannot decode is a ConnectError ``bad_answer``, not
    a KeyError."""

    def __init__(self, address: str, version: str, make_connection: Callable[[], TrustedConnection]) -> None:
        # Not compressed: the size of compressed data is known only after it is decompressed.
        super().__init__(
            host=address, version=version, connectionPoolTimeout=IDLE_CONNECTION_S, acceptCompressedResponses=False
        )
        self.limits = UNKNOWN_SERVER  # of the answers that pyVmomi decodes
        self._make_connection = make_connection
        self._in_use: weakref.WeakSet[TrustedConnection] = weakref.WeakSet()
        self.aborted = False

    def GetConnection(self) -> Any:  # noqa: N802 - pyVmomi's name
        with self.lock:
            self._check()
            self._CloseIdleConnections()
            if self.pool:
                connection, _ = self.pool.pop(0)
                connection.limits = self.limits
                self._in_use.add(connection)
                return connection
        connection = self._make_connection()
        connection.limits = self.limits
        with self.lock:
            self._check()
            self._in_use.add(connection)
        connection.connect()
        return connection

    def ReturnConnection(self, conn: Any) -> None:  # noqa: N802
        self._in_use.discard(conn)
        super().ReturnConnection(conn)

    def abort(self) -> None:
        """Fails all pending calls of other threads, and all later ones. Thread-safe."""
        with self.lock:
            self.aborted = True
            waiting = list(self._in_use)
        for connection in waiting:
            connection.abort()

    def _check(self) -> None:
        if self.aborted:
            raise ConnectionAbortedError("the session was aborted")

    def InvokeMethod(self, mo: Any, info: Any, args: Any, outerStub: Any = None) -> Any:  # noqa: N802, N803 - pyVmomi's
        try:
            found = super().InvokeMethod(mo, info, args, outerStub)
        except (KeyError, AttributeError, TypeError, ValueError, AssertionError, RecursionError, OverflowError) as exc:
            # pyVmomi raises these for unknown types, unknown enum values and untyped values (and faults as they are).
            raise _undecodable(info, f"cannot be decoded: {type(exc).__name__}") from exc
        if isinstance(found, Exception):
            raise found  # a fault that came with the status 200, which pyVmomi takes for the result
        if not _fits(found, info):
            raise _undecodable(info, "is not of its type")
        # A list without an element is nothing on the wire.
        return info.result() if found is None and _is_list(info) else found


def _undecodable(info: Any, why: str) -> ConnectError:
    return ConnectError(f"the answer to {info.wsdlName} {why}", code=BAD_ANSWER, method=info.wsdlName)


def _is_list(info: Any) -> bool:
    return isinstance(info.result, type) and issubclass(info.result, list)


def _fits(found: Any, info: Any) -> bool:
    """Whether a result has the method's type; pyVmomi accepts any type that an answer declares."""
    if found is None:
        return info.result is NoneType or bool(info.resultFlags & F_OPTIONAL)
    return not isinstance(info.result, type) or info.result is object or isinstance(found, info.result)


def api_versions() -> list[tuple[str, str]]:
    """pyVmomi's versions of the API as ``(name, number on the wire)``, newest first."""
    return [(name, versionIdMap[name].rpartition("/")[2]) for name in GetServiceVersions("vim25")]
