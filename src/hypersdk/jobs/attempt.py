"""One attempt of a job in a worker: running its steps, or undoing them, and storing how it ended.

::

    claim ── cancelling ──> undo what earlier attempts did ─────────────────────────────> cancelled
        ├─── pausing ─────> undo what must not stay while it is paused ──────────────────> paused
        └──> step ─> step ─> ... ─┬─ all done     ──> completed
                                  ├─ Cancelled    ──> by a user: undo, cancelled | paused | drained: queued again
                                  └─ any error    ──> failed, with its code
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from hypersdk.errors import Cancelled, HyperSDKError
from hypersdk.jobs.claims import Claim, StaleAttempt
from hypersdk.jobs.enginecopy import ENGINE_DAMAGED, ENGINE_GONE
from hypersdk.jobs.kinds import kind_of
from hypersdk.jobs.kinds.base import PAUSED, JobRun, RunContext, WorkerContext
from hypersdk.jobs.progress import JobProgress
from hypersdk.jobs.remedies import error_dict
from hypersdk.jobs.states import JobEvent, JobState, StepState
from hypersdk.model import read_job_object
from hypersdk.state.database import DatabaseError
from hypersdk.state.faults import DATABASE_DAMAGED
from hypersdk.transfer.cancel import CancelToken

LOG: Final = logging.getLogger(__name__)
T = TypeVar("T")
WRITE_AGAIN_S: Final = 1.0
Durable = Callable[[str, Callable[[], bool]], bool]
"""Runs a step by name and stores what it returned, for when this process dies."""


def not_durable(_name: str, act: Callable[[], bool]) -> bool:
    """For attempts that the engine does not run, since they only undo changes."""
    return act()


@dataclass(slots=True)
class JobAttempt:
    """One claimed job. ``why`` is the reason for which it was stopped, if it was: ``cancel``, ``pause`` or
    ``drain``."""

    worker: WorkerContext
    claim: Claim
    cancel: CancelToken
    progress: JobProgress = field(init=False)
    at_once: CancelToken = field(init=False)
    why: str = ""
    keep_partial: bool = False
    _result: Mapping[str, Any] | None = None
    _error: HyperSDKError | None = None

    def __post_init__(self) -> None:
        self.at_once = CancelToken()
        self.progress = JobProgress(before=read_job_object(self.claim.job.progress))

    def stop(self, why: str, *, keep_partial: bool = False) -> None:
        """Stops it. The first reason counts, but a cancel overrides the others."""
        if not self.why or (why == "cancel" and self.why != "cancel"):
            self.why, self.keep_partial = why, keep_partial
        reason = {"cancel": "cancelled", "pause": PAUSED}.get(why, "the daemon stops")
        self.cancel.cancel(reason)
        if why != "pause":
            self.at_once.cancel(reason)

    def run(self, durable: Durable = not_durable) -> JobState:
        """Runs the job and stores how it ended; a cancel ends once everything is undone.

        Raises StaleAttempt; DatabaseError if the worker ends before the database can be written again.
        """
        job = self.claim.job
        self.progress.log(f"attempt {job.attempt} on {self.worker.claims.worker_id} (epoch {self.claim.epoch})")
        try:
            match job.state:
                case JobState.CANCELLING:
                    self.why, self.keep_partial = "cancel", job.keep_partial
                    return self._cancelled()
                case JobState.PAUSING:
                    return self._paused()
                case _:
                    return self._run_steps(durable)
        except StaleAttempt:
            LOG.warning("job %s: another worker has taken it over", job.id)
            raise
        except DatabaseError as error:
            return self._interrupted(error)
        except HyperSDKError as error:
            return self._failed(error)

    # Steps

    def _run_steps(self, durable: Durable) -> JobState:
        run = self._new_run()
        try:
            done = all(durable(step.name, partial(self._step, run, step.position)) for step in self.claim.job.steps)
        finally:
            run.close()  # before the end is stored: the next attempt must find nothing in use
        if done:
            self.progress.log("completed")
            return self.store_end(JobEvent.FINISH, result=self._result or self.worker.claims.last_result(self.claim))
        if self._error is None:  # by the engine's record of an earlier process, the step did not finish
            return self.store_end(JobEvent.REQUEUE)
        if isinstance(self._error, StaleAttempt | DatabaseError):
            raise self._error
        if isinstance(self._error, Cancelled):
            return self._stopped()
        return self._failed(self._error, self._result)

    def _step(self, run: JobRun, position: int) -> bool:
        """Whether the step is done. Raises nothing expected: the engine would store the error."""
        self._result = self._error = None  # of the previous step
        try:
            self._follow_request()
            step = self.worker.claims.begin_step(self.claim, position)
            if step.state is StepState.DONE:
                return True
            outcome = run.step(step.name)
            self._result, self._error = outcome.result, outcome.error
            if outcome.error is None:
                self._when_writable(partial(self.worker.claims.end_step, self.claim, step, self._result))
        except HyperSDKError as error:
            self._error = error
        return self._error is None

    def _follow_request(self) -> None:
        """No step begins once a cancel or a pause is requested, also if the worker's loop has not seen it yet. Raises
        Cancelled."""
        for why, keep_partial in self.worker.claims.requests([self.claim.job.id]).values():
            self.stop(why, keep_partial=keep_partial)
        self.cancel.check()

    def _new_run(self) -> JobRun:
        return kind_of(self.claim.job.kind).run(
            RunContext(self.worker, self.claim, self.cancel, self.progress, self.at_once)
        )

    # Ends

    def _stopped(self) -> JobState:
        match self.why:
            case "cancel":
                return self._cancelled()
            case "pause":
                self.progress.log("paused at a checkpoint")
                return self.store_end(JobEvent.PAUSED)
            case _:
                self.progress.log("handed back to the queue")
                return self.store_end(JobEvent.REQUEUE)

    def _interrupted(self, error: DatabaseError) -> JobState:
        """Requeues the job, since nothing is wrong with it; but a damaged database would fail the next attempt, too."""
        if error.code not in (ENGINE_DAMAGED, ENGINE_GONE):  # which are logged when they end the worker
            LOG.error("job %s is interrupted: %s (%s)", self.claim.job.id, error.message, error.code)
        if error.code == DATABASE_DAMAGED:
            return self._failed(error)
        self.progress.log(f"handed back to the queue: {error.message}")
        return self.store_end(JobEvent.REQUEUE)

    def _failed(self, error: HyperSDKError, result: Mapping[str, Any] | None = None) -> JobState:
        for text in (error.message, *getattr(error, "__notes__", ())):
            self.progress.log(f"error: {text}")
        return self.store_end(JobEvent.FAIL, result=result, error=error)

    def _cancelled(self) -> JobState:
        """Undoes the changes of this attempt and earlier ones. Raises HyperSDKError; then the job is not cancelled, and
        its record is kept."""
        result = self._new_run().undo(keep_partial=self.keep_partial)
        if result is not None:
            return self.store_end(JobEvent.FINISH, result=result)
        return self.store_end(JobEvent.CANCELLED)

    def _paused(self) -> JobState:
        """For a job whose worker died while pausing it, or whose temporary snapshot has become too old."""
        self._new_run().clean_up()
        self.progress.log("paused")
        return self.store_end(JobEvent.PAUSED)

    def cleanup_source(self) -> None:
        """For an idle job, whose state stays: undoes, as far as possible, what must not stay at the source. Raises
        StaleAttempt, DatabaseError."""
        self.progress.log("checking what is left at the source")
        self._new_run().clean_up()
        with self.progress.unsaved(self.claim) as unsaved:
            self.worker.claims.save(unsaved)

    def store_end(
        self, event: JobEvent, *, result: Mapping[str, Any] | None = None, error: HyperSDKError | None = None
    ) -> JobState:
        """Stores how it ended, once the database can be written. Raises StaleAttempt; DatabaseError if the worker ends
        before."""

        def write() -> JobState:
            with self.progress.unsaved(self.claim) as unsaved:
                return self.worker.claims.end(
                    self.claim,
                    event,
                    result=result,
                    error=None if error is None else _json_error(error),
                    keep_run=self.keep_partial,
                    progress=self.progress.latest,
                    log=unsaved.log,
                )

        return self._when_writable(write)

    def _when_writable(self, write: Callable[[], T]) -> T:
        """Retries while the database cannot be written. Raises DatabaseError if the worker ends first."""
        while True:
            try:
                return write()
            except DatabaseError:
                if self.worker.ending(WRITE_AGAIN_S):
                    raise


def _json_error(error: HyperSDKError) -> dict[str, Any]:
    """The error for the row: its fields as JSON, what to do about a job, and the notes that were added to it."""
    found: dict[str, Any] = json.loads(json.dumps(error_dict(error), default=str))
    if notes := getattr(error, "__notes__", None):
        found["notes"] = list(map(str, notes))
    return found
