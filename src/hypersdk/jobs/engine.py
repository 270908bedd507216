"""The durable engine (DBOS): one workflow for each attempt of a job, in a queue for each place where jobs can run.

How it is used follows from measurements (docs/decisions): an executor id for each worker process, a protocol version
instead of a hash of our code, JSON instead of pickle, our own rows for cancel, pause and the steps that users see. Only
workers use it; the API writes rows, which some worker dispatches to the engine within a second.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID

from hypersdk.jobs.admission import Admission
from hypersdk.jobs.attempt import Durable
from hypersdk.jobs.enginecopy import engine_fault_of, engine_file
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.state.database import Database, DatabaseError, connect_args, parse_url, sqlite_engine
from hypersdk.state.faults import Outage, fault_of_file, is_conflict
from hypersdk.state.tables import jobs

LOG: Final = logging.getLogger(__name__)
PROTOCOL: Final = "1"
"""Version of the workflow, not of the product: attempts that another release queued or started continue. To change the
order of steps, use ``DBOS.patch``."""
NAME: Final = "hypersdk"
POLL_S: Final = 1.0
MAX_RECOVERIES: Final = 100
"""An attempt that killed its worker this often is not started again."""
EXHAUSTED: Final = "MAX_RECOVERY_ATTEMPTS_EXCEEDED"
"""The engine's status of an attempt that is not started again."""
BUSY_S: Final = 10
"""How long the engine waits for another writer of its file. Attempts are dispatched within a transaction of ours, for
which others wait."""
POOL_SIZE: Final = 20
Execute = Callable[[str, int, Durable], dict[str, Any]]

_execute: Execute | None = None


@DBOS.workflow(name="attempt", max_recovery_attempts=MAX_RECOVERIES)
def attempt(job_id: str, number: int) -> dict[str, Any]:
    """One attempt of a job. Its steps are steps of the engine. The claim is not: a worker that resumes the attempt must
    claim the job again."""
    assert _execute is not None
    return _execute(job_id, number, _durable)


def _durable(name: str, act: Callable[[], bool]) -> bool:
    return DBOS.run_step({"name": name}, act)


class Engine:
    """The engine of one worker process. ``execute`` runs an attempt and returns its outcome; it raises nothing."""

    def __init__(
        self, settings: DaemonSettings, database: Database, worker_id: str, root_ids: Sequence[str], execute: Execute
    ) -> None:
        self._settings = settings
        self._database = database
        self._worker_id = worker_id
        self._roots = list(root_ids)
        self._execute = execute
        self._admission = Admission(database, settings, worker_id, root_ids)
        self._tables = Tables(settings)

    def launch(self) -> None:
        """Starts the queues and resumes the attempts that this worker ran when it died."""
        global _execute
        _execute = self._execute
        logging.getLogger("dbos").addFilter(self._tables.is_told)
        with self._tables.translated():
            DBOS(config=self._config())
            DBOS.listen_queues([queue_of(root) for root in self._roots])
            DBOS.launch()
            for root in self._roots:
                DBOS.register_queue(
                    queue_of(root),
                    worker_concurrency=self._settings.jobs_per_worker,  # all other limits: see admission
                    polling_interval_sec=POLL_S,
                    on_conflict="always_update",
                )

    def _config(self) -> DBOSConfig:
        return {
            "name": NAME,
            "system_database_url": self._tables.url,
            "system_database_engine": self._tables.engine,
            "executor_id": self._worker_id,
            "application_version": PROTOCOL,
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "WARNING",
            "console_log_level": "WARNING",
            # We send no notifications. Listening would cost 100 wake-ups a second, polling costs nothing.
            "use_listen_notify": False,
            "notification_listener_polling_interval_sec": 0.5,
            "scheduler_polling_interval_sec": 60.0,  # we have no schedules
        }

    def destroy(self, timeout_s: float) -> None:
        """Stops the queues and waits for running attempts, which have been told to stop."""
        DBOS.destroy(workflow_completion_timeout_sec=int(timeout_s))
        logging.getLogger("dbos").removeFilter(self._tables.is_told)
        self._tables.engine.dispose()

    def dispatch(self) -> None:
        """Enqueues due attempts in the engine, as many as there is room for.

        After a crash before the end of the transaction they are enqueued once more, under the same ids.
        """
        if not self._admission.is_due():
            return
        self._tables.check()  # before the transaction, for which others would wait
        with self._tables.translated(), self._database.write() as connection:
            for due in self._admission.take(connection):
                with SetWorkflowID(f"{due.id}/{due.attempt}"):
                    DBOS.enqueue_workflow(queue_of(due.root_id), attempt, due.id, due.attempt)
                mine = sa.update(jobs).where(jobs.c.id == due.id, jobs.c.attempt == due.attempt)
                connection.execute(mine.values(enqueued=due.attempt))

    def take_over(self, dead_worker: str) -> None:
        """Puts the attempts of a dead worker back into their queues. Only for the worker that declared it dead."""
        with self._tables.translated():
            pending = DBOS.list_workflows(
                executor_id=dead_worker, status="PENDING", load_input=False, load_output=False
            )
            for workflow in pending:
                LOG.warning("attempt %s of the dead worker %s continues elsewhere", workflow.workflow_id, dead_worker)
                DBOS.resume_workflow(workflow.workflow_id, queue_name=workflow.queue_name)

    @property
    def fault(self) -> DatabaseError | None:
        """The current outage of the engine's own tables, if any."""
        return self._tables.outage.fault

    def begun(self) -> list[str]:
        """Attempts that this worker runs, according to the engine."""
        if self._tables.outage.fault is not None:
            self._tables.check()
        with self._tables.translated():
            found = DBOS.list_workflows(
                executor_id=self._worker_id, status="PENDING", load_input=False, load_output=False
            )
        return [workflow.workflow_id for workflow in found]

    def give_up(self, workflow_id: str) -> None:
        """Removes from its queue an attempt that the engine lists as running here, but does not run."""
        with self._tables.translated():
            DBOS.cancel_workflow(workflow_id)

    def ended(self, workflow_ids: Sequence[str]) -> dict[str, str]:
        """Those of the attempts that the engine will not run, with its status of each; ``absent`` if it does not know
        the attempt."""
        with self._tables.translated():
            known = DBOS.list_workflows(workflow_ids=list(workflow_ids), load_input=False, load_output=False)
        states = {workflow.workflow_id: str(workflow.status) for workflow in known}
        going = ("ENQUEUED", "PENDING", "DELAYED")
        return {attempt: state for attempt in workflow_ids if (state := states.get(attempt, "absent")) not in going}

    def prune(self, job_ids: Sequence[str], before: float) -> None:
        """Deletes the attempts of deleted jobs, and all that ended before that time."""
        prefixes = [f"{job_id}/" for job_id in job_ids]
        until = datetime.fromtimestamp(before, UTC).isoformat()
        with self._tables.translated():
            found = DBOS.list_workflows(completed_before=until, load_input=False, load_output=False, limit=1000)
            if prefixes:
                found += DBOS.list_workflows(workflow_id_prefix=prefixes, load_input=False, load_output=False)
            if found:
                DBOS.delete_workflows(sorted({workflow.workflow_id for workflow in found}))


class Tables:
    """The engine's own tables: a second SQLite file, or a schema in the same PostgreSQL database. The connections are
    ours, so that their errors are handled as those of our own tables: the library would retry with waits of up to 90 s,
    and log each try."""

    def __init__(self, settings: DaemonSettings) -> None:
        self.path: Final = engine_file(settings)
        self.outage: Final = Outage("the job engine's database", tell=True)
        if self.path is not None:
            try:
                self.path.touch(mode=0o600)
            except OSError as error:
                raise fault_of_file(error, self.path) from error
            self.engine = sqlite_engine(
                self.path, "journal_mode=WAL", "foreign_keys=ON", isolation_level="IMMEDIATE", busy_s=BUSY_S
            )
        else:
            url = parse_url(settings.url)
            self.engine = sa.create_engine(
                url,
                pool_size=POOL_SIZE,
                max_overflow=0,
                pool_pre_ping=True,
                connect_args={"application_name": "dbos_transact", **connect_args(url)},
            )
            if "options" not in url.query:
                sa.event.listen(self.engine, "connect", _limit_idle)
        self.url: Final = self.engine.url.render_as_string(hide_password=False)
        sa.event.listen(self.engine, "handle_error", self._failed)
        sa.event.listen(self.engine, "after_cursor_execute", _executed)
        sa.event.listen(self.engine, "commit", self._committed)

    def _failed(self, context: sa.engine.ExceptionContext) -> None:
        if context.is_pre_ping:  # of a connection that a server restart closed: the pool replaces it
            return
        error = context.sqlalchemy_exception or context.original_exception
        if not is_conflict(error) and (fault := engine_fault_of(error, self.path)) is not None:
            self.outage.failed(fault, writing=True)
            raise fault from context.original_exception

    def _committed(self, connection: sa.Connection) -> None:
        self.outage.succeeded(writing=bool(connection.info.pop("wrote", False)))

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Translates errors outside of a statement. Raises DatabaseError."""
        try:
            yield
        except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
            if (fault := engine_fault_of(error, self.path)) is None:
                raise
            self.outage.failed(fault, writing=True)
            raise fault from error

    def check(self) -> None:
        """Raises DatabaseError if the file cannot be locked for writing or, during an outage, cannot be written. On
        PostgreSQL, it is the database that was used just before."""
        failed = self.outage.fault is not None
        with self.translated(), self.engine.connect() as connection:
            if self.path is not None:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            if failed and self.path is not None:
                version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
                connection.exec_driver_sql(f"PRAGMA user_version={version:d}")
                connection.exec_driver_sql("COMMIT")
        if failed:
            self.outage.succeeded(writing=True)

    def is_told(self, _record: logging.LogRecord) -> bool:
        """Whether to log a record of the library: during an outage it logs an error for each call."""
        return self.outage.fault is None


def _limit_idle(connection: Any, _record: object) -> None:
    """Limits how long a worker that is stopped within a transaction holds its locks, as the library's own connections
    do."""
    with connection.cursor() as cursor:
        cursor.execute("SET idle_in_transaction_session_timeout = 60000")
    connection.commit()


def _executed(
    connection: sa.Connection, _cursor: object, _statement: str, _given: object, context: Any, _many: bool
) -> None:
    if context is not None and (context.isinsert or context.isupdate or context.isdelete):
        connection.info["wrote"] = True


def queue_of(root_id: str) -> str:
    """The queue of an export root: only workers that see the root listen to it."""
    return f"exports-{root_id}"
