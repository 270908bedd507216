"""The installed program, run as a separate process against a simulator in this process."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hypersdk.simulator import Simulator
from tests.support.cli.commandline import run
from tests.support.vsphere import Server, environ_of

HYPER2KVM: Final = Path(sys.executable).parent / "hyper2kvm"
TIMEOUT_S: Final = 120


@dataclass(frozen=True, slots=True)
class Ended:
    """How one command ended. ``seen`` are its JSON lines."""

    status: int
    seen: list[dict[str, Any]]
    err: str

    def event(self, kind: str) -> dict[str, Any]:
        """The last event of that type."""
        found = [event for event in self.seen if event["type"] == kind]
        assert found, f"no {kind} in {self}"
        return found[-1]

    @property
    def result(self) -> dict[str, Any]:
        """Of an export that succeeded."""
        assert self.status == 0, self.explain()
        return self.event("result")

    @property
    def error(self) -> dict[str, Any]:
        """Of a command that failed."""
        return self.event("error")

    def explain(self) -> str:
        """For the message of a failing test."""
        others = [event for event in self.seen if event["type"] != "progress"]
        return f"exit status {self.status}\n{json.dumps(others, indent=1)}\n{self.err}"


class Running:
    """A running command. Its output is read continuously."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.seen: list[dict[str, Any]] = []
        self._err: list[str] = []
        self._readers = [threading.Thread(target=self._read_out), threading.Thread(target=self._read_err)]
        for reader in self._readers:
            reader.start()

    def _read_out(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):  # a killed program may leave half a line
                self.seen.append(json.loads(line))

    def _read_err(self) -> None:
        assert self.process.stderr is not None
        self._err.extend(self.process.stderr)

    def wait(self, timeout_s: float = TIMEOUT_S) -> Ended:
        """Waits for the end."""
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait()
            raise AssertionError(f"it hung: {self.seen[-3:]}\n{''.join(self._err)}") from None
        for reader in self._readers:
            reader.join()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        return Ended(status, self.seen, "".join(self._err))

    def kill_when(self, is_time: Callable[[], bool]) -> bool:
        """``kill -9`` as soon as ``is_time``; False if it had already ended."""
        while not is_time():
            if self.process.poll() is not None:
                self.wait()
                return False
            time.sleep(0.001)
        self.process.kill()
        self.wait()
        return self.process.returncode == -signal.SIGKILL

    def until(self, condition: Callable[[], bool], timeout_s: float = 30) -> None:
        """Waits for ``condition`` while the command runs."""
        end = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, f"it ended: {self.wait().explain()}"
            assert time.monotonic() < end, f"it did not happen: {self.seen[-3:]}"
            time.sleep(0.005)


@dataclass(slots=True)
class Program:
    """``hyper2kvm`` with its own home, logging in to ``server``."""

    home: Path
    server: Server
    prefix: Sequence[str] = ()
    more_env: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: str | Path) -> Running:
        """Starts one command."""
        command = [*self.prefix, str(HYPER2KVM), *map(str, arguments)]
        env = {**self.environment(), "PYTHONFAULTHANDLER": "1", **_where_the_product_is()}
        return Running(
            subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )

    def environment(self) -> dict[str, str]:
        """What a command finds in its environment."""
        self.home.mkdir(parents=True, exist_ok=True)
        found = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8"}
        return {**found, **environ_of(self.server), **self.more_env}

    def run(self, *arguments: str | Path, timeout_s: float = TIMEOUT_S) -> Ended:
        """Runs one command to its end."""
        return self.start(*arguments).wait(timeout_s)

    def export(self, *arguments: str | Path, timeout_s: float = TIMEOUT_S) -> Ended:
        """``export --json`` to its end; leaves no crash file."""
        ended = self.run("export", "--json", *arguments, timeout_s=timeout_s)
        self.assert_no_crash()
        return ended

    def assert_no_crash(self) -> None:
        """Nothing unexpected happened."""
        for crash in self.home.rglob("crash-*"):
            raise AssertionError(crash.read_text())


class ProgramInside(Program):
    """The same in this process, for tests of what commands do and say: nothing has to be started. What is started with
    ``start`` is still a process of its own."""

    def run(self, *arguments: str | Path, timeout_s: float = TIMEOUT_S) -> Ended:
        """Runs one command; the time limit is that of the test."""
        done = run(*map(str, arguments), env=self.environment())
        return Ended(done.status, done.events, done.err)


ProgramFactory = Callable[..., tuple[Simulator, Program]]
"""The fixture ``program``."""


@contextmanager
def children_peak() -> Iterator[Callable[[], int]]:
    """Gives the peak memory in bytes of the largest child that ended so far in this process. To be used where nothing
    larger ran before."""
    yield lambda: resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def _where_the_product_is() -> dict[str, str]:
    """The same place for the program as for the tests."""
    return {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
