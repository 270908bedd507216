"""Jobs, attempts and workers: frozen copies of rows. Each column is declared here and nowhere else (see
``resource``)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

from hypersdk import model
from hypersdk.jobs import ids
from hypersdk.jobs.states import JobState, StepState
from hypersdk.model import ExportProgress, Phase, job_object, read_job_object
from hypersdk.resource import LARGE, ListColumn, ListRecord, Named, Resource, TableColumn

LegacyWord: TypeAlias = Literal["pending", "running", "completed", "failed", "cancelled"]
WorkerState: TypeAlias = Literal["alive", "draining", "dead"]
MAX_PRIORITY: Final = 1000
"""A job's priority is from minus this to this."""
EMPTY_PROGRESS: Final[Mapping[str, Any]] = job_object(ExportProgress())


def at_rest(progress: Mapping[str, Any], phase: str) -> dict[str, Any]:
    """The stored progress of a job that no worker runs; ``phase`` is the job's state, in most cases."""
    return job_object(model.at_rest(read_job_object(progress), Phase(phase)))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepColumns(ListRecord):
    """The public columns of a step."""

    name: str
    state: Annotated[str, ListColumn(choices=StepState)]
    attempt: Annotated[int | None, ListColumn("The attempt that ran it last")]
    started_at: datetime | None
    ended_at: datetime | None
    error: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(StepColumns):
    """A row of the database, without the step's result."""

    state: StepState
    job_id: Annotated[str, ListColumn(internal=True)]
    position: Annotated[int, ListColumn(internal=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobColumns(ListRecord):
    """The public columns of a job, for server and client. Each has its own type for ``progress``."""

    id: Annotated[str, ListColumn(example=ids.EXAMPLE, table=TableColumn("Job ID", 1, style="bold"))]
    number: Annotated[int, ListColumn("Rises with each submit")] = 0
    name: Annotated[str, ListColumn(part=True, table=TableColumn("Name", 2, least=12))]
    kind: Annotated[str, ListColumn("What is done", example="export", facet=True)] = "export"
    subject: Annotated[
        str,
        ListColumn(
            "What the job works on; for an export, the machine's path",
            part=True,
            table=TableColumn("VM Path", 3, least=12, optional=True),
        ),
    ]
    target: Annotated[str, ListColumn("Where the result goes: of an export the folder", part=True)]
    vm_path: Annotated[str | None, ListColumn("Of an export: the subject", part=True)] = None
    output_path: Annotated[str | None, ListColumn("Of an export: the target", part=True)] = None
    format: Annotated[str | None, ListColumn("Of an export", facet=True)] = None
    state: Annotated[str, ListColumn(choices=JobState, facet=True, table=TableColumn("Status", 4))]
    status: Annotated[
        str, ListColumn("The state in the words of the six legacy routes", choices=LegacyWord, derived=True)
    ]
    definition: Annotated[Mapping[str, Any], ListColumn("As it was submitted, without any secret")] = field(
        default_factory=dict
    )
    endpoint_id: str | None = None
    target_endpoint_id: Annotated[
        str | None, ListColumn("The endpoint of the kind libvirt where it lands its machine")
    ] = None
    site: Annotated[str, ListColumn("host:port of the vCenter or ESXi host; limits are per site", facet=True)] = ""
    priority: int = 0
    owner: Annotated[str | None, ListColumn("Id of the user who submitted it")] = None
    attempt: int = 1
    worker_id: str | None = None
    waiting: Annotated[str | None, ListColumn("Code of what a queued job waits for")] = None
    steps: Annotated[
        tuple[StepColumns, ...], ListColumn("The named parts of its work, in the order in which they run")
    ] = ()
    progress: Annotated[object, ListColumn(table=TableColumn("Progress", 5))]
    result: Mapping[str, Any] | None = None
    error: Annotated[Mapping[str, Any] | None, ListColumn("Why it failed")] = None
    source_changes: Annotated[
        int, ListColumn("Changes at the source that are not undone (yet); 0 if there are none")
    ] = 0
    target_changes: Annotated[
        int,
        ListColumn("Changes at the target that are not undone (yet); 0 if there are none, and once it is completed"),
    ] = 0
    created_at: datetime
    started_at: Annotated[datetime | None, ListColumn(table=TableColumn("Started", 6, optional=True))] = None
    completed_at: datetime | None = None
    updated_at: datetime
    revision: Annotated[int, ListColumn("Moves with every change", bounds=LARGE)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord(JobColumns):
    """A row of the database. ``definition`` holds no secret; ``error`` has code, message, cause, next_step."""

    state: JobState
    steps: tuple[Step, ...]
    progress: Mapping[str, Any]
    root_id: Annotated[str, ListColumn(internal=True)]
    keep_partial: Annotated[bool, ListColumn(internal=True)]
    discard: Annotated[bool, ListColumn(internal=True)]
    enqueued: Annotated[int, ListColumn(internal=True)]
    epoch: Annotated[int, ListColumn(internal=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt(ListRecord):
    """One attempt of a worker to run the job. ``outcome`` is None while it runs, and if the worker died."""

    epoch: Annotated[int, ListColumn(bounds=LARGE)]
    attempt: int
    worker_id: Annotated[str, ListColumn(facet=True)]
    started_at: datetime
    ended_at: datetime | None
    outcome: Annotated[str | None, ListColumn(facet=True)]
    error: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo(ListRecord):
    """One worker process. ``age_s`` is counted by the database's clock."""

    id: Annotated[str, ListColumn(table=TableColumn("Worker", 1, least=10, style="bold"))]
    host: Annotated[str, ListColumn(table=TableColumn("Host", 4, least=12))]
    pid: Annotated[int, ListColumn(table=TableColumn("PID", 5, optional=True))]
    version: Annotated[str, ListColumn(facet=True, table=TableColumn("Version", 6))]
    roots: Annotated[tuple[str, ...], ListColumn("Ids of the export roots that it sees", part=True)]
    state: Annotated[str, ListColumn(choices=WorkerState, facet=True, table=TableColumn("State", 2))]
    jobs: Annotated[int, ListColumn("Jobs that it has now", table=TableColumn("Jobs", 3))] = 0
    started_at: Annotated[datetime, ListColumn(table=TableColumn("Since", 7, optional=True, style="dim"))]
    age_s: Annotated[
        float,
        ListColumn(
            "Seconds since its last heartbeat",
            bounds=(0, 2**31 - 1),
            digits=3,
            table=TableColumn("Heartbeat", 8, optional=True),
        ),
    ]


PERCENT: Final = Named("percent", float, ListColumn("How much of the job is done", bounds=(0, 100), digits=1))
JOBS: Final = Resource("jobs", JobRecord, key="number", sort="-number", more=(PERCENT,))
STEPS: Final = Resource("steps", Step, key="position", sort="position")
ATTEMPTS: Final = Resource("attempts", Attempt, key="epoch", sort="epoch")
WORKERS: Final = Resource("workers", WorkerInfo, key="id", sort="state")


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be stored. ``definition`` holds no secret; ``secret`` is sealed, or None."""

    id: str | None
    name: str
    kind: str
    subject: str
    target: str
    definition: Mapping[str, Any]
    digest: str
    endpoint_id: str | None
    secret: bytes | None
    site: str
    root_id: str
    target_endpoint_id: str | None = None
    locks: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    priority: int = 0
    owner: str | None = None


def digest_of(definition: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a definition, without the time at which it was written."""
    counted = {key: value for key, value in definition.items() if key != "created_at"}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()
