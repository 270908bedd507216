"""One attempt of a job in a worker: run its steps, or undo them, and say how it ended.

::

    claim ── cancelling ──> undo what earlier attempts did ─────────────────────────────> cancelled
        ├─── pausing ─────> undo what must not stay while nobody works on it ───────────> paused
        └──> step ─> step ─> ... ─┬─ all done     ──> completed
                                  ├─ Cancelled    ──> by a user: undo, cancelled | paused | drained: queued again
                                  └─ any error    ──> failed, with its code
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from hypersdk.errors import Cancelled, HyperSDKError
from hypersdk.jobs.claims import Claim, StaleAttempt
from hypersdk.jobs.enginecopy import ENGINE_DAMAGED, ENGINE_GONE
from hypersdk.jobs.kinds import kind_of
from hypersdk.jobs.kinds.base import JobRun, RunContext, WorkerContext
from hypersdk.jobs.progress import JobProgress
from hypersdk.jobs.records import Step
from hypersdk.jobs.remedies import error_dict
from hypersdk.jobs.states import JobEvent, JobState, StepState
from hypersdk.state.database import DatabaseError
from hypersdk.state.faults import DATABASE_DAMAGED
from hypersdk.transfer.cancel import CancelToken

LOG: Final = logging.getLogger(__name__)
T = TypeVar("T")
WRITE_AGAIN_S: Final = 1.0
Durable = Callable[[str, Callable[[], bool]], bool]
"""Runs a step by name and remembers, beyond the death of this process, what it returned."""


def not_durable(_name: str, act: Callable[[], bool]) -> bool:
    """For attempts that the engine does not run: those that only undo."""
    return act()


@dataclass(slots=True)
class JobAttempt:
    """One claimed job. ``why`` is what ended it, where it was told to end: ``cancel``, ``pause`` or ``drain``."""

    worker: WorkerContext
    claim: Claim
    cancel: CancelToken
    progress: JobProgress = field(default_factory=JobProgress)
    why: str = ""
    keep_partial: bool = False
    _result: Mapping[str, Any] | None = None
    _error: HyperSDKError | None = None

    def stop(self, why: str, *, keep_partial: bool = False) -> None:
        """Asks it to end; the first reason stands, but for a cancel, which overrules the others."""
        if not self.why or (why == "cancel" and self.why != "cancel"):
            self.why, self.keep_partial = why, keep_partial
        self.cancel.cancel({"cancel": "cancelled", "pause": "paused"}.get(why, "the daemon stops"))

    def run(self, durable: Durable = not_durable) -> JobState:
        """Runs it to its end and writes that down; a cancel is over once everything is undone.

        Raises StaleAttempt, and nothing else that is expected; DatabaseError where the worker ends before the database
        can be written again.
        """
        job = self.claim.job
        self.progress.log(f"attempt {job.attempt} on {self.worker.claims.worker_id} (epoch {self.claim.epoch})")
        try:
            match job.state:
                case JobState.CANCELLING:
                    self.why, self.keep_partial = "cancel", job.keep_partial
                    return self._cancelled()
                case JobState.PAUSING:
                    return self._stood_down()
                case _:
                    return self._run_steps(durable)
        except StaleAttempt:
            LOG.warning("job %s: this worker has it no more", job.id)
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
            run.close()  # before its end is written: whoever takes the job up then finds nothing held
        if done:
            self.progress.log("completed")
            return self._end(JobEvent.FINISH, result=self._result or self.worker.claims.last_result(self.claim))
        if self._error is None:  # the engine remembers of an earlier process that the step did not finish
            return self._end(JobEvent.REQUEUE)
        if isinstance(self._error, StaleAttempt | DatabaseError):
            raise self._error
        if isinstance(self._error, Cancelled):
            return self._stopped()
        return self._failed(self._error, self._result)

    def _step(self, run: JobRun, position: int) -> bool:
        """Whether the step is done. Raises nothing that is expected: the engine would remember the error."""
        self._result = self._error = None  # of a step before
        try:
            step = self.worker.claims.begin_step(self.claim, position)
            if step.state is StepState.DONE:
                return True
            outcome = run.step(step.name)
            self._result, self._error = outcome.result, outcome.error
            if outcome.error is None:
                self._finish_step(step)
        except HyperSDKError as error:
            self._error = error
        return self._error is None

    def _finish_step(self, step: Step) -> None:
        self._when_writable(partial(self.worker.claims.end_step, self.claim, step, self._result))

    def _new_run(self) -> JobRun:
        return kind_of(self.claim.job.kind).run(RunContext(self.worker, self.claim, self.cancel, self.progress))

    # Ends

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
        """Nothing is wrong with the job: another attempt goes on, once this can be written down. It would meet the same
        damage."""
        if error.code not in (ENGINE_DAMAGED, ENGINE_GONE):  # which end the worker, and say so themselves
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
        """Undoes what this attempt or an earlier one did. Raises HyperSDKError; then the job is not cancelled, and its
        record is kept."""
        result = self._new_run().undo(keep_partial=self.keep_partial)
        if result is not None:
            return self._end(JobEvent.FINISH, result=result)
        return self._end(JobEvent.CANCELLED)

    def _stood_down(self) -> JobState:
        """For a pause that its worker died in, and for a paused job whose temporary snapshot is too old to be kept."""
        self._new_run().stand_down()
        self.progress.log("paused")
        return self._end(JobEvent.PAUSED)

    def cleanup_source(self) -> None:
        """For a job that nobody works on and that stays what it is: undoes what must not stay any longer, as far as the
        source lets us. Raises StaleAttempt, DatabaseError."""
        self.progress.log("checking what is left at the source")
        self._new_run().stand_down()
        with self.progress.taking_log() as lines:
            self.worker.claims.log(self.claim, lines)

    def _end(
        self, event: JobEvent, *, result: Mapping[str, Any] | None = None, error: HyperSDKError | None = None
    ) -> JobState:
        failure = None if error is None else _json_error(error)
        return self.written(event, result=result, error=failure)

    def written(
        self, event: JobEvent, *, result: Mapping[str, Any] | None = None, error: Mapping[str, Any] | None = None
    ) -> JobState:
        """Writes down how it ended; meanwhile the outcome is known here only. Raises StaleAttempt; DatabaseError where
        the worker ends before the database can be written."""
        claims, job = self.worker.claims, self.claim.job
        latest = self.progress.latest if self.progress.begun else job.progress

        def write() -> JobState:
            claims.write_progress({job.id: self.claim.epoch}, {job.id: latest})
            with self.progress.taking_log() as lines:
                claims.log(self.claim, lines)
            return claims.end(
                self.claim, event, result=result, error=error, keep_run=self.keep_partial, progress=latest
            )

        return self._when_writable(write)

    def _when_writable(self, write: Callable[[], T]) -> T:
        """Waits for a database that cannot be written. Raises DatabaseError where the worker ends first."""
        while True:
            try:
                return write()
            except DatabaseError:
                if self.worker.ending(WRITE_AGAIN_S):
                    raise


def _json_error(error: HyperSDKError) -> dict[str, Any]:
    """The error for the row: its fields as JSON knows them, with what to do about a job, and what was noted on it."""
    found = {key: _plain(value) for key, value in error_dict(error).items()}
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
