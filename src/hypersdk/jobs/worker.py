"""A worker process: its identity, its heartbeat, the engine, and a main loop that exchanges requests and progress.

::

    engine thread (one per job)    claim ─> steps ─> end
    heartbeat                      every 2 s
    main loop                      every 0.5 s: cancel and pause requests
                                   every second: progress and logs to the database, due attempts to the engine
                                   every 2 s: jobs and attempts that are recorded as running here, but are not
                                   every few seconds: dead workers, attempts that the engine lost, old rows
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from hypersdk.access.endpoints import EndpointStore
from hypersdk.access.vault import Vault
from hypersdk.config.folders import state_folder
from hypersdk.errors import INTERNAL, HyperSDKError, UsageError
from hypersdk.guest.tools import find_tools
from hypersdk.jobs.attempt import Durable, JobAttempt, not_durable
from hypersdk.jobs.budget import SharedBudget
from hypersdk.jobs.cancelrunner import CancelRunner
from hypersdk.jobs.claims import Claims, StaleAttempt
from hypersdk.jobs.engine import Engine
from hypersdk.jobs.enginecopy import ENGINE_DAMAGED, ENGINE_GONE, copy_before_upgrade, replace_damaged
from hypersdk.jobs.heartbeat import Heartbeat, declare_dead
from hypersdk.jobs.kinds.base import WorkerContext
from hypersdk.jobs.login import EndpointResolver
from hypersdk.jobs.reconcile import Reconciler
from hypersdk.jobs.roots import ExportRoots
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.jobs.sizes import QueueSizes
from hypersdk.jobs.states import JobEvent, JobStateError
from hypersdk.jobs.store import JobStore
from hypersdk.jobs.workerfault import WORKER_ID_HELD
from hypersdk.landing.steps import GuestTurn
from hypersdk.migration.preflight import MinFreeSpace
from hypersdk.migration.settings import RunResources, RunSettings
from hypersdk.remedies import ReportBug, Resume
from hypersdk.state.database import Database, DatabaseError
from hypersdk.transfer.cancel import CancelToken, SignalFlag
from hypersdk.transfer.files import target_errors

LOG: Final = logging.getLogger(__name__)
REPORT_S: Final = 0.5
WATCH_PER_TAKE_OVER: Final = 4
LOST_S: Final = 2.0
LOOKS: Final = 2
LOST_AFTER_S: Final = 10.0
"""The engine has this long after a start to resume what the worker ran before."""
UNDO_S: Final = 10.0
"""How long an undo may still take after everything else has ended."""


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
        """How many threads of this process run each attempt, from before the claim until after the end."""
        self._lock = threading.Lock()
        self._run_settings = _run_settings(settings, environ)
        self._shared = RunResources(self._run_settings)
        self._sites: dict[str, RunResources] = {}
        self._budgets: list[SharedBudget] = []
        self._room = False
        """Whether a job has just ended: the next one is dispatched at once."""

    def stop(self) -> None:
        """Ends the worker: it takes no new job, and running ones go back into the queue at a checkpoint.
        Signal-safe."""
        self._stopping.set()

    def run(
        self, index: int, *, ready: Callable[[], None] = lambda: None, alive: Callable[[str], None] = lambda _: None
    ) -> None:
        """Runs the worker until ``stop``. ``index`` numbers the workers of this state directory; ``ready`` is called
        once it takes jobs, ``alive`` in each turn of its main loop, with the code of the error that keeps it from its
        work. Raises HyperSDKError if it cannot start."""
        settings = self._settings
        roots = ExportRoots(settings.roots)
        take_over_s = settings.take_over_s
        with (
            worker_id(settings.state_dir, index) as identity,
            Heartbeat(
                self._database, identity, roots.ids, beat_s=min(2.0, take_over_s / 10), take_over_s=take_over_s
            ) as heartbeat,
        ):
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
                QueueSizes(self._database),
                GuestTurn(find_tools(self._environ), settings.conversions_per_worker, self._shared.space),
                self._stopping.wait,
            )
            engine = Engine(
                settings,
                self._database,
                identity,
                roots.ids,
                lambda job, n, durable: self._attempt(context, job, n, durable),
            )
            claims.release_undo(identity)  # left by a killed process with this identity
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
                self._stopping.set()  # also if it ends by itself: ends all waiting for the database
                heartbeat.draining()
                self._stop_jobs()
                engine.destroy(settings.drain_s)
                undoing.join(UNDO_S)
                with suppress(DatabaseError):  # which is logged; the next attempt continues without these lines
                    self._flush(claims)

    # Jobs

    def _attempt(
        self, context: WorkerContext, job_id: str, number: int, durable: Durable = not_durable, *, free: bool = False
    ) -> dict[str, Any]:
        """Called in a thread of its own, by the engine or, with ``free``, to undo. Raises nothing expected."""
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
            LOG.error("job %s could not be claimed: %s", job_id, error.message)
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
            LOG.error("the end of job %s was not stored, it continues at the next start: %s", job_id, error.message)
            return {"outcome": "database failed"}
        except Exception as error:
            LOG.exception("job %s ended with an unexpected error", job_id)
            self._give_up(attempt, error)
            return {"outcome": "failed"}
        finally:
            with self._lock:
                if self._active.get(job_id) is attempt:  # not a later one's
                    del self._active[job_id]
            self._room = True

    def _clean_up(self, context: WorkerContext, job_id: str, published: bool) -> None:
        """Called in a thread of its own, for an idle job with changes at its source. If its files are published, it is
        completed by way of a cancel; otherwise its state stays. Never raises."""
        try:
            if published:
                JobStore(self._database).cancel(job_id)
                return
            claim = context.claims.claim_idle(job_id)
            if claim is not None:
                JobAttempt(context, claim, self._cancel.child()).cleanup_source()
        except (StaleAttempt, JobStateError):
            return  # it was claimed meanwhile
        except DatabaseError as error:
            LOG.warning("job %s: %s", job_id, error.message)
        except Exception:
            LOG.exception("job %s could not be cleaned up", job_id)

    def _give_up(self, attempt: JobAttempt, error: Exception) -> None:
        """After an unexpected error, whose traceback is in the daemon's log: the job fails with a code."""
        message = f"internal error: {type(error).__name__}"
        internal = HyperSDKError(message, code=INTERNAL, remedies=(ReportBug(), Resume()))
        try:
            attempt.store_end(JobEvent.FAIL, error=internal)
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
                    self._budgets.append(budget)
                    self._sites[site] = self._shared.for_site(budget)
                return self._sites[site]

        return shared

    # The main loop

    def _work(
        self, engine: Engine, claims: Claims, heartbeat: Heartbeat, undoing: CancelRunner, alive: Callable[[], None]
    ) -> None:
        reconciler = Reconciler(self._database, engine, self._settings, self._run_settings.register)
        watch_every_s = self._settings.take_over_s / WATCH_PER_TAKE_OVER
        lost = LostAttempts(claims, engine, self._running)
        next_report = next_watch = 0.0
        next_lost = time.monotonic() + LOST_AFTER_S
        while not self._stopping.wait(REPORT_S):
            alive()
            if heartbeat.declared_dead:
                LOG.error("this worker was declared dead; it ends, and its supervisor starts a new one")
                return
            now = time.monotonic()
            due: list[Callable[[], object]] = [lambda: self._carry_requests(claims)]
            if self._room or now >= next_report:
                self._room = False
                next_report = now + 2 * REPORT_S
                due += [lambda: self._flush(claims), undoing.tick, engine.dispatch, self._renew_streams]
            if now >= next_watch:
                next_watch = now + watch_every_s
                due += [lambda: self._judge(heartbeat, claims, engine), reconciler.run]
            if now >= next_lost:
                next_lost = now + LOST_S
                due.append(lost.look)
            for step in due:
                alive()  # each may wait for a lock, half a minute long
                try:
                    step()
                except DatabaseError as error:
                    # Each database logs its outage once; steps that need only the other one are still done. A lost
                    # engine file is replaced by a new start of the worker.
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

    def _running(self) -> Running:
        with self._lock:
            epochs: dict[str, int | None] = {_job_of(attempt): None for attempt in self._begun}
            epochs |= {job_id: attempt.claim.epoch for job_id, attempt in self._active.items()}
            return Running(frozenset(self._begun), epochs)

    def _carry_requests(self, claims: Claims) -> None:
        with self._lock:
            active = dict(self._active)
        for job_id, (request, keep) in claims.requests(list(active)).items():
            active[job_id].stop(request, keep_partial=keep)

    def _flush(self, claims: Claims) -> None:
        """Stores progress and logs of all jobs, in one transaction."""
        with self._lock:
            active = list(self._active.values())
        with ExitStack() as stack:
            claims.save(*(stack.enter_context(attempt.progress.unsaved(attempt.claim)) for attempt in active))

    def _renew_streams(self) -> None:
        with self._lock:
            budgets = list(self._budgets)
        for budget in budgets:
            budget.renew()

    def _stop_jobs(self) -> None:
        with self._lock:
            active = list(self._active.values())
        for attempt in active:
            attempt.stop("drain")


class Running(NamedTuple):
    """The attempts that a process runs, and their jobs with the epoch of each; None while the job is being claimed, or
    has just ended."""

    attempts: frozenset[str]
    epochs: Mapping[str, int | None]


class LostAttempts:
    """Compares what the database and the engine record as running here with what runs. A full disk can keep both from
    storing an end, and nobody else takes over the job, since the worker lives. What does not run in several looks in a
    row is requeued. For one thread."""

    def __init__(self, claims: Claims, engine: Engine, running: Callable[[], Running]) -> None:
        self._claims = claims
        self._engine = engine
        self._running = running
        self._rows: Counter[tuple[str, int]] = Counter()
        self._attempts: Counter[str] = Counter()

    def look(self) -> None:
        """One look. Raises DatabaseError."""
        held = self._claims.held()  # first: a job that is claimed in between is not in it
        epochs = self._running().epochs
        lost = {(job_id, epoch) for job_id, epoch in held.items() if epochs.get(job_id, -1) not in (None, epoch)}
        self._rows = Counter({row: self._rows[row] + 1 for row in lost})
        for job_id, epoch in [row for row, looks in self._rows.items() if looks >= LOOKS]:
            if (state := self._claims.requeue_lost(job_id, epoch)) is not None:
                LOG.warning(
                    "job %s is recorded as held by this worker (epoch %d), which does not run it: it is %s now",
                    job_id,
                    epoch,
                    state,
                )
        begun = self._engine.begun()  # also first
        working = self._running().attempts
        self._attempts = Counter({attempt: self._attempts[attempt] + 1 for attempt in begun if attempt not in working})
        for workflow_id in [attempt for attempt, looks in self._attempts.items() if looks > LOOKS]:
            self._engine.give_up(workflow_id)
            self._claims.requeue_unstarted(_job_of(workflow_id), int(workflow_id.rpartition("/")[2]))


def run_worker(
    settings: DaemonSettings,
    index: int,
    environ: Mapping[str, str],
    *,
    ready: Callable[[], None],
    alive: Callable[[str], None] = lambda _: None,
) -> int:
    """Runs worker ``index`` until SIGTERM or SIGINT, with ``ready`` and ``alive`` of ``Worker.run``. Returns the exit
    status.

    Raises HyperSDKError if it cannot start.
    """
    database = Database.open(settings.url)
    database.outage.tell = True
    try:
        database.upgrade(make=False)
        replace_damaged(settings)
        copy_before_upgrade(settings, database)
        worker = Worker(settings, database, environ)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stop())
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # meant for the API's certificate
        worker.run(index, ready=ready, alive=alive)
    finally:
        database.close()
    return 0


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
        # Also in the register where this user's other programs look.
        registers=(state_folder(environ),),
    )


@contextmanager
def worker_id(state_dir: Path, index: int) -> Iterator[str]:
    """The stable id of worker ``index`` of this state directory, locked for this process. Raises UsageError
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
