"""Jobs in the database: submitting, looking, asking for cancel or pause. What only the worker that has a job may do is
in ``claims``."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from hypersdk.errors import LookupFailed, UsageError, register
from hypersdk.jobs.records import ATTEMPTS, EMPTY_PROGRESS, JOBS, Attempt, JobRecord, NewJob
from hypersdk.jobs.states import ENDED, LEGACY_STATUS, SOURCE_CHANGED_STILL, JobEvent, JobState, JobStateError
from hypersdk.jobs.steps import add_steps, read_steps
from hypersdk.jobs.transition import SUBMITTED, TOPIC, change, transition
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
"""Columns that lists had when all jobs were exports."""
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
"""What is kept of one job's log."""
_AT_ONCE: Final = 500
_ONE: Final = JOB_LIST.select().where(jobs.c.id == sa.bindparam("id"))
"""Put together once: of all statements it is the most frequent."""
NEWEST: Final = PageRequest("-number", limit=100)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs. All conditions must hold; an empty one is no condition. ``text`` is found in name, machine or
    folder."""

    ids: tuple[str, ...] = ()
    states: tuple[JobState, ...] = ()
    text: str = ""
    excluded: tuple[str, ...] = ()
    where: ListConditions = EVERYTHING
    seen_revision: int | None = None
    """Only jobs that were there at this revision of the list."""

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """As SQL."""
        found = JOB_LIST.conditions(self.where)
        if self.ids:
            found.append(jobs.c.id.in_([one for one in self.ids if possible_id(one)]))
        if self.states:
            found.append(jobs.c.state.in_([state.value for state in self.states]))
        if self.text:
            columns = (jobs.c.name, jobs.c.subject, jobs.c.target, jobs.c.id)
            found.append(sa.or_(*(column.icontains(self.text, autoescape=True) for column in columns)))
        if self.excluded:
            found.append(jobs.c.id.not_in(self.excluded))
        if self.seen_revision is not None:
            found.append(jobs.c.created_revision <= self.seen_revision)
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

    def __init__(self, database: Database) -> None:
        self.database: Final = database

    @contextmanager
    def together(self, job_ids: Sequence[str]) -> Iterator[JobStore]:
        """A store whose changes of these jobs are one transaction: each of its own waits for the disk. What one of them
        refuses changes nothing; any other error takes all of them back."""
        with self.database.write() as connection:
            self.database.lock_rows(connection, jobs.c.id, [job_id for job_id in job_ids if possible_id(job_id)])
            yield _Within(self.database, connection)

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self.database.write() as connection:
            yield connection

    # Submit

    def submit(self, new: NewJob) -> tuple[JobRecord, bool]:
        """Writes a job down; True when it is new. The same id with the same definition is the job that is there.

        Raises UsageError ``job_exists``. The engine hears of it afterwards, by the dispatcher of any worker.
        """
        (found,) = self.submit_all([new])
        if isinstance(found, UsageError):
            raise found
        return found

    def submit_all(self, wanted: Sequence[NewJob]) -> list[tuple[JobRecord, bool] | UsageError]:
        """The same for many, in one transaction; for each, in their order, what ``submit`` would return or raise."""
        with self.database.write() as connection:
            self.database.serialize(connection, "submit")  # an id that two ask for at once
            known = _digests(connection, [new.id for new in wanted if new.id is not None])
            ids: list[str | None] = []
            fresh: list[tuple[str, NewJob]] = []
            for new in wanted:
                job_id = new.id or f"job-{secrets.token_hex(6)}"
                if job_id not in known:
                    known[job_id] = new.digest
                    fresh.append((job_id, new))
                ids.append(job_id if known[job_id] == new.digest else None)
            self._insert(connection, fresh)
            known_secrets = {job_id: new.secret for job_id, new in fresh}
            sent = {taken: new.secret for taken, new in zip(ids, wanted, strict=True) if taken and new.secret}
            self._renew_secrets(
                connection,
                {job_id: secret for job_id, secret in sent.items() if known_secrets.get(job_id) is not secret},
            )
            there = _by_id(connection, [job_id for job_id in ids if job_id is not None])
        made = {job_id for job_id, _ in fresh}
        found: list[tuple[JobRecord, bool] | UsageError] = []
        for taken, new in zip(ids, wanted, strict=True):
            if taken is None:
                found.append(UsageError(f"job '{new.id}' exists with another definition", code=JOB_EXISTS, id=new.id))
            else:
                found.append((there[taken], taken in made))
                made.discard(taken)  # asked for twice: new only once
        return found

    def _renew_secrets(self, connection: sa.Connection, given: Mapping[str, bytes]) -> None:
        """A password that is sent again may be another one: the next attempt takes it. A completed job needs none."""
        self.database.lock_rows(connection, jobs.c.id, given.keys())
        for job_id, secret in given.items():
            needed = sa.and_(jobs.c.id == job_id, jobs.c.state != JobState.COMPLETED.value)
            connection.execute(sa.update(jobs).where(needed).values(secret=secret))

    def _insert(self, connection: sa.Connection, fresh: Sequence[tuple[str, NewJob]]) -> None:
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
                "created_at": now,
                "started_at": None,
                "completed_at": None,
                "updated_at": now,
                "revision": revision + place,
                "created_revision": revision + place,
            }
            for place, (job_id, new) in enumerate(fresh, 1)
        ]
        connection.execute(sa.insert(jobs), rows)
        add_steps(connection, {job_id: new.steps for job_id, new in fresh})
        held = [{"job_id": job_id, "name": name} for job_id, new in fresh for name in new.locks]
        if held:
            connection.execute(sa.insert(locks), held)
        write_events(connection, now, [Event(row["revision"], TOPIC, row["id"], SUBMITTED, {}) for row in rows])

    # Look

    def get(self, job_id: str) -> JobRecord:
        """Raises LookupFailed ``job_unknown``."""
        with self.database.read() as connection:
            return _get(connection, job_id)

    def page(self, which: Filter, part: PageRequest = NEWEST, *, after: int | None = None) -> PageResult[JobRecord]:
        """Part of the list. ``after`` continues a list in order of submit behind that ``number``, whatever came or went
        meanwhile.

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
        """Up to ``limit`` jobs of a filter, newest first, and how many there are; without facets and steps, in one
        look."""
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
            rows = connection.execute(sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state))
            found = {str(state): int(number) for state, number in rows}
        return {state: found.get(state.value, 0) for state in JobState}

    def ids(self, which: Filter) -> list[str]:
        """Ids of all jobs of a filter, oldest first."""
        with self.database.read() as connection:
            return list(
                connection.execute(sa.select(jobs.c.id).where(*which.conditions()).order_by(jobs.c.number)).scalars()
            )

    def changed_since(self, revision: int, *, limit: int = 1000) -> list[JobRecord]:
        """Jobs that changed after ``revision``, in the order of their last change."""
        query = JOB_LIST.select().where(jobs.c.revision > revision).order_by(jobs.c.revision).limit(limit)
        with self.database.read() as connection:
            return _with_steps(connection, map(JOB_LIST.record, connection.execute(query)))

    def events_since(self, revision: int, *, limit: int = 1000) -> list[Event]:
        """What happened to jobs and endpoints after ``revision``, oldest first."""
        with self.database.read() as connection:
            return events_since(connection, revision, limit=limit)

    def revision(self) -> int:
        """The revision of the last change of anything."""
        with self.database.read() as connection:
            return current_revision(connection)

    def revision_of(self, connection: sa.Connection) -> int:
        """The same within a transaction."""
        return current_revision(connection)

    def attempts(self, job_id: str) -> list[Attempt]:
        """Every time that a worker had the job, oldest first."""
        query = ATTEMPT_LIST.select().where(attempts.c.job_id == job_id).order_by(attempts.c.epoch)
        with self.database.read() as connection:
            return [ATTEMPT_LIST.record(row) for row in connection.execute(query)]

    def attempts_page(self, job_id: str, where: ListConditions, part: PageRequest) -> PageResult[Attempt]:
        """Some of them. Raises UsageError ``list_query``."""
        query = ATTEMPT_LIST.select().where(attempts.c.job_id == job_id)
        with self.database.read() as connection:
            return ATTEMPT_LIST.page(connection, query, ATTEMPT_LIST.conditions(where), part)

    def snapshots(self) -> list[JobSnapshot]:
        """The temporary snapshots that jobs hold at their sources, or left there: what nobody else may remove."""
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

    # Ask

    def cancel(self, job_id: str, *, keep_partial: bool = False) -> JobRecord:
        """Asks for the job's end. One that no worker ever had is cancelled at once; any other once its source is as it
        was found. A failed job can be cancelled where something at its source is not undone.

        Asking again is no error. Raises LookupFailed ``job_unknown``, JobStateError ``job_state`` for a job that has
        ended.
        """

        with self._asking(job_id) as (connection, job):
            if job.state is JobState.CANCELLING:
                now = self.database.now(connection)
                change(self.database, connection, job_id, now, keep_partial=keep_partial)
            elif job.state is JobState.FAILED and not job.source_changes:
                raise JobStateError(
                    f"job '{job_id}' has failed, and its source is as it was found", state=job.state.value
                )
            elif job.epoch == 0:
                transition(self.database, connection, job, JobEvent.ABANDON)
            else:  # maybe nobody has it, but an earlier attempt may have left something: a worker must look
                transition(self.database, connection, job, JobEvent.CANCEL, keep_partial=keep_partial)
            return _get(connection, job_id)

    def pause(self, job_id: str) -> JobRecord:
        """Asks for a stop at the next checkpoint. Asking again is no error. Raises as ``cancel``."""
        with self._asking(job_id) as (connection, job):
            if job.state not in (JobState.PAUSED, JobState.PAUSING):
                transition(self.database, connection, job, JobEvent.PAUSE)
            return _get(connection, job_id)

    def resume(self, job_id: str) -> JobRecord:
        """Puts a paused job back into the queue. Raises as ``cancel``."""
        with self._asking(job_id) as (connection, job):
            transition(self.database, connection, job, JobEvent.RESUME)
            return _get(connection, job_id)

    def expire(self, job_id: str) -> None:
        """Has a worker put the source of a paused job back, its temporary snapshot too. A job that is not paused any
        more is left alone."""
        with self._asking(job_id) as (connection, job):
            if job.state is JobState.PAUSED:
                transition(self.database, connection, job, JobEvent.EXPIRE)

    def retry(self, job_id: str, *, discard: bool = False) -> JobRecord:
        """Puts a failed or cancelled job back into the queue: from its last checkpoint, or anew with ``discard``.
        Raises as ``cancel``."""
        with self._asking(job_id) as (connection, job):
            transition(self.database, connection, job, JobEvent.RETRY, discard=discard, progress=dict(EMPTY_PROGRESS))
            return _get(connection, job_id)

    def delete(self, job_id: str, *, give_up: bool = False) -> None:
        """Forgets a job that has ended, with its log; the files that it wrote stay.

        Raises as ``cancel``, and JobStateError ``source_not_restored`` while only its record knows what to undo at the
        source: not with ``give_up``, after which nobody undoes it."""
        with self._writing() as connection:
            job = _locked(connection, job_id)
            if job.state not in ENDED:
                raise JobStateError(f"job '{job_id}' is {job.state}; cancel it first", state=job.state.value)
            if job.source_changes and not give_up:
                raise JobStateError(
                    f"{job.source_changes} change(s) of job '{job_id}' at its source are not undone",
                    code=SOURCE_CHANGED_STILL,
                )
            self.remove_rows(connection, [job_id])

    def remove_rows(self, connection: sa.Connection, job_ids: Sequence[str]) -> None:
        """Deletes jobs and tells those who follow the changes."""
        first = self.database.revision(connection, len(job_ids)) - len(job_ids) + 1
        gone = [Event(first + place, TOPIC, job_id, REMOVED, {}) for place, job_id in enumerate(job_ids)]
        write_events(connection, self.database.now(connection), gone)
        connection.execute(sa.delete(jobs).where(jobs.c.id.in_(job_ids)))

    @contextmanager
    def _asking(self, job_id: str) -> Iterator[tuple[sa.Connection, JobRecord]]:
        """The job, locked. Raises LookupFailed ``job_unknown``."""
        with self._writing() as connection:
            yield connection, _locked(connection, job_id)

    # Log

    def read_log(self, job_id: str, after_byte: int = 0, limit: int = 256 * 1024) -> tuple[bytes, int]:
        """Up to ``limit`` bytes of the job's log from ``after_byte`` on, and the offset behind them."""
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


class _Within(JobStore):
    """Inside of a transaction that somebody else ends."""

    def __init__(self, database: Database, connection: sa.Connection) -> None:
        super().__init__(database)
        self._connection = connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        yield self._connection


def append_log(connection: sa.Connection, job_id: str, data: bytes) -> None:
    """Adds to the end of a job's log; what is over ``MAX_LOG_BYTES`` is dropped, and the log says so."""
    end = sa.select(sa.func.max(job_log.c.start + sa.func.length(job_log.c.data))).where(job_log.c.job_id == job_id)
    start = int(connection.execute(end).scalar() or 0)
    if not data or start >= MAX_LOG_BYTES:
        return
    if start + len(data) > MAX_LOG_BYTES:
        data = data[: MAX_LOG_BYTES - start] + b"\n[the log is full; what follows is not kept]\n"
    connection.execute(sa.insert(job_log).values(job_id=job_id, start=start, data=data))


def _with_steps(connection: sa.Connection, rows: Iterable[JobRecord]) -> list[JobRecord]:
    found = list(rows)
    steps = read_steps(connection, [job.id for job in found])
    return [replace(job, steps=steps[job.id]) for job in found]


def possible_id(text: str) -> bool:
    """Whether a job can have that id: anything else is not shown to the database, which may not even be able to write
    it."""
    return 0 < len(text) <= 128 and text.isascii() and text.isprintable()


def _get(connection: sa.Connection, job_id: str) -> JobRecord:
    """Raises LookupFailed ``job_unknown``."""
    row = connection.execute(_ONE, {"id": job_id}).one_or_none() if possible_id(job_id) else None
    if row is None:
        raise _unknown(job_id)
    return _with_steps(connection, [JOB_LIST.record(row)])[0]


def _digests(connection: sa.Connection, ids: Sequence[str]) -> dict[str, str]:
    """Digest of the definition of each of ``ids`` that there is."""
    found: dict[str, str] = {}
    for part in _parts(ids):
        query = sa.select(jobs.c.id, jobs.c.digest).where(jobs.c.id.in_(part))
        found |= {row.id: row.digest for row in connection.execute(query)}
    return found


def _by_id(connection: sa.Connection, ids: Sequence[str]) -> dict[str, JobRecord]:
    found: dict[str, JobRecord] = {}
    for part in _parts(ids):
        rows = connection.execute(JOB_LIST.select().where(jobs.c.id.in_(part)))
        found |= {job.id: job for job in _with_steps(connection, map(JOB_LIST.record, rows))}
    return found


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """As many at once as every database takes in one statement."""
    return (ids[at : at + _AT_ONCE] for at in range(0, len(ids), _AT_ONCE))


def _locked(connection: sa.Connection, job_id: str) -> JobRecord:
    """The job, which nobody else changes until the transaction ends."""
    query = JOB_LIST.select().where(jobs.c.id == job_id).with_for_update()
    row = connection.execute(query).one_or_none() if possible_id(job_id) else None
    if row is None:
        raise _unknown(job_id)
    return JOB_LIST.record(row)


def _unknown(job_id: str) -> LookupFailed:
    """Shows the id as far as it can be shown."""
    shown = job_id[:128].encode("ascii", "backslashreplace").decode()
    return LookupFailed(f"there is no job '{shown}'", code=JOB_UNKNOWN, id=shown)
