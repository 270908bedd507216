"""Space on the output file systems: reservations, and waiting when a file system is full.

Nothing is preallocated: images are sparse, and the size of a disk is an estimate. ``SpaceLedger`` adds up the estimates
for all disks of all machines per file system. ``SpaceWaitingFile`` wraps the file of an image: its writes wait while
the file system is full, so the writer never sees that error.
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
"""Free space needed before a paused copy continues: else every freed megabyte would start and stop it."""
POLL_S: Final = 5.0
MAX_WAIT_S: Final = 3600.0


def free_bytes(folder: Path) -> int:
    """Returns the bytes that this user may still write to the file system of ``folder``. Raises OSError."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


@dataclass(eq=False, slots=True)
class Reservation:
    """The space that one output is expected to take."""

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
    """The free bytes of a file system, and those of them that are reserved for running outputs."""

    free_bytes: int
    promised_bytes: int

    @property
    def left_bytes(self) -> int:
        """The bytes that a new output can use."""
        return max(0, self.free_bytes - self.promised_bytes)


class SpaceLedger:
    """Expected bytes per file system (``st_dev``). Thread-safe."""

    def __init__(self, free: Callable[[Path], int] = free_bytes) -> None:
        self._free = free
        self._lock = threading.Lock()
        self._open: dict[int, list[Reservation]] = {}

    def check(self, folder: Path) -> Room:
        """Returns the space for new outputs in ``folder``, which must exist. Raises OSError."""
        with self._lock:
            return self._room(folder, folder.stat().st_dev)

    def reserve(self, folder: Path, expected_bytes: int) -> Reservation:
        """Reserves space for an output in ``folder``. Raises TargetError ``no_space`` when there is not enough."""
        device = folder.stat().st_dev
        with self._lock:
            room = self._room(folder, device)
            if room.left_bytes < expected_bytes:
                raise _too_small(folder, expected_bytes, room)
            reservation = Reservation(folder, device, expected_bytes)
            self._open.setdefault(device, []).append(reservation)
        return reservation

    def wrote(self, reservation: Reservation, written_bytes: int) -> None:
        """Sets the bytes of ``reservation`` that are written by now."""
        with self._lock:
            reservation.written_bytes = written_bytes

    def release(self, reservation: Reservation) -> None:
        """Ends the reservation of an output that is finished or was given up."""
        with self._lock:
            self._open[reservation.device].remove(reservation)

    def _room(self, folder: Path, device: int) -> Room:
        promised = sum(open_.outstanding_bytes for open_ in self._open.get(device, ()))
        return Room(self._free(folder), promised)


def _too_small(folder: Path, expected_bytes: int, room: Room) -> TargetError:
    shown = shown_path(folder)
    promised = f", of which {format_size(room.promised_bytes)} are reserved" if room.promised_bytes else ""
    return TargetError(
        f"{shown} has {format_size(room.free_bytes)} free{promised}; {format_size(expected_bytes)} are needed",
        code=NO_SPACE,
        folder=str(shown),
        needed_bytes=expected_bytes,
        free_bytes=room.free_bytes,
        promised_bytes=room.promised_bytes,
    )


class SpaceGate:
    """Waits for free space. One for each file system; thread-safe."""

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
        """Runs ``action``; when the disk is full (or the quota used up), waits for free space and runs it again, so it
        must be repeatable.

        A full disk is an OSError of ``action``, or the TargetError ``no_space``.

        Raises TargetError ``no_space`` after ``max_wait_s`` without success, Cancelled, and any other error of
        ``action`` as it is.
        """
        try:
            return action()
        except (OSError, TargetError) as error:
            if not _is_full(error):
                raise
        with waiting(f"{shown_path(self._folder)} is full: waiting for free space"):
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
        """Waits for at least one poll, then until there is space or the time is up. Free space does not show a quota,
        so ``action`` is tried at the end in any case."""
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
    """A ``BlockFile`` whose writes wait for free space instead of failing.

    The time that a thread spends on the file is recorded in its timeline.
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
        """As the file; waits while it is full. A partial write is repeated from its start."""
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
        """As the file; punching a hole can need space for the map of extents."""
        self._change(lambda: self._file.discard(offset, length))

    def _change(self, change: Callable[[], None]) -> None:
        self._guard()
        with doing(Activity.WRITING):
            self._gate.retry_when_full(change, self._cancel, self._waiting)

    def data_runs(self, start: int) -> Iterator[range]:
        """As the file."""
        return self._file.data_runs(start)

    def sync(self) -> None:
        """As the file. A sync that fails for lack of space has lost data: it is not repeated, and its error is
        raised."""
        self._file.sync()
