"""sd_notify over a real socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypersdk.jobs.systemd import READY, Watchdog, notify, watchdog_s


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket that listens as systemd does, and its name in ``$NOTIFY_SOCKET``."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@hypersdk-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if name.startswith("@") else name)
        sock.settimeout(5)
        yield sock, name


def test_a_state_reaches_the_manager(manager: tuple[socket.socket, str]) -> None:
    sock, name = manager
    assert notify(f"{READY}\nSTATUS=ä", {"NOTIFY_SOCKET": name})
    assert sock.recv(100).decode() == "READY=1\nSTATUS=ä"


@pytest.mark.parametrize("name", ["", "relative", "/nonexistent/socket"])
def test_without_a_manager_nothing_happens(name: str) -> None:
    assert not notify(READY, {"NOTIFY_SOCKET": name})


def test_the_watchdog_is_fed_twice_in_its_time(manager: tuple[socket.socket, str]) -> None:
    sock, name = manager
    now = 100.0
    watchdog = Watchdog(
        lambda: now, {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}
    )
    for now in (100.0, 105.0, 109.9, 110.0, 119.0, 120.0):  # noqa: B007 - read by the clock
        watchdog()
    sock.setblocking(False)
    received = 0
    while True:
        try:
            assert sock.recv(100) == b"WATCHDOG=1"
        except BlockingIOError:
            break
        received += 1
    assert received == 3


@pytest.mark.parametrize(
    "environ", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}]
)
def test_a_watchdog_that_is_not_ours_is_left_alone(environ: dict[str, str]) -> None:
    assert watchdog_s(environ) is None
