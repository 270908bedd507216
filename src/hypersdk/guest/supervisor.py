"""Runs a program and ends everything that it started, also when the process that wants it run is killed.

Run as a file, ``python -I -S supervisor.py TMPDIR GRACE_S COMMAND...``, so it imports little and takes 25 ms of CPU.
Its standard input is a pipe that the parent holds open; when the parent closes it or dies, the program is ended. As a
child subreaper (prctl(2)) this process also becomes the parent of daemons, which call setsid(2) and outlive the program
that started them: their descent is what identifies the processes to end, not their session or group.

It ends with the program's exit status (128 + N after signal N), after the last process has ended and TMPDIR is removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import select
import signal
import stat
import sys
import time
from collections.abc import Callable

_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
_LOOK_S = 0.5
_STEP_S = 0.02


def main() -> int:
    """Runs the command and returns the exit status for this process."""
    parent = os.getppid()
    folder, grace_s, command = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump of its memory would have the keys of the disks
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        return 125
    woken = _wake_on_signals()
    ended: dict[int, int] = {}
    program = 0
    folders = [folder]
    try:
        program = _start(command)
        ended = _wait(program, woken, parent)
    finally:
        folders += socket_folders(descendants(os.getpid()))
        ended |= end_descendants(grace_s)
        for path in folders:
            remove_folder(path)
    return _exit_status(ended[program])


def _wake_on_signals() -> int:
    """Returns a descriptor that becomes readable when a child ends or this process is told to end."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    return reader


def _start(command: list[str]) -> int:
    """Starts the program in a session of its own, without this process's lifeline, with default signal handling."""
    null = os.open(os.devnull, os.O_RDWR)
    return os.posix_spawnp(
        command[0],
        command,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, null, 0)],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGHUP, signal.SIGPIPE],
    )


def _wait(program: int, woken: int, parent: int) -> dict[int, int]:
    """Returns when the program has ended or is to be ended. The wait statuses of the children that have ended."""
    ended: dict[int, int] = {}
    while program not in ended:
        ready, _, _ = select.select([0, woken], [], [], _LOOK_S)
        if 0 in ready and not os.read(0, 512):
            break
        if woken in ready and signal.SIGTERM in os.read(woken, 512):
            break
        if os.getppid() != parent:  # the pipe may be open in another process too, by mistake
            break
        ended |= _reap()
    return ended


def _reap() -> dict[int, int]:
    """Collects the children that have ended: their wait statuses by pid."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended[pid] = status
    return ended


def end_descendants(grace_s: float) -> dict[int, int]:
    """SIGTERM to every descendant, SIGKILL to those that live ``grace_s`` later, until none is left. Returns the wait
    statuses of the direct children."""
    ended: dict[int, int] = {}
    deadline = time.monotonic() + grace_s
    told: set[int] = set()
    while True:
        ended.update(_reap())
        living = descendants(os.getpid())
        if not living:
            return ended
        if time.monotonic() >= deadline:
            _signal(living, signal.SIGKILL)
        else:
            _signal([pid for pid in living if pid not in told], signal.SIGTERM)
            told.update(living)
        time.sleep(_STEP_S)


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def descendants(root: int) -> list[int]:
    """The processes below ``root``, zombies included: those of its children until it has reaped them."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (parent := parent_of(int(name))) is not None:
            children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def parent_of(pid: int) -> int | None:
    """From proc(5); None where the process has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return None


def socket_folders(pids: list[int]) -> list[str]:
    """The folders of libguestfs's sockets, by the command lines of its qemu: for root they are always in ``/tmp``, and
    a library that is killed leaves them. Only folders of this user."""
    named: set[str] = set()
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            named.update(match.decode() for match in re.findall(rb"/tmp/libguestfs[A-Za-z0-9]{6}(?=/)", file.read()))
    return [path for path in sorted(named) if _is_own_folder(path)]


def _is_own_folder(path: str) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def remove_folder(folder: str) -> None:
    """Removes ``folder`` with its content; no symbolic link is followed."""
    for base, folders, files in os.walk(folder, topdown=False):
        for name in files:
            _try(os.unlink, os.path.join(base, name))
        for name in folders:
            path = os.path.join(base, name)
            _try(os.unlink if os.path.islink(path) else os.rmdir, path)
    _try(os.rmdir, folder)


def _try(remove: Callable[[str], None], path: str) -> None:
    with contextlib.suppress(OSError):
        remove(path)


def _exit_status(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


if __name__ == "__main__":
    sys.exit(main())
