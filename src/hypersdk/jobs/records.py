"""Jobs and workers as the rest of the daemon sees them: frozen copies of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hypersdk import model
from hypersdk.jobs.states import JobState
from hypersdk.model import ExportProgress, Phase, job_object, read_job_object

MAX_PRIORITY: Final = 1000
"""Of a job, up and down."""
EMPTY_PROGRESS: Final[Mapping[str, Any]] = job_object(ExportProgress())


def at_rest(progress: Mapping[str, Any], phase: str) -> dict[str, Any]:
    """The stored progress of a job that nobody works on; ``phase`` is the job's state, in most cases."""
    return job_object(model.at_rest(read_job_object(progress), Phase(phase)))


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
