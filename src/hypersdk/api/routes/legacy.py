"""The six legacy routes, which existing programs use: their paths, words and errors do not change.

They are a thin layer over the calls of the native routes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from hypersdk import __version__
from hypersdk.api.audited import tell_each, tell_submission
from hypersdk.api.bodies import job_file, json_body
from hypersdk.api.context import Use
from hypersdk.api.examples import JOB_FILE_BODY
from hypersdk.api.idempotency import idempotency_key
from hypersdk.api.responses import legacy_errors
from hypersdk.api.security import Operator, Viewer
from hypersdk.api.times import go_duration, maybe_rfc3339, nanoseconds, now_rfc3339, rfc3339
from hypersdk.errors import UsageError, register
from hypersdk.jobs.records import EMPTY_PROGRESS, JobRecord
from hypersdk.jobs.service import SubmitResult
from hypersdk.jobs.states import LEGACY_STATUS, JobState
from hypersdk.jobs.store import Filter, JobStore

QUERY_STATUS: Final = register(
    "query_status",
    "The query names a status that does not exist.",
    "Use one of pending, running, completed, failed, cancelled.",
)
MAX_JOBS: Final = 10_000
"""Jobs of one response; ``total`` is the number of all."""
LIMIT: Final = f"0 and more than {MAX_JOBS:,}: {MAX_JOBS:,}, the most that one answer holds; `total` counts all"
PROGRESS_FIELDS: Final = (
    "phase", "current_file", "current_step", "files_downloaded", "total_files", "bytes_downloaded", "bytes_transferred",
    "total_bytes", "percent_complete", "estimated_remaining", "export_method",
)  # fmt: skip
RESULT_FIELDS: Final[Mapping[str, Any]] = {
    "vm_name": "", "output_dir": "", "ovf_path": "", "files": [], "output_files": [], "total_size": 0, "duration": 0,
    "success": False, "export_method": "", "error": "",
}  # fmt: skip
router = APIRouter(tags=["legacy"])


class HealthView(BaseModel):
    """The process is running."""

    status: str = Field(examples=["healthy"])
    timestamp: str


class LegacyStatusView(BaseModel):
    """The state of the daemon."""

    version: str
    uptime: str = Field(description="A duration as Go prints it", examples=["2m9.167s"])
    total_jobs: int
    running_jobs: int
    completed_jobs: int
    failed_jobs: int
    cancelled_jobs: int
    timestamp: str


class LegacySubmissionView(BaseModel):
    """The result of a submission."""

    job_ids: list[str]
    accepted: int
    rejected: int
    errors: list[str] | None = Field(default=None, description="One line for each rejected job")
    timestamp: str


class LegacyJobView(BaseModel):
    """A job as the legacy routes show it."""

    definition: dict[str, Any]
    status: str = Field(examples=["pending", "running", "completed", "failed", "cancelled"])
    progress: dict[str, Any]
    result: dict[str, Any] | None = None
    error: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    updated_at: str


class LegacyJobsView(BaseModel):
    """Jobs of a query."""

    jobs: list[LegacyJobView]
    total: int
    timestamp: str


class LegacyCancelView(BaseModel):
    """The result of a cancel request."""

    cancelled: list[str]
    failed: list[str]
    errors: dict[str, str] | None = Field(default=None, description="Reason by id")
    timestamp: str


class LegacyQueryBody(BaseModel):
    """Which jobs. Without any of the first three: all."""

    model_config = ConfigDict(extra="ignore", strict=True)

    job_ids: list[str] | None = Field(default=None, max_length=MAX_JOBS)
    status: list[str] | None = Field(default=None, max_length=20)
    all: bool | None = None
    limit: int | None = Field(default=None, ge=0, le=2**31, description=LIMIT)


class LegacyCancelBody(BaseModel):
    """Which jobs."""

    model_config = ConfigDict(extra="ignore", strict=True)

    job_ids: list[str] = Field(min_length=1, max_length=MAX_JOBS)


def _json(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI document's request body of a route that parses it itself."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}


@router.head("/health", include_in_schema=False)
@router.get("/health", operation_id="health", summary="Whether the process is running", responses=legacy_errors())
async def health() -> HealthView:
    """No authentication; needs neither database nor worker, which `/ready` checks."""
    return HealthView(status="healthy", timestamp=now_rfc3339())


@router.get("/status", operation_id="status", summary="Job counts, version, uptime", responses=legacy_errors())
def status(use: Use, _: Viewer) -> LegacyStatusView:
    """Job counts in the words of these routes; waiting jobs are in the total only."""
    counts = dict.fromkeys(LEGACY_STATUS.values(), 0)
    for state, count in use.jobs.counts().items():
        counts[LEGACY_STATUS[state]] += count
    return LegacyStatusView(
        version=__version__,
        uptime=go_duration(use.metrics.uptime_s()),
        total_jobs=sum(counts.values()),
        running_jobs=counts["running"],
        completed_jobs=counts["completed"],
        failed_jobs=counts["failed"],
        cancelled_jobs=counts["cancelled"],
        timestamp=now_rfc3339(),
    )


@router.post(
    "/jobs/submit",
    operation_id="submit",
    summary="Submit a job file",
    openapi_extra=JOB_FILE_BODY,
    response_model_exclude_none=True,
    responses=legacy_errors(),
)
async def submit(request: Request, use: Use, caller: Operator) -> LegacySubmissionView:
    """One definition, `{jobs: [...]}` or a bare list, as JSON or YAML. An invalid job is rejected with its reason, the
    others are accepted; 400 only if the text cannot be parsed at all."""
    text, kind = await job_file(request)
    submit = partial(use.service.submit, text, kind, caller.user_id, key=idempotency_key(request))
    done: SubmitResult = await run_in_threadpool(submit)
    tell_submission(request.scope, done)
    return LegacySubmissionView(
        job_ids=[job.id for job in done.accepted],
        accepted=len(done.accepted),
        rejected=len(done.rejected),
        errors=[f"job {rejection.number}: {rejection.error.message}" for rejection in done.rejected] or None,
        timestamp=now_rfc3339(),
    )


@router.post(
    "/jobs/query",
    operation_id="query",
    summary="Find jobs",
    openapi_extra=_json(LegacyQueryBody),
    response_model_exclude_none=True,
    responses=legacy_errors(),
)
async def query(request: Request, use: Use, _: Viewer) -> LegacyJobsView:
    """By id, by status, or all. Unknown ids are skipped."""
    question = await json_body(request, LegacyQueryBody)
    return await run_in_threadpool(_find, use.jobs, question)


@router.get(
    "/jobs/query",
    operation_id="query_all",
    summary="Find jobs by parameters",
    response_model_exclude_none=True,
    responses=legacy_errors(),
)
def query_by_parameters(
    use: Use,
    _: Viewer,
    all: Annotated[bool, Query(description="All jobs")] = True,  # noqa: A002 - the parameter's name
    status: Annotated[list[str] | None, Query(max_length=20, description="May be repeated")] = None,
    limit: Annotated[int, Query(ge=0, le=2**31, description=LIMIT)] = 0,
) -> LegacyJobsView:
    """The same without a body: `?all=true`."""
    return _find(use.jobs, LegacyQueryBody(all=all, status=status, limit=limit))


@router.get(
    "/jobs/{id}", operation_id="job", summary="One job", response_model_exclude_none=True, responses=legacy_errors(404)
)
def get(id: str, use: Use, _: Viewer) -> LegacyJobView:  # noqa: A002 - the parameter's name
    """With its progress, and its result once it has finished."""
    return legacy_job(use.jobs.get(id))


@router.post(
    "/jobs/cancel",
    operation_id="cancel",
    summary="Cancel jobs",
    openapi_extra=_json(LegacyCancelBody),
    response_model_exclude_none=True,
    responses=legacy_errors(),
)
async def cancel(request: Request, use: Use, _: Operator) -> LegacyCancelView:
    """Each on its own: unknown or finished jobs are in `failed`, with the reason in `errors`."""
    wanted = await json_body(request, LegacyCancelBody)
    outcome = await run_in_threadpool(use.service.each, wanted.job_ids, JobStore.cancel)
    tell_each(request.scope, "cancel", outcome)
    errors = {job_id: error.message for job_id, error in outcome.items() if error is not None}
    return LegacyCancelView(
        cancelled=[job_id for job_id in outcome if job_id not in errors],
        failed=list(errors),
        errors=errors or None,
        timestamp=now_rfc3339(),
    )


def _find(store: JobStore, question: LegacyQueryBody) -> LegacyJobsView:
    """Newest first."""
    which = Filter(ids=tuple(question.job_ids or ()), states=_states(question.status or ()))
    if question.job_ids == [] and not question.all and not question.status:
        return LegacyJobsView(jobs=[], total=0, timestamp=now_rfc3339())
    jobs, total = store.newest(which, min(question.limit or MAX_JOBS, MAX_JOBS))
    return LegacyJobsView(jobs=[legacy_job(job) for job in jobs], total=total, timestamp=now_rfc3339())


def _states(words: Sequence[str]) -> tuple[JobState, ...]:
    """Raises UsageError ``query_status``."""
    found: list[JobState] = []
    for word in words:
        states = [state for state, legacy in LEGACY_STATUS.items() if legacy == word.lower()]
        if not states:
            raise UsageError(f"'{word[:40]}' is no status", code=QUERY_STATUS)
        found += states
    return tuple(found)


def legacy_job(job: JobRecord) -> LegacyJobView:
    """A job in the format of the legacy routes."""
    return LegacyJobView(
        definition={**job.definition, "id": job.id, "name": job.name, "created_at": rfc3339(job.created_at)},
        status=LEGACY_STATUS[job.state],
        progress=_progress(job),
        result=None if job.result is None else _result(job.result),
        error=None if job.error is None else str(job.error.get("message", "")),
        started_at=maybe_rfc3339(job.started_at),
        completed_at=maybe_rfc3339(job.completed_at),
        updated_at=rfc3339(job.updated_at),
    )


def _progress(job: JobRecord) -> dict[str, Any]:
    """All fields are always present: scripts read ``percent_complete`` from the first response on."""
    known = {**EMPTY_PROGRESS, **job.progress}
    shown = {name: known[name] for name in PROGRESS_FIELDS}
    shown["estimated_remaining"] = nanoseconds(float(known["eta_s"] or 0))
    if job.state is JobState.COMPLETED:
        shown["percent_complete"] = 100.0
    # Scripts compare the two: it is what is done of the total, holes included, not what came over the wire.
    shown["bytes_downloaded"] = round(known["total_bytes"] * shown["percent_complete"] / 100)
    return shown


def _result(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: result.get(name, default) for name, default in RESULT_FIELDS.items()}
