"""Room on the output file systems: what is reserved, and what happens when it runs out all the same.

Nothing is preallocated: images are sparse, and how much a disk will take is an expectation. ``SpaceLedger`` adds up the
expectations of all disks of all machines per file system. ``SpaceWaitingFile`` wraps the file of an image: a full disk
pauses its writes until there is room again; the writer above never notices.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from hypersdk.errors import NO_SPACE, TargetError
from hypersdk.formats.image import BlockFile, Buffer
from hypersdk.remedies import FreeSpace, Resume
from hypersdk.transfer.activity import Activity, doing
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import FULL, shown_path, target_error
from hypersdk.transfer.progress import Waiting, unseen
from hypersdk.units import MiB, format_duration, format_size

T = TypeVar("T")

GO_ON_BYTES: Final = 64 * MiB
"""Room needed before a paused copy continues: else every freed megabyte starts and stops it."""
POLL_S: Final = 5.0
MAX_WAIT_S: Final = 3600.0


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write to the file system of ``folder``. Raises OSError."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


@dataclass(eq=False, slots=True)
class Reservation:
    """What one output is still expected to take."""

    folder: Path
    device: int
    expected_bytes: int
    written_bytes: int = 0

    @property
    def outstanding_bytes(self) -> int:
        """Expected and not yet written."""
        return max(0, self.expected_bytes - self.written_bytes)


@dataclass(frozen=True, slots=True)
class Room:
    """A file system's free bytes, and those of them that running outputs are still expected to take."""

    free_bytes: int
    promised_bytes: int

    @property
    def left_bytes(self) -> int:
        """What a new output may count on."""
        return max(0, self.free_bytes - self.promised_bytes)


class SpaceLedger:
    """Expected bytes per file system (``st_dev``). Thread-safe."""

    def __init__(self, free: Callable[[Path], int] = free_bytes) -> None:
        self._free = free
        self._lock = threading.Lock()
        self._open: dict[int, list[Reservation]] = {}

    def check(self, folder: Path) -> Room:
        """How much room ``folder``, which must exist, has left for new outputs. Raises OSError."""
        with self._lock:
            return self._room(folder, folder.stat().st_dev)

    def reserve(self, folder: Path, expected_bytes: int) -> Reservation:
        """Notes that an output in ``folder`` will take so much. Raises TargetError ``no_space`` when it cannot."""
        device = folder.stat().st_dev
        with self._lock:
            room = self._room(folder, device)
            if room.left_bytes < expected_bytes:
                raise _too_small(folder, expected_bytes, room)
            reservation = Reservation(folder, device, expected_bytes)
            self._open.setdefault(device, []).append(reservation)
        return reservation

    def wrote(self, reservation: Reservation, written_bytes: int) -> None:
        """Of ``reservation``, so much in all lies in the file by now."""
        with self._lock:
            reservation.written_bytes = written_bytes

    def release(self, reservation: Reservation) -> None:
        """The output is finished or given up."""
        with self._lock:
            self._open[reservation.device].remove(reservation)

    def _room(self, folder: Path, device: int) -> Room:
        promised = sum(open_.outstanding_bytes for open_ in self._open.get(device, ()))
        return Room(self._free(folder), promised)


def _too_small(folder: Path, expected_bytes: int, room: Room) -> TargetError:
    shown = shown_path(folder)
    promised = f", of which {format_size(room.promised_bytes)} are promised" if room.promised_bytes else ""
    return TargetError(
        f"{shown} has {format_size(room.free_bytes)} free{promised}; {format_size(expected_bytes)} are needed",
        code=NO_SPACE,
        folder=str(shown),
        needed_bytes=expected_bytes,
        free_bytes=room.free_bytes,
        promised_bytes=room.promised_bytes,
    )


class SpaceGate:
    """Waits for room. One for each file system; thread-safe."""

    def __init__(
        self,
        folder: Path,
        *,
        max_wait_s: float = MAX_WAIT_S,
        poll_s: float = POLL_S,
        go_on_bytes: int = GO_ON_BYTES,
        free: Callable[[Path], int] = free_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._max_wait_s = max_wait_s
        self._poll_s = poll_s
        self._go_on_bytes = go_on_bytes
        self._free = free
        self._clock = clock

    def retry_when_full(self, action: Callable[[], T], cancel: CancelToken, waiting: Waiting = unseen) -> T:
        """Runs ``action``; when the disk is full (or the quota used up), waits for room and runs it again, so it must
        be repeatable.

        Full says an OSError, or the TargetError ``no_space`` that was made of it.

        Raises TargetError ``no_space`` after ``max_wait_s`` without success, Cancelled, and any other error of
        ``action`` as it is.
        """
        try:
            return action()
        except (OSError, TargetError) as error:
            if not _is_full(error):
                raise
        with waiting(f"{shown_path(self._folder)} is full: waiting for room"):
            return self._again(action, cancel)

    def _again(self, action: Callable[[], T], cancel: CancelToken) -> T:
        deadline = self._clock() + self._max_wait_s
        while True:
            self._wait(deadline, cancel)
            try:
                return action()
            except (OSError, TargetError) as error:
                if not _is_full(error):
                    raise
                if self._clock() >= deadline:
                    raise self._given_up(error) from error

    def _wait(self, deadline: float, cancel: CancelToken) -> None:
        """At least one poll, then until there is room or the time is up: a quota shows in no free count, so it is tried
        again then."""
        while True:
            cancel.sleep(max(0.0, min(self._poll_s, deadline - self._clock())))
            if self._free(self._folder) >= self._go_on_bytes or self._clock() >= deadline:
                return

    def _given_up(self, error: OSError | TargetError) -> TargetError:
        shown = shown_path(self._folder)
        full = error if isinstance(error, TargetError) else target_error(error, f"writing to {shown}")
        return TargetError(
            f"{shown} stayed full for {format_duration(self._max_wait_s)}",
            code=NO_SPACE,
            cause=full.cause,
            remedies=(FreeSpace(folder=str(shown)), Resume()),
            folder=str(shown),
        )


def _is_full(error: OSError | TargetError) -> bool:
    return error.errno in FULL if isinstance(error, OSError) else error.code == NO_SPACE


class SpaceWaitingFile:
    """A ``BlockFile`` whose writes wait for room instead of failing. Wrap the file before it is given to a writer.

    Tells the timeline of the thread that it waits for the file, for as long as it does.
    """

    def __init__(
        self,
        file: BlockFile,
        gate: SpaceGate,
        cancel: CancelToken,
        waiting: Waiting = unseen,
        *,
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        """``guard`` is called before each change of the file, and raises where it must not be changed any more."""
        self._file = file
        self._guard = guard
        self._gate = gate
        self._cancel = cancel
        self._waiting = waiting

    def pwrite(self, buffers: Sequence[Buffer], offset: int) -> None:
        """As the file; waits while it is full. A write that got half way is written again from its start."""
        self._change(lambda: self._file.pwrite(buffers, offset))

    def pread(self, length: int, offset: int) -> bytes:
        """As the file."""
        with doing(Activity.WRITING):
            return self._file.pread(length, offset)

    def size(self) -> int:
        """As the file."""
        return self._file.size()

    def truncate(self, size: int) -> None:
        """As the file; waits while it is full."""
        self._change(lambda: self._file.truncate(size))

    def discard(self, offset: int, length: int) -> None:
        """As the file; punching a hole can need room for the map of extents."""
        self._change(lambda: self._file.discard(offset, length))

    def _change(self, change: Callable[[], None]) -> None:
        self._guard()
        with doing(Activity.WRITING):
            self._gate.retry_when_full(change, self._cancel, self._waiting)

    def data_runs(self, start: int) -> Iterator[range]:
        """As the file."""
        return self._file.data_runs(start)

    def sync(self) -> None:
        """As the file. A sync that fails for lack of room has lost data: it is not repeated, the error passes
        through."""
        self._file.sync()
