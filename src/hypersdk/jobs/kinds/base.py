"""The interface of a kind of job: its definition, steps and locks, and how to undo its changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from hypersdk.access.endpoints import EndpointStore
from hypersdk.access.vault import Vault
from hypersdk.errors import Cancelled, HyperSDKError
from hypersdk.jobs.claims import Claim, Claims, StaleAttempt
from hypersdk.jobs.login import EndpointResolver
from hypersdk.jobs.progress import JobProgress
from hypersdk.jobs.records import JobRecord, NewJob
from hypersdk.jobs.roots import ExportRoots
from hypersdk.jobs.runstore import DatabaseRuns
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.jobs.sizes import QueueSizes
from hypersdk.landing.steps import GuestTurn
from hypersdk.migration.settings import RunResources, RunSettings
from hypersdk.state.database import DatabaseError
from hypersdk.transfer.cancel import CancelToken

PAUSED: Final = "paused"
"""The reason of a token that a user's pause cancels."""


@dataclass(frozen=True, slots=True)
class SubmitContext:
    """What a kind needs to check a definition. ``owner`` is the user who submits it; ``endpoint_id`` the stored
    endpoint for a definition that names none."""

    owner: str | None
    priority: int
    endpoint_id: str | None
    vault: Vault
    endpoints: EndpointStore
    settings: DaemonSettings
    roots: ExportRoots
    environ: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What all attempts of a worker share. ``resources_of`` takes a site; ``turn`` bounds the conversions and boots of
    guests."""

    claims: Claims
    endpoints: EndpointResolver
    roots: ExportRoots
    guard: Callable[[], None]
    settings: RunSettings
    resources_of: Callable[[str], RunResources]
    sizes: QueueSizes
    turn: GuestTurn
    ending: Callable[[float], bool]
    """Waits this many seconds, or until the worker is to end. Returns whether it is."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """What an attempt of one job uses. Every write through ``runs`` is fenced by the claim. ``at_once`` is not
    cancelled by a pause: for a step that would begin anew."""

    worker: WorkerContext
    claim: Claim
    cancel: CancelToken
    progress: JobProgress
    at_once: CancelToken

    @property
    def job(self) -> JobRecord:
        """The job as it was claimed."""
        return self.claim.job

    @property
    def runs(self) -> DatabaseRuns:
        """The record of the job's run."""
        return DatabaseRuns(self.worker.claims, self.claim, self.worker.settings.register)

    @property
    def begun(self) -> bool:
        """Whether an earlier attempt left a record."""
        return self.runs.exists(Path(self.job.target))


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """``result`` is JSON; that of the last step is the job's. With ``error`` the job fails, even if there is a
    result."""

    result: Mapping[str, Any] | None = None
    error: HyperSDKError | None = None


def is_failure(error: HyperSDKError) -> bool:
    """Whether the job failed: it was not stopped, this worker has it, and the database can be used."""
    return not isinstance(error, Cancelled | StaleAttempt | DatabaseError)


class JobRun(Protocol):
    """One attempt of a job, in a worker. Used by one thread, and always closed."""

    def step(self, name: str) -> StepOutcome:
        """Runs a step. An interrupted step is run again and resumes from its own record. Raises Cancelled, StaleAttempt
        if another worker has taken over the job, and HyperSDKError."""

    def undo(self, *, keep_partial: bool) -> Mapping[str, Any] | None:
        """Undoes the changes of all attempts. Returns the job's result if it was complete before it was cancelled, else
        None. Must ignore the token that stopped the steps. Raises HyperSDKError; then the job is not cancelled."""

    def clean_up(self) -> None:
        """Undoes, as far as possible, changes that must not stay while no worker has the job."""

    def close(self) -> None:
        """Closes all that is open."""


class JobKind(Protocol):
    """A kind of job."""

    @property
    def name(self) -> str:
        """As in the field ``kind`` of a job file."""

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the steps, in order. New steps are added at the end."""

    def accept(self, given: Mapping[str, Any], context: SubmitContext) -> tuple[NewJob, tuple[str, ...]]:
        """The job of a definition, and warnings about settings without effect. Passwords are sealed apart from the
        definition. Raises HyperSDKError if it cannot be accepted."""

    def run(self, context: RunContext) -> JobRun:
        """Prepares an attempt of a job of this kind. Raises nothing."""
