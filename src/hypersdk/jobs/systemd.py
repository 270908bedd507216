"""Notifying systemd of readiness, status and liveness by a datagram to its socket (sd_notify(3)); without systemd,
nothing is sent."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

NOTIFY_SOCKET = "NOTIFY_SOCKET"
READY = "READY=1"
STOPPING = "STOPPING=1"
RELOADING = "RELOADING=1"
ALIVE = "WATCHDOG=1"


def notify(state: str, environ: Mapping[str, str] | None = None) -> bool:
    """Sends ``state`` (``READY=1``, ``STATUS=...``; several lines are several assignments). False if nobody listens:
    the daemon works without a service manager, too."""
    path = (os.environ if environ is None else environ).get(NOTIFY_SOCKET, "")
    if path[:1] not in ("/", "@"):
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(state.encode("utf-8"), address)
        return True
    return False


def watchdog_s(environ: Mapping[str, str] | None = None) -> float | None:
    """Seconds within which systemd expects a message from this process; None if it does not
    (sd_watchdog_enabled(3))."""
    env = os.environ if environ is None else environ
    text, pid = env.get("WATCHDOG_USEC", ""), env.get("WATCHDOG_PID", "")
    if not text.isdecimal() or int(text) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 1e6


class Watchdog:
    """To be called often; tells systemd at half of its interval that this process is alive."""

    def __init__(self, clock: Callable[[], float], environ: Mapping[str, str] | None = None) -> None:
        self._clock = clock
        self._environ = environ
        self._every_s = watchdog_s(environ)
        self._next = 0.0

    def __call__(self) -> None:
        if self._every_s is not None and self._clock() >= self._next:
            self._next = self._clock() + self._every_s / 2
            notify(ALIVE, self._environ)
