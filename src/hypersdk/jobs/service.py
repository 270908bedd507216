"""Submitting job files, and explaining the state of jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from hypersdk.access.endpoints import EndpointStore
from hypersdk.access.vault import Vault
from hypersdk.errors import CODES, CodeInfo, HyperSDKError, LookupFailed, UsageError, register
from hypersdk.jobs.ids import derived_id
from hypersdk.jobs.kinds import kind_of
from hypersdk.jobs.kinds.base import SubmitContext
from hypersdk.jobs.kinds.migrate import Export
from hypersdk.jobs.records import MAX_PRIORITY, Attempt, JobRecord, NewJob
from hypersdk.jobs.remedies import next_step
from hypersdk.jobs.roots import ExportRoots
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.jobs.states import (
    ENDED,
    HELD,
    NO_WORKER,
    SOURCE_CHANGED_STILL,
    TARGET_CHANGED_STILL,
    UNDOING,
    JobState,
    JobStateError,
)
from hypersdk.jobs.statistics import workers_alive
from hypersdk.jobs.store import JobStore
from hypersdk.jobs.workerfault import PROCESS_DIES, SharedFault
from hypersdk.migration.jobfile import fields_of, load_documents
from hypersdk.remedies import Advice, Look, Resume, StartWorker, as_json
from hypersdk.text import count

AT_ONCE: Final = 200
"""Jobs that are changed in one transaction: it takes a second at most, in which other writers wait."""
JOB_ID_RESERVED: Final = register(
    "job_id_reserved",
    "The id is a word of the API: the job could not be requested by it.",
    "Choose another id, or leave it out.",
)
WORDS_OF_ROUTES: Final = frozenset({"submit", "query", "cancel", "bulk"})


@dataclass(frozen=True, slots=True)
class RejectedJob:
    """A job of the file that was rejected, by its number from 1, and why."""

    number: int
    error: HyperSDKError


@dataclass(frozen=True, slots=True)
class SubmitResult:
    """The result of a submit. ``warnings`` are about accepted settings that have no effect."""

    accepted: tuple[JobRecord, ...]
    rejected: tuple[RejectedJob, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JobExplanation:
    """Why a job is in its state, and what to do."""

    code: str
    message: str
    cause: str
    next_step: str
    remedies: Sequence[Mapping[str, Any]]
    history: tuple[Attempt, ...]

    @classmethod
    def of(
        cls, code: str, message: str, info: CodeInfo | HyperSDKError, history: tuple[Attempt, ...]
    ) -> JobExplanation:
        """With the cause and the remedies of ``info``."""
        return cls(code, message, info.cause, next_step(info), as_json(info.remedies), history)


class JobService:
    """Requests of users that concern more than the job's row. Thread-safe."""

    def __init__(
        self,
        store: JobStore,
        vault: Vault,
        endpoints: EndpointStore,
        settings: DaemonSettings,
        roots: ExportRoots,
        environ: Mapping[str, str],
        shared_fault: SharedFault,
    ) -> None:
        self.store: Final = store
        self._vault = vault
        self._endpoints = endpoints
        self._settings = settings
        self.roots: Final = roots
        self._environ = environ
        self._shared_fault = shared_fault

    def submit(
        self,
        text: str,
        content_type: str | None,
        owner: str | None,
        *,
        endpoint_id: str | None = None,
        priority: int = 0,
        key: str | None = None,
    ) -> SubmitResult:
        """Accepts or rejects each job of ``text``. ``endpoint_id`` is for jobs that name no endpoint of their own; a
        higher ``priority`` goes first. Repeating a request with the same ``key`` yields the same jobs.

        Raises UsageError ``job_unreadable`` if the text cannot be read as a job file.
        """
        wanted: list[tuple[int, NewJob, tuple[str, ...]]] = []
        rejected: list[RejectedJob] = []
        context = SubmitContext(
            owner,
            max(-MAX_PRIORITY, min(MAX_PRIORITY, priority)),
            endpoint_id,
            self._vault,
            self._endpoints,
            self._settings,
            self.roots,
            self._environ,
        )
        for number, document in enumerate(load_documents(text, content_type=content_type), 1):
            try:
                new, warned = _accepted(document, context)
                if new.id is None and key is not None:
                    new = replace(new, id=derived_id(key, number))
                wanted.append((number, new, warned))
            except HyperSDKError as error:
                rejected.append(RejectedJob(number, error))
        accepted: list[JobRecord] = []
        warnings: list[str] = []
        found = self.store.submit([new for _, new, _ in wanted])
        for (number, _, warned), job in zip(wanted, found, strict=True):
            if isinstance(job, UsageError):
                rejected.append(RejectedJob(number, job))
            else:
                accepted.append(job)
                warnings += warned
        return SubmitResult(tuple(accepted), tuple(sorted(rejected, key=lambda job: job.number)), tuple(warnings))

    def explain(self, job: JobRecord) -> JobExplanation:
        """Why the job is in its state."""
        history = tuple(self.store.attempts(job.id))
        database = self.store.database
        if job.state not in ENDED and (fault := database.writable()) is not None:
            message = f"'{job.name}' is {job.state}, as far as it could be stored: {fault.message}"
            return JobExplanation.of(fault.code, message, fault, history)
        if job.state in (JobState.QUEUED, *HELD) and database.is_sqlite and (worker := self._shared_fault.read()):
            # There is one host, so it concerns every job. The worker may report a code that this process does not know.
            known = CODES.get(worker.code, CODES[PROCESS_DIES])
            problem = "exits each time that it starts" if worker.exits else "cannot do its work"
            return JobExplanation.of(worker.code, f"'{job.name}' is {job.state}; a worker {problem}", known, history)
        error = job.error or (history[-1].error if history else None)
        if error and job.state in (JobState.FAILED, JobState.CANCELLED, JobState.QUEUED):
            message, step, remedies = str(error["message"]), str(error["next_step"]), list(error.get("remedies", ()))
            if job.source_changes and job.state is JobState.FAILED:
                message += f"; not undone at the source: {count(job.source_changes, 'change')}"
                step += f" {next_step(CODES[SOURCE_CHANGED_STILL])}"
                remedies += as_json(CODES[SOURCE_CHANGED_STILL].remedies)
            elif job.target_changes and job.state is JobState.FAILED:
                message += f"; not undone at the target: {count(job.target_changes, 'change')}"
                step += f" {next_step(CODES[TARGET_CHANGED_STILL])}"
                remedies += as_json(CODES[TARGET_CHANGED_STILL].remedies)
            return JobExplanation(str(error["code"]), message, str(error["cause"]), step, remedies, history)
        code, message = self._situation(job)
        info = CODES.get(code) if code in (job.waiting, NO_WORKER) else None
        return JobExplanation.of(code, message, info or _SITUATIONS.get(code, _SITUATIONS[job.state.value]), history)

    def _situation(self, job: JobRecord) -> tuple[str, str]:
        if job.state not in (*ENDED, JobState.PAUSED) and not workers_alive(
            self.store.database, take_over_s=self._settings.take_over_s
        ):
            return NO_WORKER, f"'{job.name}' is {job.state}, and no worker is running"
        if job.state is JobState.QUEUED and job.waiting:
            return job.waiting, f"'{job.name}' waits"
        if job.state in UNDOING and job.worker_id is None:
            return "undo_due", f"'{job.name}' is {job.state}, and no worker has started that yet"
        if job.progress.get("stalled"):
            return "stalled", str(job.progress["stalled"])
        notes = [job.progress.get("note"), *(disk.get("note") for disk in job.progress.get("disks", ()))]
        note = next((str(note) for note in notes if note), "")
        return job.state.value, f"'{job.name}' is {job.state}" + (f": {note}" if note else "")

    def each(self, job_ids: Sequence[str], act: Callable[[JobStore, str], Any]) -> dict[str, HyperSDKError | None]:
        """Applies ``act`` to each job, ``AT_ONCE`` of them in one transaction. Returns the error of each job, or None.
        Raises DatabaseError; then the jobs of that transaction are unchanged."""
        outcome: dict[str, HyperSDKError | None] = {}
        for at in range(0, len(job_ids), AT_ONCE):
            part = job_ids[at : at + AT_ONCE]
            with self.store.together(part) as store:
                for job_id in part:
                    try:
                        act(store, job_id)
                        outcome[job_id] = None
                    except (LookupFailed, JobStateError) as error:
                        outcome[job_id] = error
        return outcome


_NOTHING: Final = Advice("Nothing needs to be done.")
_SITUATIONS: Final[Mapping[str, CodeInfo]] = {
    code: CodeInfo(cause, remedies)
    for code, cause, remedies in (
        ("queued", "It waits for a free place in the queue.", (_NOTHING, Look("jobs"))),
        ("running", "A worker is copying it.", (Advice("Nothing needs to be done; `hyperctl watch ID` follows it."),)),
        ("pausing", "The worker is stopping at a checkpoint.", (Advice("It is paused within seconds."),)),
        (
            "paused",
            "Someone paused it.",
            (Advice("`hyperctl resume ID` continues it, `hyperctl cancel ID` ends it."),),
        ),
        ("cancelling", "The worker is undoing its changes at the source.", (_NOTHING,)),
        (
            "undo_due",
            "Its changes at the source are to be undone.",
            (Advice("A worker does so within seconds, if one is running."), StartWorker()),
        ),
        (
            "completed",
            "All data was copied and verified.",
            (Advice("`hyper2kvm verify DIR` verifies it again."),),
        ),
        ("failed", "It ended with an error.", (Advice("`hyperctl logs ID` shows its log."),)),
        ("cancelled", "Someone cancelled it.", (Resume(),)),
        (
            "stalled",
            "No data was received for a while.",
            (Advice("Check the ESXi host and the network."), Look("connection")),
        ),
    )
}


def _accepted(document: object, context: SubmitContext) -> tuple[NewJob, tuple[str, ...]]:
    """The job of a definition, by its kind, and its warnings. Raises HyperSDKError."""
    given = fields_of(document)
    kind = kind_of(given.get("kind", Export.name))
    new, warnings = kind.accept({key: value for key, value in given.items() if key != "kind"}, context)
    if new.id in WORDS_OF_ROUTES:
        raise UsageError(f"a job cannot be called '{new.id}'", code=JOB_ID_RESERVED, id=new.id)
    return new, warnings
