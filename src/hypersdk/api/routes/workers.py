"""The worker processes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from hypersdk.api.context import Services, services
from hypersdk.api.listing import OnlyKnown
from hypersdk.api.responses import problems
from hypersdk.api.security import Viewer
from hypersdk.api.views import WorkerView, worker_view
from hypersdk.jobs.figures import list_workers

router = APIRouter(prefix="/api/v1/workers", tags=["workers"])


class WorkersView(BaseModel):
    """All of them, those that live first."""

    workers: list[WorkerView]


@router.get("", operation_id="list_workers", summary="List workers", responses=problems())
def get(use: Annotated[Services, Depends(services)], _: Viewer, _only: OnlyKnown) -> WorkersView:
    """With the age of their last sign of life; dead ones are forgotten after a week."""
    return WorkersView(workers=[worker_view(one) for one in list_workers(use.database)])
