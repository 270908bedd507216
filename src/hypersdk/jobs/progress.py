"""A job's progress as the API shows it, from the engine's snapshots; its log lines; and whether it has stalled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Lock
from typing import Any, Final

from hypersdk.jobs.records import EMPTY_PROGRESS
from hypersdk.model import DiskProgress, ExportProgress, Phase
from hypersdk.text import clean
from hypersdk.units import format_duration, format_size

STALL_S: Final = 60.0
"""No byte for so long while a disk is being copied is called a stall."""
MAX_PENDING_LOG: Final = 256 * 1024
_DONE: Final = (Phase.DONE, Phase.VERIFYING, Phase.PUBLISHING)


class JobProgress:
    """Fed by the export's ticker, read by the worker's reporter. Thread-safe."""

    def __init__(self, method: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._method = method
        self._latest: Mapping[str, Any] = EMPTY_PROGRESS
        self._told: Mapping[str, Any] | None = None
        self._log: list[str] = []
        self._log_bytes = 0
        self._phases: dict[str, Phase] = {}
        self._notes: dict[str, str] = {}
        self._moved = (0, clock())

    def observe(self, machines: Sequence[ExportProgress]) -> None:
        """One snapshot: a job is one machine."""
        for machine in machines:
            stalled = self._stalled(machine)
            with self._lock:
                self._latest = progress_object(machine, self._method, stalled)
            self._note_changes(machine)

    def changed(self) -> Mapping[str, Any] | None:
        """The latest progress, if it is another than was ``told``."""
        with self._lock:
            return None if self._latest == self._told else self._latest

    def told(self, progress: Mapping[str, Any]) -> None:
        """That progress is written down."""
        with self._lock:
            self._told = progress

    @property
    def begun(self) -> bool:
        """Whether anything was observed."""
        with self._lock:
            return self._latest is not EMPTY_PROGRESS

    @property
    def latest(self) -> Mapping[str, Any]:
        """The latest progress."""
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
    def taking_log(self) -> Iterator[bytes]:
        """The lines since the last time; where the block raises, they come again."""
        with self._lock:
            lines, self._log, self._log_bytes = self._log, [], 0
        try:
            yield "".join(lines).encode()
        except BaseException:
            with self._lock:
                self._log = lines + self._log
                self._log_bytes += sum(map(len, lines))
            raise

    def _stalled(self, machine: ExportProgress) -> str | None:
        now = self._clock()
        if machine.phase is not Phase.TRANSFERRING or machine.wire_bytes != self._moved[0]:
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


def progress_object(machine: ExportProgress, method: str, stalled: str | None) -> dict[str, Any]:
    """All fields of ``EMPTY_PROGRESS``. Bytes; ``estimated_remaining`` in whole seconds, 0 where it is not known."""
    finished = sum(disk.phase in _DONE for disk in machine.disks)
    current = next((disk for disk in machine.disks if disk.phase is Phase.TRANSFERRING), None)
    return {
        **EMPTY_PROGRESS,
        "phase": machine.phase.value,
        "current_file": current.file_name if current else "",
        "current_step": machine.note or machine.phase.value,
        "files_downloaded": finished,
        "total_files": len(machine.disks),
        "bytes_downloaded": machine.wire_bytes,
        "bytes_transferred": sum(disk.written_bytes for disk in machine.disks),
        "total_bytes": sum(disk.capacity_bytes for disk in machine.disks),
        "percent_complete": round(machine.fraction * 100, 1),
        "estimated_remaining": int(machine.eta_s or 0),
        "export_method": method,
        "rate_bytes_s": _rounded(machine.rate_bytes_s),
        "eta_s": _rounded(machine.eta_s),
        "lease_age_s": _rounded(machine.lease_age_s),
        "note": machine.note,
        "stalled": stalled,
        "disks": [_disk_object(disk) for disk in machine.disks],
    }


def _disk_object(disk: DiskProgress) -> dict[str, Any]:
    return {
        "label": disk.label,
        "file": disk.file_name,
        "phase": disk.phase.value,
        "capacity_bytes": disk.capacity_bytes,
        "bytes_downloaded": disk.wire_bytes,
        "bytes_written": disk.written_bytes,
        "bytes_skipped": disk.skipped_bytes,
        "bytes_again": disk.again_bytes,
        "percent_complete": round(disk.fraction * 100, 1),
        "basis": disk.basis.value,
        "rate_bytes_s": _rounded(disk.rate_bytes_s),
        "eta_s": _rounded(disk.eta_s),
        "bottleneck": disk.bottleneck.value if disk.bottleneck else None,
        "attempt": disk.attempt,
        "note": disk.note,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
