"""The durable engine (DBOS): one thin workflow for each attempt of a job, in a queue for each export root.

What was measured of it decides how it is used (docs/decisions): an executor id for each worker process, a protocol version instead
of a hash of our code, JSON instead of pickle, one step for the whole export of a machine, our own rows for cancel and pause. Only
workers know of it; the API writes rows, and the dispatcher of any worker hands them over within a second.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetEnqueueOptions, SetWorkflowID

from hypersdk.jobs.admission import Admission
from hypersdk.jobs.records import MAX_PRIORITY
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.state.database import Database, parse_url
from hypersdk.state.tables import jobs

LOG: Final = logging.getLogger(__name__)
PROTOCOL: Final = "1"
"""Of jobs, not of the product: attempts that were queued or running under another release go on. A change in the order of steps
goes through ``DBOS.patch``."""
NAME: Final = "hypersdk"
POLL_S: Final = 1.0
MAX_RECOVERIES: Final = 100
"""An attempt that killed its worker so often is given up."""
EXHAUSTED: Final = "MAX_RECOVERY_ATTEMPTS_EXCEEDED"
"""The engine's word for an attempt that it has given up."""
NUMBERS: Final = 1_000_000
Execute = Callable[[str, int], dict[str, Any]]

_execute: Execute | None = None


@DBOS.workflow(name="attempt", max_recovery_attempts=MAX_RECOVERIES)
def attempt(job_id: str, number: int) -> dict[str, Any]:
    """One attempt of a job. What comes after the export (convert, land, prove) will be steps behind it."""
    return export(job_id, number)


@DBOS.step(name="export")
def export(job_id: str, number: int) -> dict[str, Any]:
    """The export of one machine is one step: its lease covers all disks and cannot outlive the process."""
    assert _execute is not None
    return _execute(job_id, number)


class Engine:
    """The engine of one worker process. ``execute`` runs an attempt and returns a small record of how it ended; it raises nothing."""

    def __init__(
        self, settings: DaemonSettings, database: Database, worker_id: str, root_ids: Sequence[str], execute: Execute
    ) -> None:
        self._settings = settings
        self._database = database
        self._worker_id = worker_id
        self._roots = list(root_ids)
        self._execute = execute
        self._admission = Admission(database, settings, worker_id, root_ids)

    def launch(self) -> None:
        """Starts queues; attempts that this worker had when it died go on."""
        global _execute
        _execute = self._execute
        DBOS(config=self._config())
        DBOS.listen_queues([queue_of(root) for root in self._roots])
        DBOS.launch()
        for root in self._roots:
            DBOS.register_queue(
                queue_of(root),
                worker_concurrency=self._settings.jobs_per_worker,
                global_concurrency=self._settings.max_jobs or None,
                partition_concurrency=self._settings.jobs_per_site,
                polling_interval_sec=POLL_S,
                on_conflict="always_update",
            )

    def _config(self) -> DBOSConfig:
        config: DBOSConfig = {
            "name": NAME,
            "system_database_url": engine_url(self._settings),
            "executor_id": self._worker_id,
            "application_version": PROTOCOL,
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "WARNING",
            "console_log_level": "WARNING",
            # We send no notifications: listening for them would cost 100 wake-ups a second, looking now and then costs nothing.
            "use_listen_notify": False,
            "notification_listener_polling_interval_sec": 0.5,
            "scheduler_polling_interval_sec": 60.0,  # we have no schedules
        }
        return config

    def destroy(self, timeout_s: float) -> None:
        """Takes nothing new and waits for what runs; to be called when all has been told to stop."""
        DBOS.destroy(workflow_completion_timeout_sec=int(timeout_s))

    def dispatch(self) -> int:
        """Hands attempts that are due to the engine, as many as there is room for. Returns how many.

        A crash before the end of the transaction: they are handed over once more, under the same ids.
        """
        if not self._admission.is_due():
            return 0
        with self._database.write() as connection:
            taken = self._admission.take(connection)
            for one in taken:
                options = SetEnqueueOptions(priority=place_of(one.priority, one.number), queue_partition_key=one.site)
                with SetWorkflowID(f"{one.id}/{one.attempt}"), options:
                    DBOS.enqueue_workflow(queue_of(one.root_id), attempt, one.id, one.attempt)
                mine = sa.update(jobs).where(jobs.c.id == one.id, jobs.c.attempt == one.attempt)
                connection.execute(mine.values(enqueued=one.attempt))
        return len(taken)

    def take_over(self, dead_worker: str) -> list[str]:
        """Puts the attempts of a dead worker back into their queues; limits hold. Only for whoever declared it dead."""
        pending = DBOS.list_workflows(executor_id=dead_worker, status="PENDING", load_input=False, load_output=False)
        for workflow in pending:
            LOG.warning("attempt %s of the dead worker %s goes on elsewhere", workflow.workflow_id, dead_worker)
            DBOS.resume_workflow(workflow.workflow_id, queue_name=workflow.queue_name)
        return [workflow.workflow_id for workflow in pending]

    def ended(self, workflow_ids: Sequence[str]) -> dict[str, str]:
        """Of these attempts, those that the engine will not run any more, with its word for why; ``absent`` where it has none."""
        known = DBOS.list_workflows(workflow_ids=list(workflow_ids), load_input=False, load_output=False)
        states = {workflow.workflow_id: str(workflow.status) for workflow in known}
        going = ("ENQUEUED", "PENDING", "DELAYED")
        return {one: state for one in workflow_ids if (state := states.get(one, "absent")) not in going}

    def prune(self, job_ids: Sequence[str], before: float) -> None:
        """Forgets the attempts of jobs that are gone, and all that ended before that time."""
        prefixes = [f"{job_id}/" for job_id in job_ids]
        until = datetime.fromtimestamp(before, UTC).isoformat()
        found = DBOS.list_workflows(completed_before=until, load_input=False, load_output=False, limit=1000)
        if prefixes:
            found += DBOS.list_workflows(workflow_id_prefix=prefixes, load_input=False, load_output=False)
        if found:
            DBOS.delete_workflows(sorted({workflow.workflow_id for workflow in found}))


def place_of(priority: int, number: int) -> int:
    """The engine's priority, of which the lowest goes first: by ours, then in the order of submits. Its own clock counts whole seconds.

    Fits into 31 bits; after a million jobs the numbers begin again, and one in a million may be taken before its turn.
    """
    return (MAX_PRIORITY - priority) * NUMBERS + number % NUMBERS + 1


def queue_of(root_id: str) -> str:
    """The queue of an export root: only workers that see the root listen to it."""
    return f"exports-{root_id}"


def engine_url(settings: DaemonSettings) -> str:
    """Where the engine keeps its own tables: a second SQLite file, or a schema of its own in the same PostgreSQL database."""
    path = engine_file(settings)
    if path is None:
        return parse_url(settings.url).set(drivername="postgresql").render_as_string(hide_password=False)
    path.touch(mode=0o600)
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode=WAL")  # stays with the file; the engine does not set it
    finally:
        connection.close()
    return f"sqlite:///{path}"


def engine_file(settings: DaemonSettings) -> Path | None:
    """The engine's SQLite file, beside ours; None on PostgreSQL."""
    url = parse_url(settings.url)
    return Path(str(url.database)).with_name("engine.sqlite3") if url.get_backend_name() == "sqlite" else None
