"""The cancel token, and what signal handlers set."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from hypersdk.errors import Cancelled
from hypersdk.transfer.cancel import CancelToken, SignalFlag

STORM = """
import signal, time
from hypersdk.transfer.cancel import SignalFlag

flag = SignalFlag()
signal.signal(signal.SIGALRM, lambda *_: flag.set())
signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
until, seen = time.monotonic() + 3, 0
while time.monotonic() < until:
    if flag.wait(0.0002):
        seen += 1
        flag.clear()
signal.setitimer(signal.ITIMER_REAL, 0)
print(seen)
"""
"""Signals come in the middle of everything that the waiting thread does; the lock of threading.Event ends that within a
second."""


def test_a_handler_never_waits_for_the_thread_that_it_interrupts() -> None:
    done = subprocess.run([sys.executable, "-c", STORM], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) > 100


def test_a_flag_wakes_who_waits_and_stays_until_it_is_cleared() -> None:
    flag = SignalFlag()
    assert not flag.wait(0)
    thread = threading.Timer(0.1, flag.set)
    thread.start()
    began = time.monotonic()
    assert flag.wait(30)
    assert time.monotonic() - began < 20
    assert flag.wait()
    assert flag.is_set()
    for _ in range(100_000):  # more than a pipe holds
        flag.set()
    flag.clear()
    assert not flag.is_set()
    assert not flag.wait(0.01)


def test_a_call_is_made_with_the_cancel_and_not_after_its_block() -> None:
    token, calls = CancelToken(), []
    parent = CancelToken()
    child = parent.child()
    with token.calling(lambda: calls.append("one")):
        token.cancel("now")
        token.cancel("again")
    with token.calling(lambda: calls.append("late")):
        pass
    token.cancel("over")
    with child.calling(lambda: calls.append("child")):
        parent.cancel("all")
    assert calls == ["one", "one", "late", "child"]
    with pytest.raises(Cancelled, match="now"):
        token.check()
