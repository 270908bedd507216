"""Jobs: submit, list, control, results; and the temporary snapshots that they hold at their sources."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from hypersdk.api.allowed import AllowedActionView, acted_on, job_permissions
from hypersdk.api.artifacts import FileResponse, artifacts_of, open_artifact, part_of
from hypersdk.api.audited import tell, tell_each, tell_submission, tell_unchanged
from hypersdk.api.bodies import job_file
from hypersdk.api.context import Use
from hypersdk.api.examples import JOB_FILE_BODY
from hypersdk.api.idempotency import idempotency_key
from hypersdk.api.queries import AttemptQuery, BulkBody, JobQuery
from hypersdk.api.responses import Remedies, problems
from hypersdk.api.security import Caller, Operator, Viewer
from hypersdk.api.views import (
    AttemptView,
    ErrorView,
    JobsView,
    JobView,
    PageView,
    ProgressView,
    listed,
)
from hypersdk.errors import HyperSDKError, UsageError, register
from hypersdk.jobs.ids import EXAMPLE
from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.remedies import error_dict
from hypersdk.jobs.states import ENDED
from hypersdk.jobs.store import JobStore
from hypersdk.state.pages import LIST_QUERY

BULK_QUERY: Final = register(
    "bulk_query",
    "A bulk request names its jobs either by ids, or by a filter and the revision of the list that the caller saw.",
    "Send one of the two; `GET /api/v1/jobs` and a dry run give the revision.",
)
MAX_BULK: Final = 1000
"""Jobs of one bulk call; ``remaining`` says how many more there are."""
MAX_WAIT_S: Final = 30.0
LOG_POLL_S: Final = 0.5
router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])
snapshots_router = APIRouter(prefix="/api/v1/snapshots", tags=["jobs"])
Id = Annotated[str, Path(max_length=128, description="Id of a job", examples=[EXAMPLE])]


class RejectionView(BaseModel):
    """A rejected job of the file."""

    number: int = Field(description="Its position in the file, from 1")
    error: ErrorView


class SubmissionView(BaseModel):
    """The result of a submission."""

    accepted: list[JobView]
    rejected: list[RejectionView]
    warnings: list[str] = Field(description="About accepted settings that have no effect")


class JobDetailView(JobView):
    """One job, and the caller's permissions on it."""

    permissions: dict[str, AllowedActionView]


class ExplanationView(BaseModel):
    """The reason for a job's current state, and what to do about it."""

    code: str
    message: str
    cause: str
    next_step: str
    remedies: Remedies
    history: list[AttemptView]


class BulkResultView(BaseModel):
    """The result for one job."""

    id: str
    ok: bool
    error: ErrorView | None


class BulkResultsView(BaseModel):
    """The result for each job."""

    results: list[BulkResultView]
    succeeded: int
    failed: int
    remaining: int = Field(description="Jobs that match the filter and were not processed; call again")
    skipped: int = Field(description="Jobs that match the filter in a state that does not allow the action")
    revision: int | None = Field(default=None, description="With a filter: that of the list in which it was applied")
    next_cursor: str | None = Field(default=None, description="With a filter: for the next page; null on the last one")


class LogView(BaseModel):
    """A chunk of a job's log."""

    text: str
    start: int = Field(description="Offset of its first byte")
    end: int = Field(description="Offset to continue from: the next `after`")
    ended: bool = Field(description="The log is complete")


class ArtifactView(BaseModel):
    """One file of an export."""

    name: str
    size_bytes: int | None
    sha256: str | None = Field(description="SHA-256 of the file; null where it was not computed")
    tree: str | None = Field(
        description="Tree digest of the file, see docs/manifest.md; null where it was not computed"
    )
    href: str = Field(
        description="URL of the download, percent-encoded",
        examples=[f"/api/v1/jobs/{EXAMPLE}/artifacts/web01-disk1.qcow2"],
    )


class ArtifactsView(BaseModel):
    """The files of an export; empty until the job is completed."""

    folder: str
    files: list[ArtifactView]


class SnapshotView(BaseModel):
    """A snapshot, and the job that made it."""

    snapshot: str = Field(description="Its name at the source")
    job_id: str
    job_name: str
    state: str = Field(
        description="State of the job; a failed job left the snapshot behind: cancel it to remove the snapshot"
    )
    site: str = Field(description="host:port of the vCenter or ESXi host")
    machine: str


class SnapshotsView(BaseModel):
    """All of them, sorted by the age of their jobs."""

    snapshots: list[SnapshotView]


class AttemptsView(PageView):
    """All attempts at the job, oldest first by default."""

    attempts: list[AttemptView]


@router.post(
    "",
    operation_id="create_jobs",
    summary="Submit a job file",
    status_code=201,
    openapi_extra=JOB_FILE_BODY,
    responses={200: {"description": "All jobs of the file were rejected", "model": SubmissionView}, **problems(404)},
)
async def create(
    request: Request,
    response: Response,
    use: Use,
    caller: Operator,
    endpoint_id: Annotated[
        str | None, Query(max_length=128, description="For jobs that name no endpoint of their own")
    ] = None,
    priority: Annotated[int, Query(ge=-1000, le=1000, description="Higher priorities start first")] = 0,
) -> SubmissionView:
    """One job, `{jobs: [...]}` or a list, as JSON or YAML. Each job is accepted or rejected on its own; an existing
    `id` with the same definition returns the existing job."""
    text, kind = await job_file(request)
    submit = partial(
        use.service.submit,
        text,
        kind,
        caller.user_id,
        endpoint_id=endpoint_id,
        priority=priority,
        key=idempotency_key(request),
    )
    done = await run_in_threadpool(submit)
    tell_submission(request.scope, done)
    if not done.accepted:
        response.status_code = 200
    return SubmissionView(
        accepted=[JobView.model_validate(job) for job in done.accepted],
        rejected=[RejectionView(number=rejection.number, error=_error(rejection.error)) for rejection in done.rejected],
        warnings=list(done.warnings),
    )


@router.get("", operation_id="list_jobs", summary="List jobs", responses=problems())
def list_jobs(query: Annotated[JobQuery, Query()], use: Use, _: Viewer) -> JobsView:
    """Filtered and sorted by any column. Paged by `cursor` for programs, by `offset` for a scroll bar."""
    after = None if query.cursor is None else int(query.cursor)
    if after is not None and query.offset:
        raise UsageError("offset cannot be combined with cursor", code=LIST_QUERY)
    page = use.jobs.page(query.as_filter(), query.part(), after=after)
    more = len(page.rows) == query.limit and query.sort.removeprefix("-") == "number"
    cursor = str(page.rows[-1].number) if more else None
    return JobsView(jobs=[JobView.model_validate(job) for job in page.rows], next_cursor=cursor, **listed(page))


@router.post("/bulk", operation_id="bulk_jobs", summary="Act on many jobs", responses=problems())
def bulk(body: BulkBody, request: Request, use: Use, _: Operator) -> BulkResultsView:
    """Cancel, pause, resume, retry or delete. The response has a result for each job. With a filter, jobs in a state
    that does not allow the action are only counted: repeat the call until `remaining` is 0. A dry run returns the jobs
    that the action would be applied to, a page at a time: send their ids to affect exactly these."""
    chosen = _chosen(body, use.jobs)
    outcome = dict.fromkeys(chosen.ids) if body.dry_run else use.service.each(chosen.ids, _action(body))
    results = [
        BulkResultView(id=job_id, ok=error is None, error=None if error is None else _error(error))
        for job_id, error in outcome.items()
    ]
    if body.dry_run:
        tell_unchanged(request.scope)
    else:
        tell_each(request.scope, body.action, outcome)
    failed = sum(not result.ok for result in results)
    return BulkResultsView(
        results=results,
        succeeded=len(results) - failed,
        failed=failed,
        remaining=chosen.remaining,
        skipped=chosen.skipped,
        revision=chosen.revision,
        next_cursor=chosen.next_cursor,
    )


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Ids to act on, oldest first; how many more there are, how many do not allow it, and the cursor of the next
    page."""

    ids: Sequence[str]
    remaining: int = 0
    skipped: int = 0
    revision: int | None = None
    next_cursor: str | None = None


def _chosen(body: BulkBody, store: JobStore) -> _Chosen:
    """Raises UsageError ``bulk_query``."""
    if (body.ids is None) == (body.filter is None):
        raise UsageError("give either ids or filter", code=BULK_QUERY, field="ids")
    if body.ids is not None:
        if body.dry_run or body.cursor is not None:
            raise UsageError("a dry run and a cursor need a filter", code=BULK_QUERY, field="ids")
        return _Chosen([job_id for job_id in dict.fromkeys(body.ids) if job_id not in set(body.except_)])
    assert body.filter is not None
    if body.revision is None and not body.dry_run:
        raise UsageError("a filter needs the revision of the list", code=BULK_QUERY, field="revision")
    revision = store.revision() if body.revision is None else body.revision
    after = None if body.cursor is None else int(body.cursor)
    which = body.filter.as_filter(excluded=tuple(body.except_), seen_revision=revision, after=after)
    fitting = {job_id for part in acted_on(which, body.action) for job_id in store.ids(part)}
    every = store.numbers(which)
    found = [job_id for job_id in every if job_id in fitting]
    part = found[:MAX_BULK]
    remaining = len(found) - len(part)
    return _Chosen(part, remaining, len(every) - len(found), revision, str(every[part[-1]]) if remaining else None)


def _action(body: BulkBody) -> Callable[[JobStore, str], Any]:
    actions: dict[str, Callable[[JobStore, str], Any]] = {
        "cancel": partial(JobStore.cancel, keep_partial=body.keep_partial),
        "pause": JobStore.pause,
        "resume": JobStore.resume,
        "retry": partial(JobStore.retry, discard=body.discard),
        "delete": JobStore.delete,
    }
    return actions[body.action]


@router.get("/{id}", operation_id="get_job", summary="One job", responses=problems(404))
def get(id: Id, use: Use, caller: Viewer) -> JobDetailView:  # noqa: A002 - the parameter's name
    """With its progress, its result once it has finished, and the caller's permissions."""
    return _detail(use.jobs.get(id), caller)


@router.delete(
    "/{id}",
    operation_id="delete_job",
    summary="Delete a finished job",
    status_code=204,
    responses=problems(404, 409),
)
def delete(
    id: Id,  # noqa: A002
    request: Request,
    use: Use,
    _: Operator,
    give_up: Annotated[
        bool, Query(description="Also a job whose source could not be restored: its changes there remain")
    ] = False,
) -> None:
    """Deletes its record and its log; the exported files are kept."""
    if give_up:
        tell(request.scope, {"give_up": True})
    use.jobs.delete(id, give_up=give_up)


@router.post("/{id}/cancel", operation_id="cancel_job", summary="Cancel a job", responses=problems(404, 409))
def cancel(
    id: Id,  # noqa: A002
    use: Use,
    caller: Operator,
    keep_partial: Annotated[
        bool, Query(description="Keeps the data copied so far, so that retry continues from there")
    ] = False,
) -> JobDetailView:
    """Copying stops within two seconds; the job is cancelled once its source is restored. Idempotent."""
    return _detail(use.jobs.cancel(id, keep_partial=keep_partial), caller)


@router.post(
    "/{id}/pause", operation_id="pause_job", summary="Pause a job at its next checkpoint", responses=problems(404, 409)
)
def pause(id: Id, use: Use, caller: Operator) -> JobDetailView:  # noqa: A002
    """Idempotent."""
    return _detail(use.jobs.pause(id), caller)


@router.post(
    "/{id}/resume",
    operation_id="resume_job",
    summary="Put a paused job back into the queue",
    responses=problems(404, 409),
)
def resume(id: Id, use: Use, caller: Operator) -> JobDetailView:  # noqa: A002
    """It continues from its checkpoint."""
    return _detail(use.jobs.resume(id), caller)


@router.post(
    "/{id}/retry", operation_id="retry_job", summary="Retry a failed or cancelled job", responses=problems(404, 409)
)
def retry(
    id: Id,  # noqa: A002
    use: Use,
    caller: Operator,
    discard: Annotated[bool, Query(description="Starts over instead of continuing from the last checkpoint")] = False,
) -> JobDetailView:
    """It continues from its last checkpoint."""
    return _detail(use.jobs.retry(id, discard=discard), caller)


@router.get(
    "/{id}/permissions",
    operation_id="job_permissions",
    summary="What the caller may do with a job",
    responses=problems(404),
)
def permissions(id: Id, use: Use, caller: Viewer) -> dict[str, AllowedActionView]:  # noqa: A002
    """By action, with the reason if it is not allowed."""
    return job_permissions(use.jobs.get(id), caller.role)


@router.get("/{id}/progress", operation_id="job_progress", summary="Progress of a job", responses=problems(404))
def progress(id: Id, use: Use, _: Viewer) -> ProgressView:  # noqa: A002
    """Every field is present from the first response on."""
    view: ProgressView = ProgressView.model_validate(use.jobs.get(id).progress)
    return view


@router.get(
    "/{id}/attempts",
    operation_id="job_attempts",
    summary="List the attempts at a job",
    responses=problems(404),
)
def attempts(id: Id, query: Annotated[AttemptQuery, Query()], use: Use, _: Viewer) -> AttemptsView:  # noqa: A002
    """Filtered and sorted by any column."""
    found = use.jobs.attempts_page(use.jobs.get(id).id, query.where(), query.part())
    return AttemptsView(attempts=[AttemptView.model_validate(attempt) for attempt in found.rows], **listed(found))


@router.get(
    "/{id}/explain", operation_id="explain_job", summary="Explain a job's current state", responses=problems(404)
)
def explain(id: Id, use: Use, _: Viewer) -> ExplanationView:  # noqa: A002
    """Code, cause, next step and earlier attempts."""
    found = use.service.explain(use.jobs.get(id))
    return ExplanationView(
        code=found.code,
        message=found.message,
        cause=found.cause,
        next_step=found.next_step,
        remedies=[dict(remedy) for remedy in found.remedies],
        history=[AttemptView.model_validate(attempt) for attempt in found.history],
    )


@router.get(
    "/{id}/logs", operation_id="job_logs", summary="Read a job's log from a byte offset", responses=problems(404)
)
async def logs(
    id: Id,  # noqa: A002
    request: Request,
    use: Use,
    _: Viewer,
    after: Annotated[int, Query(ge=0, le=2**40, description="Offset to read from: `end` of the previous response")] = 0,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for new output")] = 0,
) -> LogView:
    """Up to 256 KiB. With `wait` the response is sent as soon as there is new output or the job has finished."""
    loop = asyncio.get_running_loop()
    until = loop.time() + wait
    while True:
        found = await run_in_threadpool(_read_log, use.jobs, id, after)
        if found.text or found.ended or loop.time() >= until or await request.is_disconnected():
            return found
        await asyncio.sleep(min(LOG_POLL_S, max(0.0, until - loop.time())))


def _read_log(store: JobStore, job_id: str, after: int) -> LogView:
    job = store.get(job_id)  # before the log: a job that has ended writes no more
    data, end = store.read_log(job.id, after)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data)
    begun = decoder.getstate()[0]  # a character whose last bytes are not written yet
    if not text:  # nothing follows it: the log was cut off
        text, begun = data.decode("utf-8", "replace"), b""
    return LogView(text=text, start=after, end=end - len(begun), ended=job.state in ENDED and not data)


@router.get(
    "/{id}/artifacts", operation_id="job_artifacts", summary="List the files of an export", responses=problems(404)
)
def list_artifacts(id: Id, use: Use, _: Viewer) -> ArtifactsView:  # noqa: A002
    """From the job's result."""
    job = use.jobs.get(id)
    below = f"/api/v1/jobs/{job.id}/artifacts"
    files = [
        ArtifactView(
            name=artifact.name,
            size_bytes=artifact.size_bytes,
            sha256=artifact.sha256,
            tree=artifact.tree,
            href=f"{below}/{quote(artifact.name, safe='')}",
        )
        for artifact in artifacts_of(job)
    ]
    return ArtifactsView(folder=job.target, files=files)


@router.get(
    "/{id}/artifacts/{name}",
    operation_id="download_artifact",
    summary="Download a file of an export",
    response_class=Response,
    responses={
        200: {"description": "The whole file", "content": {"application/octet-stream": {}, "application/json": {}}},
        206: {"description": "A part of it", "content": {"application/octet-stream": {}, "application/json": {}}},
        **problems(404, 409, 416),
    },
)
def download(
    id: Id,  # noqa: A002
    name: Annotated[str, Path(max_length=255)],
    request: Request,
    use: Use,
    _: Operator,
    range: Annotated[str | None, Header(max_length=200)] = None,  # noqa: A002 - the header's name
    if_range: Annotated[str | None, Header(max_length=200)] = None,
) -> Response:
    """For operators: a disk contains the secrets of its guest. Only files below an export root; links are not
    followed. A single byte range can be requested. Every download is recorded in the audit trail. `HEAD` returns the
    size without reading the file."""
    file = open_artifact(use.jobs.get(id), name, use.service.roots)
    if request.method == "HEAD":
        tell(request.scope, {"size_bytes": file.size})
        return FileResponse(file, None)  # a range is for GET only: RFC 9110, 14.2
    try:
        part = part_of(range, if_range, file)
    except UsageError:
        file.close()
        raise
    start, end = part or (0, file.size)
    tell(request.scope, {"start": start, "end": end, "size_bytes": file.size})
    return FileResponse(file, part)


@snapshots_router.get(
    "", operation_id="list_snapshots", summary="List the temporary snapshots of jobs", responses=problems()
)
def list_snapshots(use: Use, _: Viewer) -> SnapshotsView:
    """Each is removed by its job: when it finishes, when it is cancelled (`hyperctl cancel ID`), or when the snapshot
    is too old to continue from."""
    held = use.jobs.snapshots()
    return SnapshotsView(snapshots=[SnapshotView(**asdict(snapshot)) for snapshot in held])


def _detail(job: JobRecord, caller: Caller) -> JobDetailView:
    return JobDetailView(**JobView.model_validate(job).model_dump(), permissions=job_permissions(job, caller.role))


def _error(error: HyperSDKError) -> ErrorView:
    return ErrorView.model_validate(error_dict(error))
