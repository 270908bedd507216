"""The states of a job and the transitions between them, as data.

::

    queued ──start──> running ──finish──> completed
      │ ▲               │ ├────fail─────> failed ──retry──> queued
      │ │               │ └──cancel──> cancelling ──cancelled──> cancelled ──retry──> queued
      │ └─requeue───────┤                    ▲
      │ └─resume── paused <──paused── pausing┤
      │              └────expire────────^    │
      │                        failed ─cancel┘   (if changes at source or target are not undone)
      └─cancel──> cancelled    (queued or paused, never run; otherwise cancelling: a worker undoes its changes)
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from hypersdk.errors import HyperSDKError, register
from hypersdk.remedies import First, GiveUp, Look, RestoreSource, Resume, StartWorker

JOB_STATE: Final = register("job_state", "The job's state does not allow this.", Look("job"))

NO_WORKER_FOR_ROOT: Final = register(
    "no_worker_for_root",
    "No running worker has access to the export root that the job writes to.",
    "Start a worker on a host where that root is mounted.",
)
NO_WORKER: Final = register(
    "no_worker",
    "No worker is running.",
    StartWorker(),
    Look("daemon_log"),
)
SOURCE_CHANGED_STILL: Final = register(
    "source_not_restored",
    "The job changed something at the source that is not undone yet.",
    RestoreSource(),
    Resume(),
    GiveUp(),
)
TARGET_CHANGED_STILL: Final = register(
    "target_changed",
    "The job changed something at its target that is not undone yet.",
    First("make sure that libvirt at the target answers"),
    "Run `hyperctl cancel ID`, which undoes what is left there, or `hyperctl retry ID` to continue.",
    GiveUp(),
)
ATTEMPTS_EXHAUSTED: Final = register(
    "attempts_exhausted",
    "Every attempt ended because its worker process died.",
    First("check the daemon's log for what kills the worker (memory?)"),
    Resume(),
)
ATTEMPT_LOST: Final = register(
    "attempt_lost",
    "The worker could not store how the attempt ended, because the database could not be written.",
    "Nothing needs to be done: another attempt continues from the last checkpoint. `hyperctl explain ID` shows whether"
    " the database can be written now.",
)


class JobState(StrEnum):
    """The state of a job."""

    QUEUED = "queued"  # waits for a worker
    RUNNING = "running"  # a worker has it
    PAUSING = "pausing"  # a worker brings it to a checkpoint
    PAUSED = "paused"  # at a checkpoint, until it is resumed or cancelled
    CANCELLING = "cancelling"  # a worker undoes its changes at the source
    COMPLETED = "completed"  # the manifest is written
    FAILED = "failed"  # the source is restored, or the error says what is not
    CANCELLED = "cancelled"  # the source is restored


class JobEvent(StrEnum):
    """A transition of a job."""

    START = "start"
    FINISH = "finish"
    FAIL = "fail"
    CANCEL = "cancel"
    ABANDON = "abandon"  # cancelled with nothing to undo
    CANCELLED = "cancelled"
    PAUSE = "pause"
    PAUSED = "paused"
    REQUEUE = "requeue"  # the worker drains, died, or did not start the attempt
    RELEASE = "release"  # the worker that undid its changes died
    RESUME = "resume"
    RETRY = "retry"
    EXPIRE = "expire"


class StepState(StrEnum):
    """The state of a step."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"  # the job was cancelled before it
    UNDONE = "undone"  # the job was cancelled


class JobStateError(HyperSDKError):
    """The job's state does not allow this."""

    exit_status = 6
    default_code = JOB_STATE


_S, _E = JobState, JobEvent
TRANSITIONS: Final[Mapping[tuple[JobState, JobEvent], JobState]] = {
    (_S.QUEUED, _E.START): _S.RUNNING,
    (_S.QUEUED, _E.PAUSE): _S.PAUSED,
    (_S.QUEUED, _E.CANCEL): _S.CANCELLING,
    (_S.QUEUED, _E.ABANDON): _S.CANCELLED,
    (_S.QUEUED, _E.FAIL): _S.FAILED,
    (_S.QUEUED, _E.REQUEUE): _S.QUEUED,
    (_S.RUNNING, _E.START): _S.RUNNING,  # resumed after a crash
    (_S.RUNNING, _E.FINISH): _S.COMPLETED,
    (_S.RUNNING, _E.FAIL): _S.FAILED,
    (_S.RUNNING, _E.CANCEL): _S.CANCELLING,
    (_S.RUNNING, _E.PAUSE): _S.PAUSING,
    (_S.RUNNING, _E.REQUEUE): _S.QUEUED,
    (_S.PAUSING, _E.START): _S.PAUSING,
    (_S.PAUSING, _E.PAUSED): _S.PAUSED,
    (_S.PAUSING, _E.FINISH): _S.COMPLETED,
    (_S.PAUSING, _E.FAIL): _S.FAILED,
    (_S.PAUSING, _E.CANCEL): _S.CANCELLING,
    (_S.PAUSING, _E.REQUEUE): _S.PAUSED,
    (_S.PAUSING, _E.RELEASE): _S.PAUSING,
    (_S.PAUSED, _E.RESUME): _S.QUEUED,
    (_S.PAUSED, _E.CANCEL): _S.CANCELLING,
    (_S.PAUSED, _E.ABANDON): _S.CANCELLED,
    (_S.CANCELLING, _E.START): _S.CANCELLING,
    (_S.CANCELLING, _E.CANCELLED): _S.CANCELLED,
    (_S.CANCELLING, _E.FINISH): _S.COMPLETED,  # it was published before the request arrived
    (_S.CANCELLING, _E.FAIL): _S.FAILED,
    (_S.CANCELLING, _E.REQUEUE): _S.CANCELLING,
    (_S.CANCELLING, _E.RELEASE): _S.CANCELLING,
    (_S.CANCELLING, _E.PAUSED): _S.CANCELLING,  # requested while the worker paused it: another attempt undoes it
    (_S.PAUSED, _E.EXPIRE): _S.PAUSING,  # its snapshot is too old: a worker removes it
    (_S.FAILED, _E.RETRY): _S.QUEUED,
    (_S.FAILED, _E.CANCEL): _S.CANCELLING,  # where it left something at the source or target
    (_S.CANCELLED, _E.RETRY): _S.QUEUED,
}
ENDED: Final = frozenset({_S.COMPLETED, _S.FAILED, _S.CANCELLED})
HELD: Final = frozenset({_S.RUNNING, _S.PAUSING, _S.CANCELLING})
"""States in which a worker has the job, or is to take it at once."""
UNDOING: Final = frozenset({_S.PAUSING, _S.CANCELLING})
"""States in which a job without a worker waits for one to undo its changes: outside of the queue, where it would have
to wait for room."""
LEGACY_STATUS: Final[Mapping[JobState, str]] = {
    _S.QUEUED: "pending", _S.PAUSED: "pending", _S.RUNNING: "running", _S.PAUSING: "running", _S.CANCELLING: "running",
    _S.COMPLETED: "completed", _S.FAILED: "failed", _S.CANCELLED: "cancelled",
}  # fmt: skip
"""The status in the six legacy routes."""
STATE_WORDS: Final = tuple(dict.fromkeys([*LEGACY_STATUS.values(), *LEGACY_STATUS]))
"""All words for states, the legacy ones first."""


def after(state: JobState, event: JobEvent) -> JobState:
    """The state that ``event`` leads to. Raises JobStateError ``job_state``."""
    try:
        return TRANSITIONS[state, event]
    except KeyError as error:
        verb = _PARTICIPLES.get(event, event.value)
        raise JobStateError(f"a job that is {state} cannot be {verb}", state=state.value, event=event.value) from error


_PARTICIPLES: Final[Mapping[JobEvent, str]] = {
    _E.START: "started",
    _E.CANCEL: "cancelled",
    _E.ABANDON: "cancelled",
    _E.PAUSE: "paused",
    _E.RESUME: "resumed",
    _E.RETRY: "retried",
}


def before(event: JobEvent) -> frozenset[JobState]:
    """The states in which ``event`` may happen."""
    return frozenset(state for state, possible in TRANSITIONS if possible is event)
