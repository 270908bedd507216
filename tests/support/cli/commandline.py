"""Runs command lines: in this process with its own streams, or as a separate process on a pseudo terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypersdk.cli.app import program as hyper2kvm


@dataclass(frozen=True, slots=True)
class Run:
    """How a command line ended."""

    status: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON lines on stdout."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> dict[str, Any]:
        """The last event, which must be an error."""
        assert self.events[-1]["type"] == "error", self.out
        return self.events[-1]


def run(*arguments: str, env: Mapping[str, str] | None = None, stdin: str = "") -> Run:
    """Runs ``hyper2kvm`` in this process, without terminals, in exactly the environment ``env``."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):  # click prints --help and --version to sys.stdout
        status = hyper2kvm.main(list(arguments), out, err, io.StringIO(stdin), env or {})
    return Run(status, out.getvalue(), err.getvalue())


def program(*arguments: str) -> list[str]:
    """The command line that starts ``hyper2kvm`` as a separate process."""
    return [sys.executable, "-m", "hypersdk.cli.main", *arguments]


def environment(home: Path, **more: str) -> dict[str, str]:
    """An environment with its own home and none of the developer's variables."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", **more}


class Terminal:
    """A program on a pseudo terminal."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master
        self._closed = False
        self.shown = ""

    @property
    def text(self) -> str:
        """The text on the screen, without colours and cursor movements."""
        return re.sub("\x1b\\[[0-9;?]*[A-Za-z]|\r", "", self.shown)

    def wait_for(self, text: str, timeout_s: float = 20.0) -> None:
        """Reads until ``text`` was shown."""
        deadline = time.monotonic() + timeout_s
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} did not appear in {self.shown!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                self.shown += self._read()

    def _read(self) -> str:
        try:
            return os.read(self._master, 65536).decode(errors="replace")
        except OSError:  # Linux: the other end is closed
            return ""

    def type(self, text: str) -> None:
        """Types ``text``."""
        os.write(self._master, text.encode())

    def close(self) -> None:
        """Closes the terminal, as a window or a connection that goes away does. Nothing is read after it."""
        if not self._closed:
            self._closed = True
            os.close(self._master)

    def settle(self, quiet_s: float = 0.1, timeout_s: float = 20.0) -> float:
        """Reads until nothing came for ``quiet_s``; when the last of it came, by the monotonic clock."""
        last = began = time.monotonic()
        while time.monotonic() - last < quiet_s:
            assert time.monotonic() - began < timeout_s, "it never stops drawing"
            if select.select([self._master], [], [], quiet_s / 4)[0]:
                self.shown += self._read()
                last = time.monotonic()
        return last

    def finish(self, timeout_s: float = 20.0) -> int:
        """Reads to the end and returns the exit status."""
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"did not end: {self.shown!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                self.shown += self._read()
        while select.select([self._master], [], [], 0)[0] and (rest := self._read()):
            self.shown += rest
        return self.process.returncode


@contextmanager
def terminal(command: Sequence[str], env: Mapping[str, str], size: tuple[int, int] = (80, 24)) -> Iterator[Terminal]:
    """Starts ``command`` on a pseudo terminal of ``size`` (columns, lines); it is ended with the block."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (size[1], size[0]))
    process = subprocess.Popen(
        ["setsid", "--ctty", *command],  # so that Ctrl-C and /dev/tty work
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={"TERM": "xterm-256color", **env},
    )
    os.close(slave)
    shown = Terminal(process, master)
    try:
        yield shown
    finally:
        process.kill()
        process.wait()
        shown.close()
