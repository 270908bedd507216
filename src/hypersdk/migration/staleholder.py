"""Ends a worker that was declared dead, and still has the folder of a job which another worker has by now.

Such a worker is stopped (SIGSTOP, a debugger, a frozen container) or waits for a disk, and may go on at any time
between two of its instructions: after it has looked whether it still has the job, before it changes an image or defines
a domain. No look of its own can prevent that. So it is killed before the successor begins; then the kernel unlocks its
folder.
"""

from __future__ import annotations

import os
import re
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from hypersdk.errors import TargetError
from hypersdk.migration.runfile import LOCK_FILE
from hypersdk.transfer.files import open_regular, target_errors

END_S: Final = 30.0
"""A killed process that waits for a disk ends when the disk answers."""
_MAX_OWNER_BYTES: Final = 1024
_FLOCK: Final = re.compile(r"[0-9]+: FLOCK +ADVISORY +WRITE ([0-9]+) [0-9a-f]+:[0-9a-f]+:([0-9]+) ")
"""A line of ``/proc/locks`` (proc(5)): the process, and the inode number of the file."""


def end_stale_holder(folder: Path, owner: str, check: Callable[[], None]) -> int | None:
    """Kills the process of this user that has locked ``folder`` as ``owner``; returns its pid. None where there is none
    on this machine: another user's, a process that locked it for something else, and this one are left alone.

    ``check`` raises where it is not for the caller to do that, and is called once the other process is known: a caller
    that was itself taken over does not end its successor. Raises what it does, TargetError.
    """
    with target_errors(f"opening {LOCK_FILE}"):
        try:
            descriptor = open_regular(folder / LOCK_FILE)
        except FileNotFoundError:
            return None
    try:
        written = os.pread(descriptor, _MAX_OWNER_BYTES, 0).decode(errors="replace")
        if written != owner or os.fstat(descriptor).st_uid != os.geteuid():
            return None
        return next((pid for pid in _holders(descriptor) if _ended(pid, descriptor, check)), None)
    finally:
        os.close(descriptor)


def _ended(pid: int, lock: int, check: Callable[[], None]) -> bool:
    try:
        process = os.pidfd_open(pid)
    except OSError:  # it has ended
        return False
    try:
        if pid not in _holders(lock):  # the number belongs to another process by now
            return False
        check()
        signal.pidfd_send_signal(process, signal.SIGKILL)
        ended, _, _ = select.select([process], [], [], END_S)
    finally:
        os.close(process)
    if not ended:
        raise TargetError(f"the process {pid}, which works in the folder, was killed and has not ended")
    return True


def _holders(lock: int) -> Iterator[int]:
    """Other processes of this user that hold the open file by flock(2)."""
    inode = os.fstat(lock).st_ino
    for match in _FLOCK.finditer(Path("/proc/locks").read_text()):
        pid = int(match[1])
        if int(match[2]) == inode and pid not in (0, os.getpid()) and _has_open(pid, lock):
            yield pid


def _has_open(pid: int, lock: int) -> bool:
    """Inode numbers are of one file system, and the device in that list is not always the one of stat(2)."""
    wanted, process = os.fstat(lock), Path(f"/proc/{pid}")
    with suppress(OSError):
        if process.stat().st_uid != os.geteuid():
            return False
        for file in (process / "fd").iterdir():
            with suppress(OSError):
                if os.path.samestat(file.stat(), wanted):
                    return True
    return False
