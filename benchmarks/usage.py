"""What a program took with all its descendants: CPU, bytes written, and the most that lay on the disk meanwhile.

Descendants that outlive their parent, as servers of disks do, become children of the benchmark (prctl(2),
PR_SET_CHILD_SUBREAPER) and are waited for. The kernel adds CPU time and written bytes of a process to those of whoever
waits for it (getrusage(2), ``/proc/self/io``).

Bytes written are those that went to the drive: pages that were dropped before the kernel wrote them are subtracted
(``cancelled_write_bytes``: a temporary file that was removed soon, freed space of an image). On a file system of its
own, the count of sectors of its block device is the same within 1 %.
"""

from __future__ import annotations

import ctypes
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks.measure import Took, run
from hypersdk.units import KiB

PR_SET_CHILD_SUBREAPER: Final = 36
SAMPLE_S: Final = 0.1
ORPHANS_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Usage:
    """``took`` counts all descendants; ``peak_bytes`` is the most that lay in the watched folders at one time,
    ``memory_bytes`` the largest resident set of the program itself, without descendants."""

    took: Took
    written_bytes: int
    peak_bytes: int
    memory_bytes: int

    def __add__(self, other: Usage) -> Usage:
        """Both, one after the other, the second with the folders of the first."""
        return Usage(
            self.took + other.took,
            self.written_bytes + other.written_bytes,
            max(self.peak_bytes, other.peak_bytes),
            max(self.memory_bytes, other.memory_bytes),
        )


def used(command: Sequence[str | Path], *, env: Mapping[str, str], watched: Sequence[Path], sync: Path) -> Usage:
    """Runs the program to its end, and waits for its descendants. ``watched`` are the folders that it writes to."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    others, before, written = _children(), resource.getrusage(resource.RUSAGE_CHILDREN), _written_bytes()
    program = os.fsencode(command[0])
    with (
        _most(lambda: allocated_bytes(watched)) as peak,
        _most(lambda: max((_resident_bytes(pid, program) for pid in _children() - others), default=0)) as memory,
    ):
        took = run(command, env=env, sync=sync)
        _wait_for_orphans(others)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    system_s = after.ru_stime - before.ru_stime
    took = replace(took, cpu_s=after.ru_utime - before.ru_utime + system_s, system_s=system_s)
    return Usage(took, _written_bytes() - written, peak[0], memory[0])


def allocated_bytes(folders: Sequence[Path]) -> int:
    """Space that the files below ``folders`` take."""
    found = 0
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                try:
                    found += os.lstat(f"{place}/{name}").st_blocks * 512
                except FileNotFoundError:  # removed meanwhile
                    continue
    return found


def _resident_bytes(pid: int, program: bytes) -> int:
    """The largest resident set of a process so far; 0 of one that has ended, or that runs another program."""
    try:
        if program not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return 0
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * KiB for line in lines if line.startswith("VmHWM:")), 0)


@contextmanager
def _most(sample: Callable[[], int]) -> Iterator[list[int]]:
    """The largest sample while the block runs."""
    most, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_S):
            most[0] = max(most[0], sample())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()
        most[0] = max(most[0], sample())


def _children() -> set[int]:
    found: set[int] = set()
    for thread in Path("/proc/self/task").iterdir():
        found.update(map(int, (thread / "children").read_text().split()))
    return found


def _wait_for_orphans(others: set[int]) -> None:
    deadline = time.monotonic() + ORPHANS_S
    while (left := _children() - others) and time.monotonic() < deadline:
        for pid in left:
            os.waitpid(pid, os.WNOHANG)
        time.sleep(SAMPLE_S)


def _written_bytes() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["write_bytes"]) - int(fields["cancelled_write_bytes"])
