"""Jobs in the database: submitting them, reading them, and requests of users. What only the worker that has a job may
do is in ``claims``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from hypersdk.errors import LookupFailed, UsageError, register
from hypersdk.jobs.ids import new_id
from hypersdk.jobs.records import ATTEMPTS, EMPTY_PROGRESS, JOBS, Attempt, JobRecord, NewJob
from hypersdk.jobs.states import (
    ENDED,
    LEGACY_STATUS,
    SOURCE_CHANGED_STILL,
    TARGET_CHANGED_STILL,
    JobEvent,
    JobState,
    JobStateError,
)
from hypersdk.jobs.steps import add_steps, read_steps
from hypersdk.jobs.transition import SUBMITTED, TOPIC, CurrentJob, change, lock, transition
from hypersdk.migration.jobfile import DEFAULT_FORMAT
from hypersdk.remedies import Look
from hypersdk.state.database import Database
from hypersdk.state.outbox import REMOVED, Event, events_since, write_events
from hypersdk.state.pages import (
    EVERYTHING,
    LIST_QUERY,
    ListConditions,
    Listing,
    PageRequest,
    PageResult,
    current_revision,
)
from hypersdk.state.tables import attempts, job_log, jobs, locks, runs
from hypersdk.text import count

JOB_UNKNOWN: Final = register("job_unknown", "There is no job with that id.", Look("jobs"))
JOB_EXISTS: Final = register(
    "job_exists", "A job with that id exists and has another definition.", "Choose another id, or leave it out."
)
_EXPORT: Final = jobs.c.kind == "export"
_OF_EXPORTS: Final[Mapping[str, sa.ColumnElement[Any]]] = {
    "vm_path": sa.case((_EXPORT, jobs.c.subject)),
    "output_path": sa.case((_EXPORT, jobs.c.target)),
    "format": sa.case((_EXPORT, sa.func.coalesce(jobs.c.definition["format"].as_string(), DEFAULT_FORMAT.value))),
}
"""Columns from the time when all jobs were exports."""
JOB_LIST: Final = Listing(
    JOBS,
    jobs,
    status=sa.case({state.value: word for state, word in LEGACY_STATUS.items()}, value=jobs.c.state),
    percent=jobs.c.progress["percent_complete"].as_float(),
    steps=sa.null(),  # rows of their own: see _with_steps
    **_OF_EXPORTS,
)
ATTEMPT_LIST: Final = Listing(ATTEMPTS, attempts)
MAX_LOG_BYTES: Final = 4 * 1024 * 1024
"""Largest log of one job; the rest is dropped."""
_ONE: Final = JOB_LIST.select().where(jobs.c.id == sa.bindparam("id"))
"""Built once, since it is the most frequent of all statements."""
NEWEST: Final = PageRequest("-number", limit=100)


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects the jobs for which all conditions hold; empty ones are ignored. ``text`` is found in the name, id,
    machine or folder."""

    ids: tuple[str, ...] = ()
    id_prefix: str = ""
    states: tuple[JobState, ...] = ()
    text: str = ""
    excluded: tuple[str, ...] = ()
    where: ListConditions = EVERYTHING
    seen_revision: int | None = None
    """Only jobs that existed at this revision of the list."""
    after: int | None = None
    """Only jobs with a higher number."""

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """As SQL."""
        found = JOB_LIST.conditions(self.where)
        if self.ids:
            found.append(jobs.c.id.in_([job_id for job_id in self.ids if possible_id(job_id)]))
        if self.id_prefix:
            found.append(jobs.c.id.istartswith(self.id_prefix, autoescape=True))
        if self.states:
            found.append(jobs.c.state.in_([state.value for state in self.states]))
        if self.text:
            columns = (jobs.c.name, jobs.c.subject, jobs.c.target, jobs.c.id)
            found.append(sa.or_(*(column.icontains(self.text, autoescape=True) for column in columns)))
        if self.excluded:
            found.append(jobs.c.id.not_in(self.excluded))
        if self.seen_revision is not None:
            found.append(jobs.c.created_revision <= self.seen_revision)
        if self.after is not None:
            found.append(jobs.c.number > self.after)
        return found


@dataclass(frozen=True, slots=True)
class JobSnapshot:
    """A temporary snapshot of a job. ``site`` is host:port of its vCenter or ESXi host, ``machine`` the machine's
    name."""

    snapshot: str
    job_id: str
    job_name: str
    state: JobState
    site: str
    machine: str


class JobStore:
    """Thread-safe; every method is one transaction."""

    def __init__(self, database: Database, connection: sa.Connection | None = None) -> None:
        """With a ``connection``, changes are part of its transaction."""
        self.database: Final = database
        self._connection = connection

    @contextmanager
    def together(self, job_ids: Sequence[str]) -> Iterator[JobStore]:
        """A store that changes these jobs in one transaction, which waits for the disk only once. A change that is
        refused leaves its job as it was; any other error rolls back all of them."""
        with self.database.write() as connection:
            self.database.lock_rows(connection, jobs.c.id, [job_id for job_id in job_ids if possible_id(job_id)])
            yield JobStore(self.database, connection)

    def _writing(self) -> AbstractContextManager[sa.Connection]:
        return self.database.write() if self._connection is None else nullcontext(self._connection)

    # Submit

    def submit(self, wanted: Sequence[NewJob]) -> list[JobRecord | UsageError]:
        """Stores jobs in one transaction; returns for each the job, or UsageError ``job_exists``. The same id with the
        same definition is the job that exists already."""
        with self.database.write() as connection:
            self.database.serialize(connection, "submit")  # two requests may ask for the same id at once
            existing = _digests(connection, [new.id for new in wanted if new.id is not None])
            digests = dict(existing)
            ids: list[str] = []
            fresh: dict[str, NewJob] = {}
            secrets_sent: dict[str, bytes] = {}
            for new in wanted:
                job_id = new.id or new_id()
                ids.append(job_id)
                if digests.setdefault(job_id, new.digest) != new.digest:
                    continue
                if job_id not in existing and (job_id not in fresh or new.secret is not None):
                    fresh[job_id] = new
                elif new.secret is not None:
                    secrets_sent[job_id] = new.secret
            self._renew_secrets(connection, secrets_sent)
            self._insert(connection, fresh)
            found = {job.id: job for job in _select(connection, jobs.c.id.in_(ids))}
        return [
            found[job_id]
            if digests[job_id] == new.digest
            else UsageError(f"job '{job_id}' exists with another definition", code=JOB_EXISTS, id=job_id)
            for job_id, new in zip(ids, wanted, strict=True)
        ]

    def _renew_secrets(self, connection: sa.Connection, given: Mapping[str, bytes]) -> None:
        """A password that is sent again may be another one: the next attempt takes it. A completed job needs none."""
        self.database.lock_rows(connection, jobs.c.id, given.keys())
        for job_id, secret in given.items():
            needed = sa.and_(jobs.c.id == job_id, jobs.c.state != JobState.COMPLETED.value)
            connection.execute(sa.update(jobs).where(needed).values(secret=secret))

    def _insert(self, connection: sa.Connection, fresh: Mapping[str, NewJob]) -> None:
        if not fresh:
            return
        now = self.database.now(connection)
        revision = self.database.revision(connection, len(fresh)) - len(fresh)
        number = self.database.count(connection, "job", len(fresh)) - len(fresh)
        rows: list[dict[str, Any]] = [
            {
                "id": job_id,
                "number": number + place,
                "name": new.name,
                "kind": new.kind,
                "subject": new.subject,
                "target": new.target,
                "definition": dict(new.definition),
                "digest": new.digest,
                "endpoint_id": new.endpoint_id,
                "target_endpoint_id": new.target_endpoint_id,
                "secret": new.secret,
                "site": new.site,
                "root_id": new.root_id,
                "priority": new.priority,
                "owner": new.owner,
                "state": JobState.QUEUED.value,
                "keep_partial": False,
                "discard": False,
                "attempt": 1,
                "enqueued": 0,
                "epoch": 0,
                "worker_id": None,
                "waiting": None,
                "progress": dict(EMPTY_PROGRESS),
                "result": None,
                "error": None,
                "source_changes": 0,
                "target_changes": 0,
                "created_at": now,
                "started_at": None,
                "completed_at": None,
                "updated_at": now,
                "revision": revision + place,
                "created_revision": revision + place,
            }
            for place, (job_id, new) in enumerate(fresh.items(), 1)
        ]
        connection.execute(sa.insert(jobs), rows)
        add_steps(connection, {job_id: new.steps for job_id, new in fresh.items()})
        held = [{"job_id": job_id, "name": name} for job_id, new in fresh.items() for name in new.locks]
        if held:
            connection.execute(sa.insert(locks), held)
        write_events(connection, now, [Event(row["revision"], TOPIC, row["id"], SUBMITTED, {}) for row in rows])

    # Reading

    def get(self, job_id: str) -> JobRecord:
        """Raises LookupFailed ``job_unknown``."""
        with self.database.read() as connection:
            return _get(connection, job_id)

    def page(self, which: Filter, part: PageRequest = NEWEST, *, after: int | None = None) -> PageResult[JobRecord]:
        """A page of the list. ``after`` continues a list in the order of submit behind that ``number``, regardless of
        jobs that came or went meanwhile.

        Raises UsageError ``list_query``.
        """
        beyond = None
        if after is not None:
            if part.sort.removeprefix("-") != "number":
                raise UsageError("a cursor goes with sort=number or -number", code=LIST_QUERY)
            beyond = jobs.c.number < after if part.sort.startswith("-") else jobs.c.number > after
        with self.database.read() as connection:
            found = JOB_LIST.page(connection, JOB_LIST.select(), which.conditions(), part, beyond=beyond)
            return replace(found, rows=tuple(_with_steps(connection, found.rows)))

    def newest(self, which: Filter, limit: int) -> tuple[Sequence[JobRecord], int]:
        """Up to ``limit`` jobs of a filter, newest first, and how many there are; without facets and steps."""
        conditions = which.conditions()
        query = JOB_LIST.select().where(*conditions).order_by(jobs.c.number.desc()).limit(limit)
        with self.database.read() as connection:
            found = [JOB_LIST.record(row) for row in connection.execute(query)]
            if len(found) < limit:
                return found, len(found)
            return found, connection.execute(
                sa.select(sa.func.count()).select_from(jobs).where(*conditions)
            ).scalar_one()

    def counts(self) -> dict[JobState, int]:
        """Jobs by state; every state is there."""
        with self.database.read() as connection:
            return count_states(connection)

    def ids(self, which: Filter) -> list[str]:
        """The ids of all jobs of a filter, oldest first."""
        return list(self.numbers(which))

    def numbers(self, which: Filter) -> dict[str, int]:
        """The numbers of all jobs of a filter by their ids, oldest first."""
        query = sa.select(jobs.c.id, jobs.c.number).where(*which.conditions()).order_by(jobs.c.number)
        with self.database.read() as connection:
            return {row.id: row.number for row in connection.execute(query)}

    def changed_since(self, revision: int, *, limit: int = 1000) -> list[JobRecord]:
        """Jobs that changed after ``revision``, in the order of their last change."""
        query = JOB_LIST.select().where(jobs.c.revision > revision).order_by(jobs.c.revision).limit(limit)
        with self.database.read() as connection:
            return _with_steps(connection, [JOB_LIST.record(row) for row in connection.execute(query)])

    def events_since(self, revision: int, *, limit: int = 1000) -> list[Event]:
        """Events of jobs and endpoints after ``revision``, oldest first."""
        with self.database.read() as connection:
            return events_since(connection, revision, limit=limit)

    def revision(self) -> int:
        """The revision of the last change."""
        with self.database.read() as connection:
            return current_revision(connection)

    def attempts(self, job_id: str) -> list[Attempt]:
        """The attempts at a job, oldest first."""
        query = ATTEMPT_LIST.select().where(attempts.c.job_id == job_id).order_by(attempts.c.epoch)
        with self.database.read() as connection:
            return [ATTEMPT_LIST.record(row) for row in connection.execute(query)]

    def attempts_page(self, job_id: str, where: ListConditions, part: PageRequest) -> PageResult[Attempt]:
        """A page of the attempts. Raises UsageError ``list_query``."""
        query = ATTEMPT_LIST.select().where(attempts.c.job_id == job_id)
        with self.database.read() as connection:
            return ATTEMPT_LIST.page(connection, query, ATTEMPT_LIST.conditions(where), part)

    def snapshots(self) -> list[JobSnapshot]:
        """The temporary snapshots of jobs at their sources, which nobody else may remove."""
        query = (
            sa.select(jobs.c.id, jobs.c.name, jobs.c.state, jobs.c.site, runs.c.record)
            .join(runs, runs.c.job_id == jobs.c.id)
            .where(jobs.c.source_changes > 0)
            .order_by(jobs.c.number)
        )
        with self.database.read() as connection:
            rows = connection.execute(query).all()
        return [
            JobSnapshot(change["data"]["name"], row.id, row.name, JobState(row.state), row.site, record["machine"])
            for row in rows
            for record in [json.loads(row.record)]
            for change in record["changes"]
            if change["kind"] == "snapshot" and not change["undone"]
        ]

    def sealed_secret(self, job_id: str) -> bytes | None:
        """The sealed password that came with the job."""
        with self.database.read() as connection:
            return connection.execute(sa.select(jobs.c.secret).where(jobs.c.id == job_id)).scalar_one_or_none()

    # Requests of users

    def cancel(self, job_id: str, *, keep_partial: bool = False) -> JobRecord:
        """Cancels a job: at once if no worker ever had it, otherwise once a worker has restored its source. A failed
        job can be cancelled if a change at its source or target is not undone.

        Repeating the request is no error. Raises LookupFailed ``job_unknown``, JobStateError ``job_state`` for a job
        that has ended.
        """

        with self._locked(job_id) as (connection, job):
            if job.state is JobState.CANCELLING:
                now = self.database.now(connection)
                change(self.database, connection, job_id, now, keep_partial=keep_partial)
            elif job.state is JobState.FAILED and not (job.source_changes or job.target_changes):
                raise JobStateError(
                    f"job '{job_id}' has failed, and no change at its source or target is left to undo",
                    state=job.state.value,
                )
            elif job.epoch == 0:
                transition(self.database, connection, job, JobEvent.ABANDON)
            else:  # an earlier attempt may have left changes at the source
                transition(self.database, connection, job, JobEvent.CANCEL, keep_partial=keep_partial)
            return _get(connection, job_id)

    def pause(self, job_id: str) -> JobRecord:
        """Pauses a job at its next checkpoint. Repeating the request is no error. Raises as ``cancel``."""
        with self._locked(job_id) as (connection, job):
            if job.state not in (JobState.PAUSED, JobState.PAUSING):
                transition(self.database, connection, job, JobEvent.PAUSE)
            return _get(connection, job_id)

    def resume(self, job_id: str) -> JobRecord:
        """Puts a paused job back into the queue. Raises as ``cancel``."""
        with self._locked(job_id) as (connection, job):
            transition(self.database, connection, job, JobEvent.RESUME)
            return _get(connection, job_id)

    def expire(self, job_id: str) -> None:
        """Has a worker restore the source of a paused job and remove its temporary snapshot. A job that is no longer
        paused is left alone."""
        with self._locked(job_id) as (connection, job):
            if job.state is JobState.PAUSED:
                transition(self.database, connection, job, JobEvent.EXPIRE)

    def retry(self, job_id: str, *, discard: bool = False) -> JobRecord:
        """Puts a failed or cancelled job back into the queue, to resume at its last checkpoint or, with ``discard``, to
        start over. Raises as ``cancel``."""
        with self._locked(job_id) as (connection, job):
            resumed = (
                not discard and connection.execute(sa.select(runs.c.job_id).where(runs.c.job_id == job_id)).first()
            )
            progress = job.progress if resumed else _nothing_done(job.progress)
            transition(
                self.database,
                connection,
                job,
                JobEvent.RETRY,
                keep=not discard,
                discard=discard,
                progress=dict(progress),
            )
            return _get(connection, job_id)

    def delete(self, job_id: str, *, give_up: bool = False) -> None:
        """Deletes a finished job and its log; the files that it wrote stay.

        Raises as ``cancel``, and JobStateError ``source_not_restored`` or ``target_changed`` if changes at the
        source or target are not undone. With ``give_up`` it is deleted all the same, and they stay."""
        with self._locked(job_id) as (connection, job):
            if job.state not in ENDED:
                raise JobStateError(f"job '{job_id}' is {job.state}; cancel it first", state=job.state.value)
            if job.source_changes and not give_up:
                raise JobStateError(
                    f"job '{job_id}' has not undone {count(job.source_changes, 'change')} at its source",
                    code=SOURCE_CHANGED_STILL,
                )
            if job.target_changes and not give_up:
                raise JobStateError(
                    f"job '{job_id}' has not undone {count(job.target_changes, 'change')} at its target",
                    code=TARGET_CHANGED_STILL,
                )
            self.remove_rows(connection, [job_id])

    def remove_rows(self, connection: sa.Connection, job_ids: Sequence[str]) -> None:
        """Deletes jobs and writes the events."""
        first = self.database.revision(connection, len(job_ids)) - len(job_ids) + 1
        gone = [Event(first + place, TOPIC, job_id, REMOVED, {}) for place, job_id in enumerate(job_ids)]
        write_events(connection, self.database.now(connection), gone)
        connection.execute(sa.delete(jobs).where(jobs.c.id.in_(job_ids)))

    @contextmanager
    def _locked(self, job_id: str) -> Iterator[tuple[sa.Connection, CurrentJob]]:
        """A transaction in which nobody else changes the job. Raises LookupFailed ``job_unknown``."""
        with self._writing() as connection:
            job = lock(connection, jobs.c.id == job_id) if possible_id(job_id) else None
            if job is None:
                raise _unknown(job_id)
            yield connection, job

    # Log

    def read_log(self, job_id: str, after_byte: int = 0, limit: int = 256 * 1024) -> tuple[bytes, int]:
        """Up to ``limit`` bytes of the job's log from ``after_byte`` on, and the offset after them."""
        query = (
            sa.select(job_log.c.start, job_log.c.data)
            .where(job_log.c.job_id == job_id, job_log.c.start + sa.func.length(job_log.c.data) > after_byte)
            .order_by(job_log.c.start)
            .limit(256)
        )
        found = b""
        with self.database.read() as connection:
            for start, data in connection.execute(query):
                found += bytes(data)[max(0, after_byte - start) :]
                if len(found) >= limit:
                    break
        return found[:limit], after_byte + len(found[:limit])


def _nothing_done(progress: Mapping[str, Any]) -> Mapping[str, Any]:
    """The progress of a job that starts over; the size of its machine stays known."""
    return {**EMPTY_PROGRESS, **{name: progress[name] for name in ("expected_bytes",) if name in progress}}


def count_states(connection: sa.Connection) -> dict[JobState, int]:
    """Jobs by state; every state is there."""
    rows = connection.execute(sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state))
    return dict.fromkeys(JobState, 0) | {JobState(state): number for state, number in rows}


def append_log(connection: sa.Connection, job_id: str, data: bytes) -> None:
    """Appends to a job's log. What exceeds ``MAX_LOG_BYTES`` is dropped, and the log says so."""
    end = sa.select(sa.func.max(job_log.c.start + sa.func.length(job_log.c.data))).where(job_log.c.job_id == job_id)
    start = int(connection.execute(end).scalar() or 0)
    if not data or start >= MAX_LOG_BYTES:
        return
    if start + len(data) > MAX_LOG_BYTES:
        data = data[: MAX_LOG_BYTES - start] + b"\n[the log is full; the rest is dropped]\n"
    connection.execute(sa.insert(job_log).values(job_id=job_id, start=start, data=data))


def _with_steps(connection: sa.Connection, found: Sequence[JobRecord]) -> list[JobRecord]:
    steps = read_steps(connection, [job.id for job in found])
    return [replace(job, steps=steps[job.id]) for job in found]


def _select(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[JobRecord]:
    rows = connection.execute(JOB_LIST.select().where(*conditions))
    return _with_steps(connection, [JOB_LIST.record(row) for row in rows])


def possible_id(text: str) -> bool:
    """Whether a job can have that id. Other texts are not passed to the database, which may not be able to encode
    them."""
    return 0 < len(text) <= 128 and text.isascii() and text.isprintable()


def _get(connection: sa.Connection, job_id: str) -> JobRecord:
    """Raises LookupFailed ``job_unknown``."""
    row = connection.execute(_ONE, {"id": job_id}).one_or_none() if possible_id(job_id) else None
    if row is None:
        raise _unknown(job_id)
    return _with_steps(connection, [JOB_LIST.record(row)])[0]


def _digests(connection: sa.Connection, ids: Sequence[str]) -> dict[str, str]:
    """The digest of the definition of each of ``ids`` that exists."""
    query = sa.select(jobs.c.id, jobs.c.digest).where(jobs.c.id.in_(ids))
    return {row.id: row.digest for row in connection.execute(query)}


def _unknown(job_id: str) -> LookupFailed:
    """The error for an id of any form."""
    shown = job_id[:128].encode("ascii", "backslashreplace").decode()
    return LookupFailed(f"there is no job '{shown}'", code=JOB_UNKNOWN, id=shown)
