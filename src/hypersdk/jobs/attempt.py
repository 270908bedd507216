"""One attempt of a job in a worker: log in, open the folder, export or undo, and say how it ended.

::

    claim ── cancelling ──> undo what earlier attempts left at the source ──> cancelled
        ├─── pausing ─────> the same, but for a snapshot to go on from ─────> paused
        └──> log in ─> folder below its root ─> plan ─> export ─┬─ result     ──> completed
                                                                ├─ Cancelled  ──> by a user: undo, cancelled | paused | drained: queued again
                                                                └─ any error  ──> failed, with its code
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from hypersdk.errors import Cancelled, HyperSDKError
from hypersdk.jobs.claims import Claim, Claims, StaleAttempt
from hypersdk.jobs.login import EndpointResolver
from hypersdk.jobs.nextsteps import told_of_job, warning_of_job
from hypersdk.jobs.progress import JobProgress
from hypersdk.jobs.roots import ExportRoots
from hypersdk.jobs.runstore import DatabaseRuns
from hypersdk.jobs.states import JobEvent, JobState
from hypersdk.migration.export import Outcome, export_machines
from hypersdk.migration.jobfile import JobDefinition
from hypersdk.migration.plan import make_plan
from hypersdk.migration.publish import ExportResult
from hypersdk.migration.runs import clean_up, give_up
from hypersdk.migration.settings import RunResources, RunSettings
from hypersdk.migration.spec import ExportSpec, Resume
from hypersdk.state.database import DatabaseError
from hypersdk.state.faults import DATABASE_DAMAGED
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.session import Session

LOG: Final = logging.getLogger(__name__)
WRITE_AGAIN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """What all attempts of a worker share; ``shared_of`` is per site."""

    claims: Claims
    logins: EndpointResolver
    roots: ExportRoots
    guard: Callable[[], None]
    settings: RunSettings
    shared_of: Callable[[str], RunResources]
    ending: Callable[[float], bool]
    """Waits so many seconds, or until the worker is to end; whether it is."""


@dataclass(slots=True)
class JobAttempt:
    """One claimed job. ``why`` is what ended it, where it was told to end: ``cancel``, ``pause`` or ``drain``."""

    workshop: AttemptContext
    claim: Claim
    cancel: CancelToken
    progress: JobProgress = field(init=False)
    why: str = ""
    keep_partial: bool = False

    def __post_init__(self) -> None:
        self.progress = JobProgress(str(self.claim.job.definition.get("export_method") or "auto"))

    def stop(self, why: str, *, keep_partial: bool = False) -> None:
        """Asks it to end; the first reason stands, but for a cancel, which overrules the others."""
        if not self.why or (why == "cancel" and self.why != "cancel"):
            self.why, self.keep_partial = why, keep_partial
        self.cancel.cancel({"cancel": "cancelled", "pause": "paused"}.get(why, "the daemon stops"))

    def run(self) -> JobState:
        """Runs it to its end and writes that down; a cancel is over once the source is as it was found.

        Raises StaleAttempt, and nothing else that is expected; DatabaseError where the worker ends before the database
        can be written again.
        """
        job = self.claim.job
        self.progress.log(f"attempt {job.attempt} on {self.workshop.claims.worker_id} (epoch {self.claim.epoch})")
        try:
            match job.state:
                case JobState.CANCELLING:
                    self.why, self.keep_partial = "cancel", job.keep_partial
                    return self._cancelled()
                case JobState.PAUSING:
                    return self._stood_down()
                case _:
                    return self._export()
        except StaleAttempt:
            LOG.warning("job %s: this worker has it no more", job.id)
            raise
        except DatabaseError as error:
            return self._interrupted(error)
        except HyperSDKError as error:
            return self._failed(error)

    # The export

    def _export(self) -> JobState:
        try:
            outcome = self._exported()
        except StaleAttempt:
            raise
        except Cancelled:
            return self._stopped()  # while it logged in or planned
        return self._ended(outcome)

    def _exported(self) -> Outcome:
        job, runs = self.claim.job, self._runs
        with self._source(self.cancel) as (session, spec):
            if runs.exists(spec.output_dir):
                spec = replace(spec, resume=Resume.DISCARD if job.discard else Resume.RESUME)
            settings = self._settings(runs)
            with session.breakable(self.cancel):
                plan = make_plan(session, spec, cancel=self.cancel, min_free=settings.min_free, runs=runs)
            plan = replace(plan, warnings=tuple(map(warning_of_job, plan.warnings)))
            for change in plan.changes:
                self.progress.log(f"at the source: {change}")
            for warning in plan.warnings:
                self.progress.log(f"warning: {warning}")
            (outcome,) = export_machines(
                session,
                [plan],
                cancel=self.cancel,
                observer=self.progress.observe,
                settings=settings,
                shared=self.workshop.shared_of(job.site),
            )
            return outcome

    @contextmanager
    def _source(self, cancel: CancelToken) -> Iterator[tuple[Session, ExportSpec]]:
        """A login, and the export as asked for, into a folder that is held open."""
        job, workshop = self.claim.job, self.workshop
        definition = JobDefinition.model_validate(job.definition)
        endpoint = workshop.logins.endpoint_for(job, definition)
        connecting = Session.connect(endpoint, cancel=cancel, guard=workshop.guard)
        with connecting as session, workshop.roots.opened(job.output_path, create=True) as descriptor:
            folder = Path(f"/proc/self/fd/{descriptor}")
            yield (
                session,
                replace(
                    definition.to_spec(),
                    output_dir=folder,
                    display_dir=Path(job.output_path),
                    job_id=job.id,
                    job_name=job.name,
                ),
            )

    def _settings(self, runs: DatabaseRuns) -> RunSettings:
        return replace(
            self.workshop.settings,
            runs=runs,
            guard=self.workshop.guard,
            attempt_suffix=self._suffix,
            locate=self.workshop.roots.locate,
        )

    @property
    def _runs(self) -> DatabaseRuns:
        return DatabaseRuns(self.workshop.claims, self.claim, self.workshop.settings.register)

    @property
    def _suffix(self) -> str:
        return f".{self.claim.epoch}"

    # Ends

    def _ended(self, outcome: Outcome) -> JobState:
        result = None if outcome.result is None else result_object(outcome.result)
        if outcome.error is None:
            assert outcome.result is not None
            for warning in outcome.result.warnings:
                self.progress.log(f"warning: {warning}")
            self.progress.log("completed")
            return self._end(JobEvent.FINISH, result=result)
        if isinstance(outcome.error, StaleAttempt | DatabaseError):
            raise outcome.error
        if isinstance(outcome.error, Cancelled):
            return self._stopped()
        return self._failed(outcome.error, result)

    def _stopped(self) -> JobState:
        match self.why:
            case "cancel":
                return self._cancelled()
            case "pause":
                self.progress.log("paused at a checkpoint")
                return self._end(JobEvent.PAUSED)
            case _:
                self.progress.log("handed back to the queue")
                return self._end(JobEvent.REQUEUE)

    def _interrupted(self, error: DatabaseError) -> JobState:
        """Nothing is wrong with the machine or the disk: another attempt goes on, once this can be written down. It
        would meet the same damage."""
        LOG.error("job %s stops where it is: %s (%s)", self.claim.job.id, error.message, error.code)
        if error.code == DATABASE_DAMAGED:
            return self._failed(error)
        self.progress.log(f"handed back to the queue: {error.message}")
        return self._end(JobEvent.REQUEUE)

    def _failed(self, error: HyperSDKError, result: Mapping[str, Any] | None = None) -> JobState:
        for text in (error.message, *getattr(error, "__notes__", ())):
            self.progress.log(f"error: {text}")
        return self._end(JobEvent.FAIL, result=result, error=error)

    def _cancelled(self) -> JobState:
        """Undoes what this attempt or an earlier one left, with a login of its own: the cancel that stopped the export
        must not stop this.

        Raises NotRestored, and whatever keeps it from logging in: then the job is not cancelled, and its record is
        kept.
        """
        job, runs = self.claim.job, self._runs
        published = False
        if runs.exists(Path(job.output_path)):
            never = CancelToken()
            with self._source(never) as (session, spec):
                published = give_up(
                    session,
                    spec,
                    runs,
                    keep_partial=self.keep_partial,
                    attempt_suffix=self._suffix,
                    cancel=never,
                    note=self.progress.log,
                )
        if published and job.result is not None:
            self.progress.log("the source is as it was found; the files were complete before")
            return self._end(JobEvent.FINISH, result={**job.result, "restored": True})
        self.progress.log("cancelled; the source is as it was found")
        return self._end(JobEvent.CANCELLED)

    def _stood_down(self) -> JobState:
        """For a pause that its worker died in, and for a paused job whose temporary snapshot is too old to be kept.

        Where the source does not answer the job stays paused all the same; the reconciler sends another attempt later.
        """
        self._tidy()
        self.progress.log("paused")
        return self._end(JobEvent.PAUSED)

    def tidy(self) -> None:
        """For a job that nobody works on and that stays what it is: what it left at the source is undone as far as the
        source lets us, its temporary snapshot where it is too old to go on from. Raises StaleAttempt, DatabaseError."""
        self.progress.log("looking after what is left at the source")
        self._tidy()
        with self.progress.taking_log() as lines:
            self.workshop.claims.log(self.claim, lines)

    def _tidy(self) -> None:
        runs = self._runs
        if not runs.exists(Path(self.claim.job.output_path)):
            return
        never = CancelToken()
        try:
            with self._source(never) as (session, spec):
                done = clean_up(
                    session,
                    spec.output_dir,
                    runs,
                    drop_snapshot=False,
                    attempt_suffix=self._suffix,
                    cancel=never,
                    note=self.progress.log,
                )
            for problem in done.problems:
                self.progress.log(f"not undone at the source: {problem.change}: {problem.error.message}")
        except (StaleAttempt, DatabaseError):
            raise
        except HyperSDKError as error:
            self.progress.log(f"the source could not be looked at: {error.message}")

    def _end(
        self, event: JobEvent, *, result: Mapping[str, Any] | None = None, error: HyperSDKError | None = None
    ) -> JobState:
        failure = None if error is None else _json_error(error)
        return self.written(event, result=result, error=failure)

    def written(
        self, event: JobEvent, *, result: Mapping[str, Any] | None = None, error: Mapping[str, Any] | None = None
    ) -> JobState:
        """Writes down how it ended. A database that cannot be written is waited for: meanwhile the outcome is known
        here only. Raises StaleAttempt; DatabaseError where the worker ends first."""
        claims, job = self.workshop.claims, self.claim.job
        latest = self.progress.latest if self.progress.begun else job.progress
        while True:
            try:
                claims.write_progress({job.id: self.claim.epoch}, {job.id: latest})
                with self.progress.taking_log() as lines:
                    claims.log(self.claim, lines)
                return claims.end(
                    self.claim, event, result=result, error=error, keep_run=self.keep_partial, progress=latest
                )
            except DatabaseError:
                if self.workshop.ending(WRITE_AGAIN_S):
                    raise


def _json_error(error: HyperSDKError) -> dict[str, Any]:
    """The error for the row: its fields as JSON knows them, with what to do about a job, and what was noted on it."""
    found = {key: _plain(value) for key, value in told_of_job(error).items()}
    if notes := getattr(error, "__notes__", None):
        found["notes"] = [str(note) for note in notes]
    return found


def _plain(value: object) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return str(value)


def result_object(result: ExportResult) -> dict[str, Any]:
    """``result`` of a job: those of the legacy routes first. ``duration`` is in nanoseconds."""
    folder = result.output_dir
    names = [file.name for file in result.files]
    ovf = next((name for name in names if name.endswith(".ovf")), "")
    return {
        "vm_name": result.machine,
        "output_dir": str(folder),
        "ovf_path": str(folder / ovf) if ovf else "",
        "files": names,
        "output_files": [str(folder / name) for name in names],
        "total_size": sum(file.size_bytes for file in result.files),
        "duration": int(result.elapsed_s * 1_000_000_000),
        "success": True,
        "export_method": result.method,
        "error": "",
        "proof": result.proof,
        "artifacts": [
            {
                "name": file.name,
                "size_bytes": file.size_bytes,
                "sha256": file.sha256,
                "content": result.content.get(file.name),
            }
            for file in result.files
        ],
        "warnings": list(result.warnings),
        "bytes_downloaded": result.wire_bytes,
        "data_bytes": result.data_bytes,
        "capacity_bytes": result.capacity_bytes,
        "blocks_skipped": result.blocks_skipped,
        "restored": result.restored,
    }
