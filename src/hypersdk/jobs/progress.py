"""A job's progress as the API shows it, made from the export's snapshots; its log lines; and whether it has stalled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from threading import Lock
from typing import Any, Final

from hypersdk.jobs.claims import Claim, Unsaved
from hypersdk.model import DiskProgress, ExportProgress, Phase, job_object, never_below, without_rate
from hypersdk.text import clean
from hypersdk.units import format_duration, format_size

STALL_S: Final = 60.0
"""A copy that receives no byte for this long has stalled."""
MAX_PENDING_LOG: Final = 256 * 1024
NOTHING_DONE: Final = ExportProgress()
_MOVING: Final = frozenset({Phase.TRANSFERRING, Phase.WAITING})


class JobProgress:
    """Written by the export, read by the worker's main loop. Thread-safe."""

    def __init__(
        self, method: str = "", clock: Callable[[], float] = time.monotonic, *, before: ExportProgress = NOTHING_DONE
    ) -> None:
        """``before`` is the progress of earlier attempts: what is shown does not fall below it."""
        self._clock = clock
        self._before = before
        self._lock = Lock()
        self.method = method
        self._latest: Mapping[str, Any] | None = None
        self._saved: Mapping[str, Any] | None = None
        self._log: list[str] = []
        self._log_bytes = 0
        self._phases: dict[str, Phase] = {}
        self._notes: dict[str, str] = {}
        self._moved = (0, clock())

    def observe(self, machines: Sequence[ExportProgress]) -> None:
        """One snapshot: a job is one machine."""
        for machine in machines:
            stalled = self._stalled(machine)
            shown = never_below(without_rate(machine) if stalled else machine, self._before)
            with self._lock:
                self._latest = job_object(replace(shown, method=self.method, stalled=stalled))
            self._note_changes(machine)

    @property
    def latest(self) -> Mapping[str, Any] | None:
        """The latest progress; None before the first snapshot."""
        with self._lock:
            return self._latest

    def log(self, text: str) -> None:
        """One line of the job's log; its time is put before it."""
        line = f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {clean(' '.join(text.split()))}\n"
        with self._lock:
            if self._log_bytes < MAX_PENDING_LOG:
                self._log.append(line)
                self._log_bytes += len(line)

    @contextmanager
    def unsaved(self, claim: Claim) -> Iterator[Unsaved]:
        """What is not in the database yet. It counts as saved after the block, unless the block raises."""
        with self._lock:
            progress = None if self._latest == self._saved else self._latest
            lines, self._log, self._log_bytes = self._log, [], 0
        try:
            yield Unsaved(claim, progress, "".join(lines).encode())
        except BaseException:
            with self._lock:
                self._log = lines + self._log
                self._log_bytes += sum(map(len, lines))
            raise
        with self._lock:
            self._saved = progress or self._saved

    def _stalled(self, machine: ExportProgress) -> str | None:
        now = self._clock()
        if machine.phase not in _MOVING or machine.wire_bytes != self._moved[0]:
            self._moved = (machine.wire_bytes, now)
            return None
        silent_s = now - self._moved[1]
        if silent_s < STALL_S:
            return None
        why = machine.note or next((disk.note for disk in machine.disks if disk.note), "the source sends nothing")
        return f"no byte for {format_duration(silent_s)}: {why}"

    def _note_changes(self, machine: ExportProgress) -> None:
        self._change("", machine.phase, machine.note, f"{machine.machine}: {machine.phase}")
        for disk in machine.disks:
            self._change(disk.label, disk.phase, disk.note, _disk_line(disk))

    def _change(self, key: str, phase: Phase, note: str, line: str) -> None:
        if self._phases.get(key) is not phase:
            self._phases[key] = phase
            self.log(line)
        if note and self._notes.get(key) != note:
            self.log(f"{key + ': ' if key else ''}{note}")
        self._notes[key] = note


def _disk_line(disk: DiskProgress) -> str:
    amount = f", {format_size(disk.wire_bytes)} received" if disk.wire_bytes else ""
    again = f", try {disk.attempt}" if disk.attempt > 1 else ""
    return f"{disk.label}: {disk.phase}{amount}{again}"
