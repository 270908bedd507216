"""A connection to libvirt whose calls end in time.

libvirt's calls block, and a call may never return: a host that is gone, a QEMU that does not answer its monitor. Each
call runs in a thread of its own, which is left behind when its time is over. Keep-alive ends the connection to a host
that is gone, and with it the calls that wait.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from hypersdk.errors import ConnectError, HyperSDKError
from hypersdk.kvm.address import LibvirtAddress
from hypersdk.kvm.library import LIBVIRT_CERTIFICATE, LIBVIRT_TIMEOUT, libvirt, translated
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import format_duration

LOG: Final = logging.getLogger(__name__)
T = TypeVar("T")

OPEN_TIMEOUT_S: Final = 30.0
"""A first start of libvirtd by its socket asks each QEMU binary for its features, which takes seconds."""
CALL_TIMEOUT_S: Final = 60.0
CLOSE_TIMEOUT_S: Final = 5.0
KEEPALIVE_S: Final = 5
KEEPALIVE_COUNT: Final = 5
"""Six intervals without an answer end the connection."""


class Connection:
    """One connection. Thread-safe; calls on one connection wait for each other in libvirtd where one is slow.

    Objects of libvirt never leave ``call``: what a caller gets are texts and numbers.
    """

    def __init__(self, address: LibvirtAddress, raw: Any) -> None:
        self.address = address
        self._raw = raw

    def call(self, what: str, call: Callable[[Any], T], *, timeout_s: float = CALL_TIMEOUT_S) -> T:
        """Makes ``call`` with libvirt's connection. ``what`` says what failed if it fails: ``cannot list the domains``.

        Raises ConnectError ``libvirt_timeout`` when it takes longer; the call may still take effect then. Raises our
        errors for those of libvirt.
        """
        return _Call(what, lambda: call(self._raw)).result(timeout_s)

    def use(self, call: Callable[[Any], T]) -> T:
        """Makes a long ``call`` in this thread, without a limit: one that watches itself, like an upload. libvirt's
        errors are raised as they are."""
        return call(self._raw)

    @property
    def is_alive(self) -> bool:
        """Whether the connection was not ended from the other side. Nothing is sent."""
        return bool(self._raw.isAlive())

    def close(self) -> None:
        """Closes it. What is still in use of it by a call that was left behind is closed with that."""
        with suppress(HyperSDKError):
            _Call("cannot close the connection", self._raw.close).result(CLOSE_TIMEOUT_S)

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_connection(address: LibvirtAddress, *, cancel: CancelToken, timeout_s: float = OPEN_TIMEOUT_S) -> Connection:
    """Connects. Raises ConnectError ``libvirt_unreachable``, ``libvirt_timeout``, ``libvirt_certificate``, AccessError
    ``libvirt_denied``, Refused ``libvirt_not_installed``, Cancelled."""
    module = libvirt()
    opening = _Call(f"cannot connect to {address}", lambda: module.open(address.uri), late=lambda raw: raw.close())
    try:
        raw = opening.result(timeout_s, cancel)
    except HyperSDKError as error:
        # libvirt has no code for it: its errors of TLS are those of a refused login, of a file, or of the protocol.
        if address.transport == "tls" and "certificate" in error.message.lower():
            raise ConnectError(error.message, code=LIBVIRT_CERTIFICATE) from error
        raise
    with suppress(module.libvirtError):  # the test driver has none
        raw.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
    return Connection(address, raw)


class _Call(Generic[T]):
    """One call in a thread. ``late`` gets the result that nobody waited for."""

    def __init__(self, what: str, call: Callable[[], T], late: Callable[[T], object] = lambda _: None) -> None:
        self._what = what
        self._call = call
        self._late = late
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._left = False
        self._results: list[T] = []
        self._error: BaseException | None = None

    def result(self, timeout_s: float, cancel: CancelToken | None = None) -> T:
        threading.Thread(target=self._run, name=f"libvirt: {self._what}", daemon=True).start()
        if cancel is None:
            self._ended.wait(timeout_s)
        else:
            with cancel.calling(self._ended.set):
                self._ended.wait(timeout_s)
        with self._lock:
            self._left = not self._results and self._error is None
        if self._error is not None:
            raise self._error
        if not self._left:
            return self._results[0]
        if cancel is not None:
            cancel.check()
        raise ConnectError(f"{self._what}: no answer within {format_duration(timeout_s)}", code=LIBVIRT_TIMEOUT)

    def _run(self) -> None:
        try:
            with translated(self._what):
                result = self._call()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            self._failed(error)
        else:
            self._succeeded(result)
        self._ended.set()

    def _failed(self, error: BaseException) -> None:
        with self._lock:
            self._error = error
            left = self._left
        if left:
            LOG.info("a call to libvirt failed after its time was over: %s", error)

    def _succeeded(self, result: T) -> None:
        with self._lock:
            left = self._left
            self._results.append(result)
        if left:
            self._late(result)
