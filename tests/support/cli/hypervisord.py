"""Runs ``hypervisord`` in this process, or as a daemon."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

from hypersdk.cli.hypervisord.app import program
from tests.support.cli.commandline import Run

START_S = 120


def hypervisord(*arguments: str | Path, home: Path, env: Mapping[str, str] | None = None, stdin: str = "") -> Run:
    """Runs one command with its own home and without terminals."""
    out, err = io.StringIO(), io.StringIO()
    environ = {"HOME": str(home), "XDG_STATE_HOME": str(home / "state"), **(env or {})}
    with redirect_stdout(out), redirect_stderr(err):
        status = program.main([str(argument) for argument in arguments], out, err, io.StringIO(stdin), environ)
    return Run(status, out.getvalue(), err.getvalue())


def free_port() -> int:
    """A port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextmanager
def daemon(
    folder: Path,
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    before: str = "pass",
    through: Sequence[str] = (),
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A running daemon that is ready; its address. It ends with the block. ``folder/log`` is its log. ``before`` is
    Python code that its parent process runs first; ``through`` are the words of a program that replaces
    itself by it."""
    port = free_port()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(folder / "notify"))
    listener.settimeout(START_S)
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "NOTIFY_SOCKET": str(folder / "notify"), **(env or {})}
    command = [
        *through,
        sys.executable,
        "-c",
        f"{before}; import sys; from hypersdk.cli.hypervisord.main import run; sys.exit(run())",
        "-addr",
        f"127.0.0.1:{port}",
        "--state-dir",
        folder / "state",
        *arguments,
    ]
    with listener, (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True)
        try:
            _until_ready(listener, process, folder / "log")
            yield f"http://127.0.0.1:{port}", process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(START_S)


def _until_ready(listener: socket.socket, process: subprocess.Popen[str], log: Path) -> None:
    end = time.monotonic() + START_S
    listener.settimeout(0.5)
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            if b"READY=1" in listener.recv(4096):
                return
        except TimeoutError:
            continue
    raise AssertionError(f"it did not become ready: {log.read_text()}")


def children_of(pid: int) -> dict[str, int]:
    """Processes of a daemon by their name, ``api`` or ``worker:0``."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                words = (stat.parent / "cmdline").read_bytes().decode().split("\0")
                if "--process" in words:
                    found[words[words.index("--process") + 1]] = int(stat.parent.name)
    return found
