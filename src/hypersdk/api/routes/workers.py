"""Worker processes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from hypersdk.api.context import Use
from hypersdk.api.queries import WorkerQuery
from hypersdk.api.responses import problems
from hypersdk.api.security import Viewer
from hypersdk.api.views import ListView, WorkerView, listed
from hypersdk.jobs.statistics import list_workers

router = APIRouter(prefix="/api/v1/workers", tags=["workers"])


class WorkersView(ListView):
    """Live workers first."""

    workers: list[WorkerView]


@router.get("", operation_id="list_workers", summary="List workers", responses=problems())
def get(query: Annotated[WorkerQuery, Query()], use: Use, _: Viewer) -> WorkersView:
    """With the age of their last heartbeat; dead workers are removed after a week."""
    found = list_workers(use.database, query.where(), query.part())
    return WorkersView(workers=[WorkerView.model_validate(worker) for worker in found.rows], **listed(found))
