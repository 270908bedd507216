"""Runs a program of which nothing outlives this process: ``supervisor.py`` stands between, and ends the program with
all that it started when this process closes a pipe, or is killed.

virt-v2v starts qemu and qemu-nbd, some of them as daemons. One that is left over holds the lock of the image, so the
image cannot be opened until it ends.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeAlias

from hypersdk.guest import supervisor
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import FILE_MODE, target_errors
from hypersdk.units import KiB

GRACE_S: Final = 2.0
"""Between SIGTERM and SIGKILL. virt-v2v ends 0.2 s after SIGTERM and then leaves fewer files."""
MAX_LINE: Final = 64 * KiB
"""A longer line is dropped."""
_LOOK_S: Final = 0.1
_LONGEST_FOLDER: Final = 60
"""In characters. Sockets lie in that folder, and the path of a socket has at most 107 bytes."""
_PREFIX: Final = "hypersdk-guest-"

Command: TypeAlias = Callable[[int], Sequence[str]]
"""The command line, made from the number of the descriptor to which the program writes its lines."""


@contextmanager
def private_folder() -> Iterator[Path]:
    """A temporary folder for one program: only this user may enter it. Removed at the end of the block, and by the
    supervisor when this process is killed."""
    base = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix=_PREFIX, dir=base if len(base) <= _LONGEST_FOLDER else "/tmp")  # noqa: S108
    try:
        yield Path(folder)
    finally:
        supervisor.remove_folder(folder)


@contextmanager
def ended_with_us(command: Sequence[str]) -> Iterator[tuple[list[str], int]]:
    """For a program that must not outlive this process, and that no signal of a terminal reaches: the command line that
    runs ``command`` below the supervisor, and the descriptor that is to be its standard input."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        with private_folder() as folder:
            yield [*_supervised(folder, GRACE_S), *command], reader
    finally:
        os.close(reader)
        os.close(writer)


def _supervised(folder: Path, grace_s: float) -> list[str]:
    return [sys.executable, "-I", "-S", supervisor.__file__, str(folder), str(grace_s)]


def run_in_group(
    command: Command,
    *,
    folder: Path,
    environment: Mapping[str, str],
    log: Path,
    cancel: CancelToken,
    on_line: Callable[[bytes], None] = lambda _line: None,
    lines_on_stdout: bool = False,
    limit_s: float | None = None,
    grace_s: float = GRACE_S,
) -> int:
    """Runs a program to its end and returns its exit status, 128 + N after signal N. ``folder`` becomes its TMPDIR and
    is removed at the end; its output is appended to ``log``.

    ``on_line`` gets each line that the program writes to the descriptor which ``command`` names, or to its standard
    output. When it returns or raises, no process of the program is left. Raises Cancelled; TimeoutError after
    ``limit_s``; TargetError where the log cannot be written.
    """
    deadline = None if limit_s is None else time.monotonic() + limit_s
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            process = _start(command(writer), folder, environment, log, writer, lines_on_stdout, grace_s)
        finally:
            os.close(writer)
        try:
            for line in _lines(reader, process, cancel, deadline):
                on_line(line)
        finally:
            status = _end(process, folder)
    finally:
        os.close(reader)
    return status


def _start(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    log: Path,
    writer: int,
    lines_on_stdout: bool,
    grace_s: float,
) -> subprocess.Popen[bytes]:
    with target_errors(f"writing {log.name}"):
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    try:
        return subprocess.Popen(
            [*_supervised(folder, grace_s), *command],
            stdin=subprocess.PIPE,
            stdout=writer if lines_on_stdout else output,
            stderr=output,
            env={**environment, "TMPDIR": str(folder)},
            pass_fds=(writer,),
            start_new_session=True,  # Ctrl-C reaches this process only, which then ends the program in order
        )
    finally:
        os.close(output)


def _lines(
    reader: int, process: subprocess.Popen[bytes], cancel: CancelToken, deadline: float | None
) -> Iterator[bytes]:
    """Complete lines, until the supervisor ``process`` has ended: it is the last that holds the other end unless
    it was killed."""
    rest = b""
    ready = select.poll()
    ready.register(reader, select.POLLIN)
    while True:
        cancel.check()
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError
        if not ready.poll(_LOOK_S * 1000):
            if process.poll() is not None and not ready.poll(0):
                break
            continue
        chunk = os.read(reader, MAX_LINE)
        if not chunk:
            break
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line for line in lines if len(line) <= MAX_LINE)
        rest = rest[: MAX_LINE + 1]
    if rest:
        yield rest


def _end(process: subprocess.Popen[bytes], folder: Path) -> int:
    """Closes the pipe, which makes the supervisor end what still runs, and waits for it."""
    assert process.stdin is not None
    process.stdin.close()
    status = process.wait()
    if status < 0:  # the supervisor itself was killed, maybe for lack of memory
        _end_strays(folder)
        return 128 - status
    return status


def _end_strays(folder: Path) -> None:
    """Kills the processes whose TMPDIR is ``folder``, until there is none."""
    mark = f"TMPDIR={folder}".encode()
    while strays := [pid for pid in _own_processes() if mark in _environment(pid)]:
        for pid in strays:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _own_processes() -> Iterator[int]:
    own = os.geteuid()
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError):
                if path.stat().st_uid == own:
                    yield int(path.name)


def _environment(pid: int) -> list[bytes]:
    """Empty for a process that has ended, also before its parent has noticed."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
