"""The daemon itself: readiness, metrics, statistics and their history, workers, the OpenAPI document and its page."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, JSONResponse

from hypersdk.api.context import Use
from hypersdk.api.front import facts, front_page
from hypersdk.api.headers import CSP
from hypersdk.api.metrics import CONTENT_TYPE
from hypersdk.api.openapi import document
from hypersdk.api.page import STYLE, STYLE_SOURCE, page
from hypersdk.api.queries import WorkerQuery
from hypersdk.api.responses import Remedies, problems
from hypersdk.api.security import Viewer, metrics_reader
from hypersdk.api.times import now_rfc3339, rfc3339
from hypersdk.api.views import PageView, View, WorkerView, listed, view_of
from hypersdk.errors import CODES
from hypersdk.jobs.remedies import next_step
from hypersdk.jobs.states import JobState
from hypersdk.jobs.statistics import KEEP_MINUTES, Sample, list_workers, read_samples, read_statistics
from hypersdk.jobs.workerfault import PROCESS_DIES
from hypersdk.model.eta import QueueProgress
from hypersdk.remedies import as_json

router = APIRouter()
MAX_POINTS: Final = 1500


class ReasonView(BaseModel):
    """Why a part does not work, and what to do about it."""

    part: str = Field(examples=["database"])
    code: str = Field(examples=["database_full"])
    cause: str
    next_step: str
    remedies: Remedies


class ReadyView(BaseModel):
    """Whether the daemon is ready."""

    status: str = Field(examples=["ready", "not ready"])
    checks: dict[str, str] = Field(examples=[{"database": "ok", "schema": "ok", "workers": "ok", "engine": "ok"}])
    reasons: list[ReasonView] = Field(description="What is wrong with each part that is not `ok`")
    timestamp: str


@view_of(QueueProgress)
class QueueView(View):
    """The queue as a whole: the jobs that have not ended, and those that ended since it was last empty."""


class StatisticsView(BaseModel):
    """The current state of the daemon."""

    jobs: dict[JobState, int]
    waiting: dict[str, int] = Field(
        description="Queued jobs by the code of what they wait for; empty text: a free worker"
    )
    submitted: int = Field(description="Jobs ever")
    queue: QueueView
    rate_bytes_s: float = Field(description="Of all running jobs together")
    bytes_downloaded: int = Field(description="Of the running jobs")
    total_bytes: int
    stalled: int
    oldest_queued_s: float
    oldest_lease_s: float
    workers_alive: int
    streams: int = Field(description="NFC streams in use")
    revision: int
    timestamp: str


@view_of(Sample, but="minute")
class PointView(View):
    """One minute."""

    at: str


class HistoryView(BaseModel):
    """Samples, oldest first, thinned out evenly where there are too many. `submitted` counts all jobs ever."""

    since: str
    until: str
    points: list[PointView]


class WorkersView(PageView):
    """Live workers first."""

    workers: list[WorkerView]


@router.head("/ready", include_in_schema=False)
@router.get(
    "/ready",
    operation_id="ready",
    summary="Whether the daemon is ready",
    tags=["meta"],
    responses={503: {"description": "Not ready; `checks` says why", "model": ReadyView}},
)
async def ready(response: Response, use: Use) -> ReadyView:
    """The database answers and can be written, its schema is this version's, and a worker is alive where this daemon
    has workers. Open to everyone."""
    checks = await run_in_threadpool(use.readiness.checks)
    fine = use.readiness.fine(checks)
    response.status_code = 200 if fine else 503
    reasons = [_reason(part, check.code) for part, check in checks.items() if check.code is not None]
    words = {part: check.word for part, check in checks.items()}
    status = "ready" if fine else "not ready"
    return ReadyView(status=status, checks=words, reasons=reasons, timestamp=now_rfc3339())


def _reason(part: str, code: str) -> ReasonView:
    """A worker may report a code that this process does not know."""
    info = CODES.get(code, CODES[PROCESS_DIES])
    return ReasonView(
        part=part, code=code, cause=info.cause, next_step=next_step(info), remedies=as_json(info.remedies)
    )


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Metrics for Prometheus",
    tags=["meta"],
    response_class=Response,
    responses={
        200: {"description": "Text exposition", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **problems(),
    },
    dependencies=[Depends(metrics_reader)],
)
def metrics(use: Use) -> Response:
    """The values are read from the database on each request. A token with the scope `metrics` can read only this."""
    return Response(use.metrics.exposition(), headers={"content-type": CONTENT_TYPE})


@router.get(
    "/api/v1/statistics",
    operation_id="statistics",
    summary="Current statistics",
    tags=["statistics"],
    responses=problems(),
)
def statistics(use: Use, _: Viewer) -> StatisticsView:
    """Of all jobs together."""
    found = read_statistics(use.database, take_over_s=use.settings.take_over_s)
    return StatisticsView(
        jobs=dict(found.states),
        waiting=dict(found.waiting),
        queue=QueueView.model_validate(use.queue.look()),
        submitted=found.submitted,
        rate_bytes_s=found.rate_bytes_s,
        bytes_downloaded=found.transferred_bytes,
        total_bytes=found.total_bytes,
        stalled=found.stalled,
        oldest_queued_s=found.oldest_queued_s,
        oldest_lease_s=found.oldest_lease_s,
        workers_alive=found.workers_alive,
        streams=sum(host.used for host in found.hosts),
        revision=found.revision,
        timestamp=rfc3339(found.now),
    )


@router.get(
    "/api/v1/statistics/history",
    operation_id="history",
    summary="History of rate and job counts",
    tags=["statistics"],
    responses=problems(),
)
def history(
    use: Use,
    _: Viewer,
    since: Annotated[AwareDatetime | None, Query(description="Default: an hour ago")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Default: now")] = None,
    points: Annotated[int, Query(ge=1, le=MAX_POINTS, description="Maximum number of samples")] = 500,
) -> HistoryView:
    """A sample a minute, kept for 30 days."""
    last = _minute(until, time.time() + 60)
    first = max(_minute(since, (last - 60) * 60.0), last - KEEP_MINUTES)
    found = read_samples(use.database, first, last, limit=points) if first < last else []
    shown = [PointView(at=rfc3339(sample.minute * 60.0), **asdict(sample)) for sample in found]
    return HistoryView(since=rfc3339(first * 60.0), until=rfc3339(last * 60.0), points=shown)


def _minute(moment: datetime | None, otherwise: float) -> int:
    return int((otherwise if moment is None else moment.timestamp()) // 60)


@router.get(
    "/api/v1/workers",
    operation_id="list_workers",
    summary="List workers",
    tags=["workers"],
    responses=problems(),
)
def workers(query: Annotated[WorkerQuery, Query()], use: Use, _: Viewer) -> WorkersView:
    """With the age of their last heartbeat; dead workers are removed after a week."""
    found = list_workers(use.database, query.where(), query.part())
    return WorkersView(workers=[WorkerView.model_validate(worker) for worker in found.rows], **listed(found))


@router.get("/openapi.json", include_in_schema=False)
def openapi(request: Request, _: Viewer) -> Response:
    """The OpenAPI document."""
    return JSONResponse(document(request.app))


@router.get("/docs", include_in_schema=False)
def docs(request: Request, _: Viewer) -> HTMLResponse:
    """The OpenAPI document as a page without scripts, as the Content-Security-Policy requires."""
    policy = f"{CSP}; style-src {STYLE_SOURCE}"
    return HTMLResponse(page(document(request.app)), headers={"content-security-policy": policy})


@router.get("/docs/style.css", include_in_schema=False)
def style() -> Response:
    """The style sheet of the page at ``/``."""
    return Response(STYLE, media_type="text/css")


@router.get("/", include_in_schema=False)
def front(request: Request) -> Response:
    """What this is and where to go on: a page for a browser, else JSON."""
    base = str(request.base_url).rstrip("/")
    answer: Response = JSONResponse(facts(base))
    if "text/html" in request.headers.get("accept", ""):
        answer = HTMLResponse(front_page(base))
    answer.headers["vary"] = "Accept"
    return answer
