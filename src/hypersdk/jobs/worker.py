"""A worker process: an identity of its own, a heartbeat, the engine, and a reporter that carries progress out and
requests in.

::

    engine thread (one per job)    claim ─> steps ─> end
    heartbeat                      every 2 s
    reporter                       every 0.5 s: cancel and pause requests in; every second: progress and logs out, due
                                   attempts to the engine
    watch                          every few seconds: dead workers, attempts that the engine lost, old rows
    own                            every 2 s: rows and attempts that are said to run here, and do not
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from hypersdk.access.endpoints import EndpointStore
from hypersdk.access.vault import Vault
from hypersdk.config.folders import state_folder
from hypersdk.errors import INTERNAL, HyperSDKError, UsageError
from hypersdk.jobs.attempt import Durable, JobAttempt, not_durable
from hypersdk.jobs.budget import Renewal, SharedBudget
from hypersdk.jobs.cancelrunner import CancelRunner
from hypersdk.jobs.claims import Claims, StaleAttempt
from hypersdk.jobs.engine import Engine
from hypersdk.jobs.enginecopy import ENGINE_DAMAGED, ENGINE_GONE
from hypersdk.jobs.heartbeat import Heartbeat, declare_dead
from hypersdk.jobs.kinds.base import WorkerContext
from hypersdk.jobs.login import EndpointResolver
from hypersdk.jobs.reconcile import Reconciler
from hypersdk.jobs.remedies import error_dict
from hypersdk.jobs.roots import ExportRoots
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.jobs.states import JobEvent, JobStateError
from hypersdk.jobs.store import JobStore
from hypersdk.jobs.workerfault import WORKER_ID_HELD
from hypersdk.migration.preflight import MinFreeSpace
from hypersdk.migration.settings import RunResources, RunSettings
from hypersdk.remedies import ReportBug, Resume
from hypersdk.state.database import Database, DatabaseError
from hypersdk.transfer.cancel import CancelToken, SignalFlag
from hypersdk.transfer.files import target_errors

LOG: Final = logging.getLogger(__name__)
REPORT_S: Final = 0.5
WATCH_PER_TAKE_OVER: Final = 4
OWN_S: Final = 2.0
LOOKS: Final = 2
OWN_AFTER_S: Final = 10.0
"""What this worker had when it died is the engine's to begin again, so long after the start."""
UNDO_S: Final = 10.0
"""How long an undo may still take when all else has ended."""


class Worker:
    """One worker. ``run`` blocks until ``stop`` was called and all jobs have reached a checkpoint."""

    def __init__(self, settings: DaemonSettings, database: Database, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._database = database
        self._environ = environ
        self._stopping = SignalFlag()
        self._cancel = CancelToken()
        self._active: dict[str, JobAttempt] = {}
        self._begun: Counter[str] = Counter()
        """Attempts that a thread of this process works on, from before the claim to after the end."""
        self._lock = threading.Lock()
        self._run_settings = _run_settings(settings, environ)
        self._shared = RunResources(self._run_settings)
        self._sites: dict[str, RunResources] = {}
        self._renewal = Renewal()
        self._room = False
        """A job has ended: the next one need not wait for the next report."""

    def stop(self) -> None:
        """Asks for the end: no new job, those that run reach a checkpoint and go back into the queue. Signal-safe."""
        self._stopping.set()

    def run(
        self, index: int, *, ready: Callable[[], None] = lambda: None, alive: Callable[[str], None] = lambda _: None
    ) -> None:
        """The whole life of the worker. ``index`` counts the workers of this state directory; ``ready`` is called once
        it takes jobs, ``alive`` in each turn of its main loop, with the code of what keeps it from its work. Raises
        HyperSDKError where it cannot start."""
        settings = self._settings
        roots = ExportRoots(settings.roots)
        with worker_id(settings.state_dir, index) as identity, self._beating(identity, roots) as heartbeat:
            claims = Claims(self._database, identity, most=settings.jobs_per_worker)
            vault = Vault.load(settings.state_dir, settings.key_file, self._environ)
            endpoints = EndpointStore(self._database, vault)
            logins = EndpointResolver(JobStore(self._database), vault, endpoints, settings, self._environ)
            context = WorkerContext(
                claims,
                logins,
                roots,
                heartbeat.guard,
                self._run_settings,
                self._shared_of(identity),
                self._stopping.wait,
            )
            engine = Engine(
                settings,
                self._database,
                identity,
                roots.ids,
                lambda job, n, durable: self._attempt(context, job, n, durable),
            )
            claims.release_undo(identity)  # of a killed one before us
            undoing = CancelRunner(
                claims,
                roots.ids,
                lambda job, n: self._attempt(context, job, n, free=True),
                lambda job, published: self._clean_up(context, job, published),
            )
            engine.launch()
            try:
                ready()
                LOG.info("worker %s takes jobs", identity)
                self._work(engine, claims, heartbeat, undoing, lambda: alive(self._kept_by(engine)))
            finally:
                self._stopping.set()  # also where it ends by itself: whoever waits for the database waits no longer
                heartbeat.draining()
                self._stop_jobs()
                engine.destroy(settings.drain_s)
                undoing.join(UNDO_S)
                with suppress(DatabaseError):  # which says so itself; the next attempt goes on without these lines
                    self._flush(claims)

    def _beating(self, identity: str, roots: ExportRoots) -> Heartbeat:
        take_over_s = self._settings.take_over_s
        return Heartbeat(
            self._database, identity, roots.ids, beat_s=min(2.0, take_over_s / 10), take_over_s=take_over_s
        )

    # Jobs

    def _attempt(
        self, context: WorkerContext, job_id: str, number: int, durable: Durable = not_durable, *, free: bool = False
    ) -> dict[str, Any]:
        """Called by the engine, or with ``free`` to undo, in a thread of its own. Never raises what is expected."""
        with self._lock:
            self._begun[f"{job_id}/{number}"] += 1
        try:
            return self._attempted(context, job_id, number, durable, free=free)
        finally:
            with self._lock:
                self._begun -= Counter([f"{job_id}/{number}"])

    def _attempted(
        self, context: WorkerContext, job_id: str, number: int, durable: Durable, *, free: bool
    ) -> dict[str, Any]:
        try:
            if self._stopping.is_set():
                context.claims.hand_back(job_id, number)
                return {"outcome": "handed back"}
            claim = context.claims.claim(job_id, number, free=free)
        except DatabaseError as error:
            LOG.error("job %s was not taken up: %s", job_id, error.message)
            return {"outcome": "database failed"}
        if claim is None:
            return {"outcome": "superseded"}
        attempt = JobAttempt(context, claim, self._cancel.child())
        with self._lock:
            self._active[job_id] = attempt
        if self._stopping.is_set():
            attempt.stop("drain")
        try:
            return {"outcome": attempt.run(durable).value}
        except StaleAttempt:
            return {"outcome": "stale"}
        except DatabaseError as error:
            LOG.error("the end of job %s is not written down, it goes on at the next start: %s", job_id, error.message)
            return {"outcome": "database failed"}
        except Exception as error:
            LOG.exception("job %s ended in an error that the program was not written for", job_id)
            self._give_up(attempt, error)
            return {"outcome": "failed"}
        finally:
            with self._lock:
                if self._active.get(job_id) is attempt:  # not a later one's
                    del self._active[job_id]
            self._room = True

    def _clean_up(self, context: WorkerContext, job_id: str, published: bool) -> None:
        """Called in a thread of its own, for a job that nobody works on. One whose files are published is completed
        once its source is as it was found, any other stays what it is. Never raises."""
        try:
            if published:
                JobStore(self._database).cancel(job_id)
                return
            claim = context.claims.claim_idle(job_id)
            if claim is not None:
                JobAttempt(context, claim, self._cancel.child()).cleanup_source()
        except (StaleAttempt, JobStateError):
            return  # somebody took it up
        except DatabaseError as error:
            LOG.warning("job %s: %s", job_id, error.message)
        except Exception:
            LOG.exception("job %s could not be cleaned up", job_id)

    def _give_up(self, attempt: JobAttempt, error: Exception) -> None:
        """The one funnel for the unexpected: the job fails with a code, the traceback goes to the daemon's log."""
        internal = error_dict(
            HyperSDKError(f"internal error: {type(error).__name__}", code=INTERNAL, remedies=(ReportBug(), Resume()))
        )
        try:
            attempt.written(JobEvent.FAIL, error=internal)
        except HyperSDKError as failed:
            LOG.error("job %s could not be marked as failed: %s", attempt.claim.job.id, failed.message)

    def _shared_of(self, identity: str) -> Callable[[str], RunResources]:
        def shared(site: str) -> RunResources:
            with self._lock:
                if site not in self._sites:
                    settings = self._settings
                    budget = SharedBudget(
                        self._database, identity, site, settings.streams_per_host, settings.streams_per_vcenter
                    )
                    self._renewal.add(budget)
                    self._sites[site] = self._shared.for_site(budget)
                return self._sites[site]

        return shared

    # Reporter and watch, in the worker's main thread

    def _work(
        self, engine: Engine, claims: Claims, heartbeat: Heartbeat, undoing: CancelRunner, alive: Callable[[], None]
    ) -> None:
        reconciler = Reconciler(self._database, engine, self._settings, self._run_settings.register)
        watch_every_s = self._settings.take_over_s / WATCH_PER_TAKE_OVER
        own = Own(claims, engine, self._working)
        next_report = next_watch = 0.0
        next_own = time.monotonic() + OWN_AFTER_S
        while not self._stopping.wait(REPORT_S):
            alive()
            if heartbeat.declared_dead:
                LOG.error("this worker was declared dead; it ends, and its supervisor starts a fresh one")
                return
            now = time.monotonic()
            due: list[Callable[[], object]] = [lambda: self._carry_requests(claims)]
            if self._room or now >= next_report:
                self._room = False
                next_report = now + 2 * REPORT_S
                due += [lambda: self._flush(claims), undoing.tick, engine.dispatch, self._renewal.tick]
            if now >= next_watch:
                next_watch = now + watch_every_s
                due += [lambda: self._judge(heartbeat, claims, engine), reconciler.run]
            if now >= next_own:
                next_own = now + OWN_S
                due.append(own.look)
            for step in due:
                alive()  # each may wait for a lock, half a minute long
                try:
                    step()
                except DatabaseError as error:
                    # Both databases say themselves that they cannot be used, once; what needs the one that can is done
                    # all the same. The engine's file is another one after a new start.
                    if error.code in (ENGINE_DAMAGED, ENGINE_GONE):
                        raise

    def _kept_by(self, engine: Engine) -> str:
        fault = self._database.outage.fault or engine.fault
        return "" if fault is None else fault.code

    def _judge(self, heartbeat: Heartbeat, claims: Claims, engine: Engine) -> None:
        if heartbeat.may_judge:
            for dead in declare_dead(self._database, take_over_s=self._settings.take_over_s):
                claims.release_undo(dead)
                engine.take_over(dead)

    def _working(self) -> Working:
        with self._lock:
            epochs: dict[str, int | None] = {_job_of(one): None for one in self._begun}
            epochs |= {job_id: attempt.claim.epoch for job_id, attempt in self._active.items()}
            return Working(frozenset(self._begun), epochs)

    def _carry_requests(self, claims: Claims) -> None:
        with self._lock:
            active = dict(self._active)
        for job_id, (request, keep) in claims.requests(list(active)).items():
            active[job_id].stop(request, keep_partial=keep)

    def _flush(self, claims: Claims) -> None:
        """Progress and logs of all jobs, in one transaction at most once a second each."""
        with self._lock:
            active = dict(self._active)
        changed = {job_id: now for job_id, attempt in active.items() if (now := attempt.progress.changed()) is not None}
        if changed:
            claims.write_progress({job_id: active[job_id].claim.epoch for job_id in changed}, changed)
        for job_id, told in changed.items():
            active[job_id].progress.saved(told)
        for attempt in active.values():
            with attempt.progress.taking_log() as lines:
                if lines:
                    claims.log(attempt.claim, lines)

    def _stop_jobs(self) -> None:
        with self._lock:
            active = list(self._active.values())
        for attempt in active:
            attempt.stop("drain")


class Working(NamedTuple):
    """What a process works on: attempts, and jobs with the epoch of each. None: it is just being claimed, or has just
    ended."""

    attempts: frozenset[str]
    epochs: Mapping[str, int | None]


class Own:
    """What rows and the engine say that this worker has, against what it has. A disk that was full keeps both from
    being told of an end; nobody else would ever look, since the worker lives. What is missing in several looks one
    after another is made good. For one thread."""

    def __init__(self, claims: Claims, engine: Engine, working: Callable[[], Working]) -> None:
        self._claims = claims
        self._engine = engine
        self._working = working
        self._rows: Counter[tuple[str, int]] = Counter()
        self._attempts: Counter[str] = Counter()

    def look(self) -> None:
        """One look. Raises DatabaseError."""
        held = self._claims.held()  # before what is worked on: what is claimed in between is no row yet
        epochs = self._working().epochs
        lost = {(job_id, epoch) for job_id, epoch in held.items() if epochs.get(job_id, -1) not in (None, epoch)}
        self._rows = Counter({one: self._rows[one] + 1 for one in lost})
        for job_id, epoch in [one for one, looks in self._rows.items() if looks >= LOOKS]:
            if (state := self._claims.put_back(job_id, epoch)) is not None:
                LOG.warning(
                    "job %s is recorded as held by this worker (epoch %d), which does not run it: it is %s now",
                    job_id,
                    epoch,
                    state,
                )
        begun = self._engine.begun()
        working = self._working().attempts
        self._attempts = Counter({one: self._attempts[one] + 1 for one in begun if one not in working})
        for workflow_id in [one for one, looks in self._attempts.items() if looks > LOOKS]:
            self._engine.give_up(workflow_id)
            self._claims.renew(_job_of(workflow_id), int(workflow_id.rpartition("/")[2]))


def _job_of(workflow_id: str) -> str:
    return workflow_id.rpartition("/")[0]


def _run_settings(settings: DaemonSettings, environ: Mapping[str, str]) -> RunSettings:
    min_free = MinFreeSpace(settings.datastore_min_free_percent / 100, settings.datastore_min_free_bytes)
    return RunSettings(
        streams_per_host=settings.streams_per_host,
        streams_per_vcenter=settings.streams_per_vcenter,
        bandwidth_limit=settings.bandwidth_limit,
        space_wait_s=settings.space_wait_s,
        min_free=min_free,
        progress_interval_s=0.5,
        state=settings.state_dir,
        # Where programs of the same user look that know nothing of this daemon's own state directory, too.
        registers=(state_folder(environ),),
    )


@contextmanager
def worker_id(state_dir: Path, index: int) -> Iterator[str]:
    """The stable id of worker ``index`` of this state directory, held for this process. Raises UsageError
    ``worker_id_held``."""
    path = state_dir / "workers" / f"{index}.id"
    with target_errors(f"opening {path}"):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 200, 0).decode("ascii", "replace").split()
            pid = holder[1] if len(holder) > 1 else "unknown"
            raise UsageError(f"worker {index} runs already, as process {pid}", code=WORKER_ID_HELD, pid=pid) from error
        found = os.pread(descriptor, 200, 0).decode("ascii", "replace").split()
        identity = found[0] if found and found[0].isalnum() else f"w{secrets.token_hex(8)}"
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{identity} {os.getpid()}\n".encode(), 0)
        os.fsync(descriptor)
        yield identity
    finally:
        os.close(descriptor)
