"""What the native face shows: the shapes of its answers, and how they come from rows. No secret has a place in any of
them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeAlias, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, create_model

from hypersdk.api.times import maybe_rfc3339, rfc3339
from hypersdk.jobs.records import Attempt, Job, Worker
from hypersdk.jobs.states import LEGACY_STATUS, JobState
from hypersdk.model import DiskProgress, ExportProgress, derived_fields, job_object, json_fields
from hypersdk.state.pages import PageResult

Moment = Annotated[str, Field(description="RFC 3339, UTC", examples=["2026-01-31T12:00:00.250000Z"])]
JobId = Annotated[str, Field(description="Id of a job", examples=["job-3f9a1c20d4e5"])]


Status: TypeAlias = Literal["pending", "running", "completed", "failed", "cancelled"]
Scope: TypeAlias = Literal["viewer", "operator", "admin", "metrics"]
WorkerState: TypeAlias = Literal["alive", "draining", "dead"]


class View(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(frozen=True)


class OpenView(View):
    """Base of answers to which fields may be added."""

    model_config = ConfigDict(extra="allow", frozen=True, json_schema_serialization_defaults_required=True)


def _fields_of(record: type) -> type[OpenView]:
    first = job_object(record())
    fields: Any = {
        entry.name: (_type_in_json(entry.kind), Field(default=first[entry.name], description=entry.about or None))
        for entry in json_fields(record, "job") + derived_fields(record)
    }
    return create_model(f"{record.__name__}Fields", __base__=OpenView, **fields)


def _type_in_json(kind: Any) -> Any:
    if get_origin(kind) is tuple:
        return list[DiskProgressView]
    if isinstance(kind, type):
        return str if issubclass(kind, StrEnum) else kind
    return _type_in_json(get_args(kind)[0]) | None


class DiskProgressView(_fields_of(DiskProgress)):  # type: ignore[misc] # made from the record
    """One disk of a job. More fields may come."""


class ProgressView(_fields_of(ExportProgress)):  # type: ignore[misc] # made from the record
    """How far a job is. Every field is there from the first answer on; those that are not known yet are 0, empty or
    null."""


class ErrorView(View):
    """Why a job failed."""

    model_config = ConfigDict(extra="allow", frozen=True)

    code: str = Field(description="Stable; see docs/errors.md", examples=["no_space"])
    message: str
    cause: str = ""
    next_step: str = ""


class JobView(View):
    """One job."""

    id: JobId
    number: int = Field(description="Rises with each submit")
    name: str
    vm_path: str
    output_path: str
    format: str
    state: JobState
    status: Status = Field(description="The state in the words of the six legacy routes")
    definition: dict[str, Any] = Field(description="As it was submitted, without any secret")
    endpoint_id: str | None
    site: str = Field(description="host:port of the vCenter or ESXi host; limits are per site")
    priority: int
    owner: str | None = Field(description="Id of the user who submitted it")
    attempt: int
    worker_id: str | None
    waiting: str | None = Field(description="Code of what a queued job waits for")
    progress: ProgressView
    result: dict[str, Any] | None
    error: ErrorView | None
    source_changes: int = Field(description="Changes at the source that are not undone (yet); 0: it is as it was found")
    created_at: Moment
    started_at: Moment | None
    completed_at: Moment | None
    updated_at: Moment
    revision: int = Field(description="Moves with every change")


class Listed(View):
    """Part of a list."""

    total: int = Field(description="Rows that match, on all pages")
    revision: int = Field(
        description="Of all lists: for bulk calls, and to follow changes from here on with the event stream"
    )
    facets: dict[str, dict[str, int]] = Field(
        description="Matching rows by value of a column", examples=[{"state": {"running": 3, "completed": 120}}]
    )


class JobPage(Listed):
    """Part of the list of jobs."""

    jobs: list[JobView]
    next_cursor: str | None = Field(
        description="For the page behind this one; null on the last, and for lists that have no cursor"
    )


class AttemptView(View):
    """One time that a worker had the job. `outcome` is null while it has it, and when the worker died."""

    epoch: int
    attempt: int
    worker_id: str
    started_at: Moment
    ended_at: Moment | None
    outcome: str | None
    error: ErrorView | None


class WorkerView(View):
    """One worker process."""

    id: str
    host: str
    pid: int
    version: str
    roots: list[str] = Field(description="Ids of the export roots that it sees")
    state: WorkerState
    started_at: Moment
    age_s: float = Field(description="Seconds since its last sign of life")


def job_view(job: Job) -> JobView:
    """A row as it is shown."""
    return JobView(
        id=job.id,
        number=job.number,
        name=job.name,
        vm_path=job.vm_path,
        output_path=job.output_path,
        format=job.format,
        state=job.state,
        status=cast(Status, LEGACY_STATUS[job.state]),
        definition=dict(job.definition),
        endpoint_id=job.endpoint_id,
        site=job.site,
        priority=job.priority,
        owner=job.owner,
        attempt=job.attempt,
        worker_id=job.worker_id,
        waiting=job.waiting,
        progress=progress_view(job),
        result=None if job.result is None else dict(job.result),
        error=error_view(job.error),
        source_changes=job.source_changes,
        created_at=rfc3339(job.created_at),
        started_at=maybe_rfc3339(job.started_at),
        completed_at=maybe_rfc3339(job.completed_at),
        updated_at=rfc3339(job.updated_at),
        revision=job.revision,
    )


def progress_view(job: Job) -> ProgressView:
    """Its progress, whatever of it the worker has written so far."""
    return cast(ProgressView, ProgressView.model_validate(job.progress))


def error_view(error: Mapping[str, Any] | None) -> ErrorView | None:
    """An error as it was written down."""
    return None if error is None else ErrorView.model_validate({"code": "unknown", "message": "", **error})


def listed(found: PageResult[Any]) -> dict[str, Any]:
    """The fields of ``Listed``."""
    facets = {name: dict(counts) for name, counts in found.facets.items()}
    return {"total": found.total, "revision": found.revision, "facets": facets}


def attempt_view(attempt: Attempt) -> AttemptView:
    """A row of the attempts."""
    return AttemptView(
        epoch=attempt.epoch,
        attempt=attempt.attempt,
        worker_id=attempt.worker_id,
        started_at=rfc3339(attempt.started_at),
        ended_at=maybe_rfc3339(attempt.ended_at),
        outcome=attempt.outcome,
        error=error_view(attempt.error),
    )


def worker_view(worker: Worker) -> WorkerView:
    """A row of the workers."""
    return WorkerView(
        id=worker.id,
        host=worker.host,
        pid=worker.pid,
        version=worker.version,
        roots=list(worker.roots),
        state=cast(WorkerState, worker.state),
        started_at=rfc3339(worker.started_at),
        age_s=round(worker.age_s, 3),
    )
