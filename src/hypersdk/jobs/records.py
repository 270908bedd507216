"""Jobs and workers as the rest of the daemon sees them: frozen copies of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hypersdk.jobs.states import JobState

MAX_PRIORITY: Final = 1000
"""Of a job, up and down."""
EMPTY_PROGRESS: Final[Mapping[str, Any]] = {
    "phase": "queued", "current_file": "", "current_step": "", "files_downloaded": 0, "total_files": 0, "bytes_downloaded": 0,
    "bytes_transferred": 0, "total_bytes": 0, "percent_complete": 0.0, "estimated_remaining": 0, "export_method": "",
    "rate_bytes_s": None, "eta_s": None, "lease_age_s": None, "note": "", "stalled": None, "disks": [],
}  # fmt: skip
"""The kept fields first, always all there; behind them those of the native face."""


def at_rest(progress: Mapping[str, Any], phase: str) -> dict[str, Any]:
    """The progress of a job that nobody works on: how far it is, and nothing that would move. ``phase`` is the job's
    state, in most cases."""
    still = {
        "phase": phase,
        "current_file": "",
        "current_step": phase,
        "estimated_remaining": 0,
        "rate_bytes_s": None,
        "eta_s": None,
        "lease_age_s": None,
        "note": "",
        "stalled": None,
    }
    disks = [{**disk, "rate_bytes_s": None, "eta_s": None, "note": ""} for disk in progress.get("disks", ())]
    return {**EMPTY_PROGRESS, **progress, **still, "disks": disks}


@dataclass(frozen=True, slots=True)
class Job:
    """One job. Times are seconds since 1970; ``definition`` holds no secret; ``error`` has code, message, cause,
    next_step.

    ``waiting`` is the code of what a queued job waits for. ``source_changes`` is how many
    changes at the source are not undone. ``revision`` moves with every change.
    """

    id: str
    number: int
    name: str
    vm_path: str
    output_path: str
    format: str
    definition: Mapping[str, Any]
    endpoint_id: str | None
    site: str
    root_id: str
    priority: int
    owner: str | None
    state: JobState
    request: str | None
    keep_partial: bool
    discard: bool
    attempt: int
    enqueued: int
    epoch: int
    worker_id: str | None
    waiting: str | None
    progress: Mapping[str, Any]
    result: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    source_changes: int
    created_at: float
    started_at: float | None
    completed_at: float | None
    updated_at: float
    revision: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """One time that a worker had the job. ``outcome`` is None while it has it, or when the worker died."""

    epoch: int
    attempt: int
    worker_id: str
    started_at: float
    ended_at: float | None
    outcome: str | None
    error: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process. ``age_s`` is how long ago its last heartbeat was, on the database's clock."""

    id: str
    host: str
    pid: int
    version: str
    roots: tuple[str, ...]
    state: str
    epoch: int
    started_at: float
    age_s: float


@dataclass(frozen=True, slots=True)
class NewJob:
    """What is written down at submit. ``definition`` without secrets; ``secret`` is sealed, or None."""

    id: str | None
    name: str
    vm_path: str
    output_path: str
    format: str
    definition: Mapping[str, Any]
    digest: str
    endpoint_id: str | None
    secret: bytes | None
    site: str
    root_id: str
    priority: int = 0
    owner: str | None = None
