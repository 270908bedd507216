"""Submitting: from a job file to rows in the queue. Each job of a file stands or falls alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from hypersdk.access.endpoints import EndpointStore
from hypersdk.access.vault import Vault
from hypersdk.errors import CODES, HyperSDKError, LookupFailed, UsageError, register
from hypersdk.jobs.figures import workers_alive
from hypersdk.jobs.records import MAX_PRIORITY, Attempt, Job, NewJob
from hypersdk.jobs.roots import ExportRoots
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.jobs.states import ENDED, HELD, NO_WORKER, SOURCE_CHANGED_STILL, UNDOING, JobState, JobStateError
from hypersdk.jobs.store import JobStore
from hypersdk.jobs.troubles import NO_TROUBLES, PROCESS_DIES, Troubles
from hypersdk.migration.jobfile import JobDefinition, load_jobs
from hypersdk.net.guard import check_submitted
from hypersdk.vsphere.endpoint import resolve_endpoint

AT_ONCE: Final = 200
"""Jobs that are changed in one transaction: a second at most, in which other writers wait."""
JOB_PASSWORD: Final = "job-password"  # noqa: S105 - what the vault seals it for
JOB_ID_RESERVED: Final = register(
    "job_id_reserved",
    "The id is a word of the API: the job could not be asked for.",
    "Choose another id, or leave it out.",
)
WORDS_OF_ROUTES: Final = frozenset({"submit", "query", "cancel", "bulk"})


@dataclass(frozen=True, slots=True)
class RejectedJob:
    """A job of the file that was not taken, by its number from 1, and why."""

    number: int
    error: HyperSDKError


@dataclass(frozen=True, slots=True)
class SubmitResult:
    """What became of a job file. ``warnings`` are about what was accepted and has no effect."""

    accepted: tuple[Job, ...]
    rejected: tuple[RejectedJob, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JobExplanation:
    """Why a job is as it is, and what to do."""

    code: str
    message: str
    cause: str
    next_step: str
    history: tuple[Attempt, ...]


class JobService:
    """What users do with jobs. Thread-safe."""

    def __init__(
        self,
        store: JobStore,
        vault: Vault,
        endpoints: EndpointStore,
        settings: DaemonSettings,
        roots: ExportRoots,
        environ: Mapping[str, str],
        *,
        troubles: Troubles = NO_TROUBLES,
    ) -> None:
        self.store: Final = store
        self._vault = vault
        self._endpoints = endpoints
        self._settings = settings
        self.roots: Final = roots
        self._environ = environ
        self._troubles = troubles

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
        """Takes the jobs of ``text`` that can be taken. ``endpoint_id`` is for jobs that name no endpoint of their own;
        a higher ``priority`` goes first. With the same ``key``, which is of one request and its repeats, the same text
        is the same jobs, however often it comes.

        Raises UsageError ``job_unreadable`` when there is nothing in the text that could be a job.
        """
        wanted: list[tuple[int, NewJob, Sequence[str]]] = []
        rejected: list[RejectedJob] = []
        for entry in load_jobs(text, content_type=content_type, environ=self._environ):
            try:
                if entry.definition is None:
                    assert entry.error is not None
                    raise entry.error
                new = self._new(entry.definition, owner, endpoint_id, priority)
                if new.id is None and key is not None:
                    new = replace(new, id=_id_of(key, entry.number))
                wanted.append((entry.number, new, (*entry.definition.warnings, *_without_effect(entry.definition))))
            except HyperSDKError as error:
                rejected.append(RejectedJob(entry.number, error))
        accepted: list[Job] = []
        warnings: list[str] = []
        for (number, _, warned), found in zip(
            wanted, self.store.submit_all([new for _, new, _ in wanted]), strict=True
        ):
            if isinstance(found, UsageError):
                rejected.append(RejectedJob(number, found))
            else:
                accepted.append(found[0])
                warnings += warned
        return SubmitResult(tuple(accepted), tuple(sorted(rejected, key=lambda one: one.number)), tuple(warnings))

    def _new(self, definition: JobDefinition, owner: str | None, endpoint_id: str | None, priority: int) -> NewJob:
        """Raises UsageError, Refused or LookupFailed for a job that cannot be taken."""
        if definition.id in WORDS_OF_ROUTES:
            raise UsageError(f"a job cannot be called '{definition.id}'", code=JOB_ID_RESERVED, id=definition.id)
        root = self.roots.of(definition.folder)
        given = definition.as_dict()
        chosen, site = self._endpoint(definition, endpoint_id)
        password = definition.endpoint.password
        return NewJob(
            id=definition.id,
            name=definition.title,
            vm_path=definition.vm_path,
            output_path=definition.folder,
            format=definition.format.value,
            definition=given,
            digest=_digest(given),
            endpoint_id=chosen,
            secret=None if password is None else self._vault.seal(password, JOB_PASSWORD),
            site=site,
            root_id=root.id,
            priority=max(-MAX_PRIORITY, min(MAX_PRIORITY, priority)),
            owner=owner,
        )

    def _endpoint(self, definition: JobDefinition, endpoint_id: str | None) -> tuple[str | None, str]:
        """The stored endpoint, if it is one, and ``host:port`` of the server."""
        own = definition.endpoint
        if own.url is not None:
            named = resolve_endpoint({}, None, url=own.url, username=own.username)
            check_submitted(named.host, named.port, self._settings.allowed_endpoints)
            return None, f"{named.host}:{named.port}"
        if endpoint_id is None and self._environ.get("GOVC_URL"):
            found = resolve_endpoint(self._environ, None)
            return None, f"{found.host}:{found.port}"
        stored = self._endpoints.get(endpoint_id) if endpoint_id else self._endpoints.default()
        if stored is None:
            found = resolve_endpoint({}, None)  # raises: no endpoint was named
            return None, f"{found.host}:{found.port}"
        named = resolve_endpoint({}, None, url=stored.url)
        return stored.id, f"{named.host}:{named.port}"

    def explain(self, job: Job) -> JobExplanation:
        """Why the job is as it is."""
        history = tuple(self.store.attempts(job.id))
        if job.state not in ENDED and (fault := self.store.database.writable()) is not None:
            message = f"'{job.name}' is {job.state}, as far as it could be written down: {fault.message}"
            return JobExplanation(fault.code, message, fault.cause, fault.next_step, history)
        if (
            job.state in (JobState.QUEUED, *HELD)
            and self.store.database.is_sqlite
            and (trouble := self._troubles.read())
        ):
            # There is one host, so it concerns every job. A code of the worker's may be one that this process does not know.
            met = CODES.get(trouble.code, CODES[PROCESS_DIES])
            message = (
                f"'{job.name}' is {job.state}; a worker"
                f" {'ends each time that it starts' if trouble.ends else 'cannot do its work'}"
            )
            return JobExplanation(trouble.code, message, met.cause, met.next_step, history)
        error = job.error or (history[-1].error if history and job.state not in (JobState.COMPLETED,) else None)
        if error and job.state in (JobState.FAILED, JobState.CANCELLED, JobState.QUEUED):
            message, step = str(error["message"]), str(error["next_step"])
            if job.source_changes and job.state is JobState.FAILED:
                message += f"; {job.source_changes} change(s) at the source are not undone"
                step += f" {CODES[SOURCE_CHANGED_STILL].next_step}"
            return JobExplanation(str(error["code"]), message, str(error["cause"]), step, history)
        code, message = self._situation(job)
        info = CODES.get(code) if code in (job.waiting, NO_WORKER) else None
        cause, step = (info.cause, info.next_step) if info else _SITUATIONS.get(code, _SITUATIONS[job.state.value])
        return JobExplanation(code, message, cause, step, history)

    def _situation(self, job: Job) -> tuple[str, str]:
        if job.state not in (*ENDED, JobState.PAUSED) and not workers_alive(
            self.store.database, take_over_s=self._settings.take_over_s
        ):
            return NO_WORKER, f"'{job.name}' is {job.state}, and no worker is alive"
        if job.state is JobState.QUEUED and job.waiting:
            return job.waiting, f"'{job.name}' waits"
        if job.state in UNDOING and job.worker_id is None:
            return "undo_due", f"'{job.name}' is {job.state}, and no worker has taken that up yet"
        if job.progress.get("stalled"):
            return "stalled", str(job.progress["stalled"])
        notes = [job.progress.get("note"), *(disk.get("note") for disk in job.progress.get("disks", ()))]
        note = next((str(one) for one in notes if one), "")
        return job.state.value, f"'{job.name}' is {job.state}" + (f": {note}" if note else "")

    # Asking: the row is changed here, the worker that has the job sees it within half a second, the dispatcher within one

    def cancel(self, job_id: str, *, keep_partial: bool = False) -> Job:
        """See JobStore.cancel."""
        return self.store.cancel(job_id, keep_partial=keep_partial)

    def pause(self, job_id: str) -> Job:
        """See JobStore.pause."""
        return self.store.pause(job_id)

    def resume(self, job_id: str) -> Job:
        """See JobStore.resume."""
        return self.store.resume(job_id)

    def retry(self, job_id: str, *, discard: bool = False) -> Job:
        """See JobStore.retry."""
        return self.store.retry(job_id, discard=discard)

    def delete(self, job_id: str, *, give_up: bool = False) -> None:
        """See JobStore.delete."""
        self.store.delete(job_id, give_up=give_up)

    def each(self, job_ids: Sequence[str], act: Callable[[JobStore, str], Any]) -> dict[str, HyperSDKError | None]:
        """``act`` on each job, some hundred in one transaction; its error, or None. Raises DatabaseError, and then the
        last of them are as they were."""
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


_SITUATIONS: Final[Mapping[str, tuple[str, str]]] = {
    "queued": ("It waits for a free place in the queue.", "Nothing; `hyperctl query -all` shows what runs before it."),
    "running": ("A worker copies it.", "Nothing; `hyperctl watch ID` follows it."),
    "pausing": ("The worker brings it to a checkpoint.", "Nothing; it is paused within seconds."),
    "paused": ("Someone paused it.", "`hyperctl resume ID` goes on, `hyperctl cancel ID` ends it."),
    "cancelling": (
        "The worker puts the source back as it was found.",
        "Nothing; it is cancelled when the lease is free.",
    ),
    "undo_due": (
        "Its source is to be put back as it was found.",
        "A worker does so within seconds; if none is alive, start one with `hypervisord --role worker`.",
    ),
    "completed": ("All was copied and verified.", "`hyper2kvm verify DIR` proves it again."),
    "failed": ("It ended with an error.", "See the log with `hyperctl logs ID`."),
    "cancelled": ("Someone cancelled it.", "`hyperctl retry ID` begins it again."),
    "stalled": (
        "No byte has come for a while.",
        "Look at the ESXi host and the network; `hyper2kvm doctor` checks the way to each host.",
    ),
}


def _without_effect(definition: JobDefinition) -> Iterator[str]:
    own = definition.endpoint
    if own.insecure and own.url is None:
        yield (
            f"{definition.title}: insecure has no effect on a job that names no server; how the daemon's own is trusted"
            " is the daemon's matter"
        )


def _id_of(key: str, number: int) -> str:
    """As random as the key, and the same for the same key."""
    return f"job-{hashlib.sha256(f'{key}/{number}'.encode()).hexdigest()[:12]}"


def _digest(definition: Mapping[str, Any]) -> str:
    """Of what was asked for; when it was written does not count."""
    counted = {key: value for key, value in definition.items() if key != "created_at"}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()
