"""Temporary snapshots of jobs, which nothing else may remove at the source."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter
from pydantic import BaseModel, Field

from hypersdk.api.context import Use
from hypersdk.api.responses import problems
from hypersdk.api.security import Viewer
from hypersdk.jobs.store import JobStore

router = APIRouter(prefix="/api/v1/snapshots", tags=["jobs"])


class SnapshotView(BaseModel):
    """A snapshot, and the job that made it."""

    snapshot: str = Field(description="Its name at the source")
    job_id: str
    job_name: str
    state: str = Field(description="Of the job; a failed one left the snapshot behind and still answers for it")
    site: str = Field(description="host:port of the vCenter or ESXi host")
    machine: str


class SnapshotsView(BaseModel):
    """All of them, sorted by the age of their jobs."""

    snapshots: list[SnapshotView]


@router.get("", operation_id="list_snapshots", summary="List the temporary snapshots of jobs", responses=problems())
def get(use: Use, _: Viewer) -> SnapshotsView:
    """Each is removed by its job: at its end, when it is cancelled (`hyperctl cancel ID`), or when it is too old to go
    on from."""
    held = JobStore(use.database).snapshots()
    return SnapshotsView(snapshots=[SnapshotView(**asdict(snapshot)) for snapshot in held])
