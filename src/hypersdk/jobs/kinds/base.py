"""What a kind of job is: its definition, the steps of its work, what it locks, and how it is undone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hypersdk.access.endpoints import EndpointStore
from hypersdk.access.vault import Vault
from hypersdk.errors import HyperSDKError
from hypersdk.jobs.claims import Claim, Claims
from hypersdk.jobs.login import EndpointResolver
from hypersdk.jobs.progress import JobProgress
from hypersdk.jobs.records import JobRecord, NewJob
from hypersdk.jobs.roots import ExportRoots
from hypersdk.jobs.runstore import DatabaseRuns
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.migration.settings import RunResources, RunSettings
from hypersdk.transfer.cancel import CancelToken


@dataclass(frozen=True, slots=True)
class SubmitContext:
    """What a kind needs to judge a definition. ``owner`` is the user who submits it; ``endpoint_id`` the stored
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
    """What all attempts of a worker share; ``resources_of`` is per site."""

    claims: Claims
    endpoints: EndpointResolver
    roots: ExportRoots
    guard: Callable[[], None]
    settings: RunSettings
    resources_of: Callable[[str], RunResources]
    ending: Callable[[float], bool]
    """Waits so many seconds, or until the worker is to end; whether it is."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """What an attempt of one job works with. Every write through ``runs`` is fenced by the claim."""

    worker: WorkerContext
    claim: Claim
    cancel: CancelToken
    progress: JobProgress

    @property
    def job(self) -> JobRecord:
        """As it was when it was claimed."""
        return self.claim.job

    @property
    def runs(self) -> DatabaseRuns:
        """Where the inside of a step keeps its own record."""
        return DatabaseRuns(self.worker.claims, self.claim, self.worker.settings.register)

    @property
    def begun(self) -> bool:
        """Whether an earlier attempt left a record."""
        return self.runs.exists(Path(self.job.target))


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What a step leaves. ``result`` is JSON; that of the last step is the job's. With ``error`` the job fails, though
    there is a result."""

    result: Mapping[str, Any] | None = None
    error: HyperSDKError | None = None


class JobRun(Protocol):
    """One attempt of a job, in a worker. Used by one thread, and closed at the end whatever happened."""

    def step(self, name: str) -> StepOutcome:
        """Runs a step. One that was interrupted is run again and goes on by its own record. Raises Cancelled where the
        token says so, StaleAttempt where another worker has the job, and HyperSDKError."""

    def undo(self, *, keep_partial: bool) -> Mapping[str, Any] | None:
        """Puts back whatever earlier attempts changed. The job's result where all of it was done before it was
        cancelled, else None. Must not heed the token that stopped the steps. Raises HyperSDKError; then the job is not
        cancelled."""

    def stand_down(self) -> None:
        """Undoes what must not stay while nobody works on the job, as far as that can be done now."""

    def close(self) -> None:
        """Lets go of everything."""


class JobKind(Protocol):
    """A kind of job."""

    @property
    def name(self) -> str:
        """As in the field ``kind`` of a job file."""

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the steps, in their order. A step that is added goes behind the last one."""

    def accept(self, given: Mapping[str, Any], context: SubmitContext) -> tuple[NewJob, tuple[str, ...]]:
        """The job that a definition asks for, and warnings about what has no effect. Passwords are sealed apart from
        it. Raises HyperSDKError where the definition cannot be accepted."""

    def run(self, context: RunContext) -> JobRun:
        """An attempt of a job of this kind. Does nothing yet, and raises nothing."""
