"""The durable engine (DBOS): one workflow for each attempt of a job, in a queue for each place where jobs can run.

What was measured of it decides how it is used (docs/decisions): an executor id for each worker process, a protocol
version instead of a hash of our code, JSON instead of pickle, our own rows for cancel, pause and what users see of
steps. Only workers know of it; the API writes rows, and the dispatcher of any worker hands them over within a second.
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
"""Of jobs, not of the product: attempts that were queued or running under another release go on. A change in the order
of steps goes through ``DBOS.patch``."""
NAME: Final = "hypersdk"
POLL_S: Final = 1.0
MAX_RECOVERIES: Final = 100
"""An attempt that killed its worker so often is given up."""
EXHAUSTED: Final = "MAX_RECOVERY_ATTEMPTS_EXCEEDED"
"""The engine's word for an attempt that it has given up."""
BUSY_S: Final = 10
"""How long the engine waits for another writer of its file: attempts are handed over within a transaction of ours, in
which others wait."""
POOL_SIZE: Final = 20
Execute = Callable[[str, int, Durable], dict[str, Any]]

_execute: Execute | None = None


@DBOS.workflow(name="attempt", max_recovery_attempts=MAX_RECOVERIES)
def attempt(job_id: str, number: int) -> dict[str, Any]:
    """One attempt of a job. Its steps are steps of the engine, by the names that the job's kind gives them; to claim
    the job is not one, since whoever goes on with the attempt must claim it anew."""
    assert _execute is not None
    return _execute(job_id, number, _durable)


def _durable(name: str, act: Callable[[], bool]) -> bool:
    return DBOS.run_step({"name": name}, act)


class Engine:
    """The engine of one worker process. ``execute`` runs an attempt and returns a small record of how it ended; it
    raises nothing."""

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
        """Starts queues; attempts that this worker had when it died go on."""
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
        config: DBOSConfig = {
            "name": NAME,
            "system_database_url": self._tables.url,
            "system_database_engine": self._tables.engine,
            "executor_id": self._worker_id,
            "application_version": PROTOCOL,
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "WARNING",
            "console_log_level": "WARNING",
            # We send no notifications: listening for them would cost 100 wake-ups a second, looking now and then costs
            # nothing.
            "use_listen_notify": False,
            "notification_listener_polling_interval_sec": 0.5,
            "scheduler_polling_interval_sec": 60.0,  # we have no schedules
        }
        return config

    def destroy(self, timeout_s: float) -> None:
        """Takes nothing new and waits for what runs; to be called when all has been told to stop."""
        DBOS.destroy(workflow_completion_timeout_sec=int(timeout_s))
        logging.getLogger("dbos").removeFilter(self._tables.is_told)
        self._tables.engine.dispose()

    def dispatch(self) -> int:
        """Hands attempts that are due to the engine, as many as there is room for. Returns how many.

        A crash before the end of the transaction: they are handed over once more, under the same ids.
        """
        if not self._admission.is_due():
            return 0
        self._tables.check()  # here, where nobody waits for us
        with self._tables.translated(), self._database.write() as connection:
            taken = self._admission.take(connection)
            for due in taken:
                with SetWorkflowID(f"{due.id}/{due.attempt}"):
                    DBOS.enqueue_workflow(queue_of(due.root_id), attempt, due.id, due.attempt)
                mine = sa.update(jobs).where(jobs.c.id == due.id, jobs.c.attempt == due.attempt)
                connection.execute(mine.values(enqueued=due.attempt))
        return len(taken)

    def take_over(self, dead_worker: str) -> list[str]:
        """Puts the attempts of a dead worker back into their queues; limits hold. Only for whoever declared it dead."""
        with self._tables.translated():
            pending = DBOS.list_workflows(
                executor_id=dead_worker, status="PENDING", load_input=False, load_output=False
            )
            for workflow in pending:
                LOG.warning("attempt %s of the dead worker %s goes on elsewhere", workflow.workflow_id, dead_worker)
                DBOS.resume_workflow(workflow.workflow_id, queue_name=workflow.queue_name)
        return [workflow.workflow_id for workflow in pending]

    @property
    def fault(self) -> DatabaseError | None:
        """What is wrong just now with the engine's own tables."""
        return self._tables.outage.fault

    def begun(self) -> list[str]:
        """Attempts that this worker runs, as the engine has it."""
        if self._tables.outage.fault is not None:
            self._tables.check()
        with self._tables.translated():
            found = DBOS.list_workflows(
                executor_id=self._worker_id, status="PENDING", load_input=False, load_output=False
            )
        return [workflow.workflow_id for workflow in found]

    def give_up(self, workflow_id: str) -> None:
        """An attempt that this worker does not run, whatever the engine says, takes no place in a queue any more."""
        with self._tables.translated():
            DBOS.cancel_workflow(workflow_id)

    def ended(self, workflow_ids: Sequence[str]) -> dict[str, str]:
        """Of these attempts, those that the engine will not run any more, with its word for why; ``absent`` where it
        has none."""
        with self._tables.translated():
            known = DBOS.list_workflows(workflow_ids=list(workflow_ids), load_input=False, load_output=False)
        states = {workflow.workflow_id: str(workflow.status) for workflow in known}
        going = ("ENQUEUED", "PENDING", "DELAYED")
        return {one: state for one in workflow_ids if (state := states.get(one, "absent")) not in going}

    def prune(self, job_ids: Sequence[str], before: float) -> None:
        """Forgets the attempts of jobs that are gone, and all that ended before that time."""
        prefixes = [f"{job_id}/" for job_id in job_ids]
        until = datetime.fromtimestamp(before, UTC).isoformat()
        with self._tables.translated():
            found = DBOS.list_workflows(completed_before=until, load_input=False, load_output=False, limit=1000)
            if prefixes:
                found += DBOS.list_workflows(workflow_id_prefix=prefixes, load_input=False, load_output=False)
            if found:
                DBOS.delete_workflows(sorted({workflow.workflow_id for workflow in found}))


class Tables:
    """Where the engine keeps its own tables: a second SQLite file, or a schema of its own in the same PostgreSQL
    database. Connections are ours, so that what is wrong with them reaches us as it does for our own: the library would
    wait for up to 90 s between two tries, whoever asked, and log each of them."""

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
        if context.is_pre_ping:  # a connection of before the server's restart, which the pool replaces by itself
            return
        error = context.sqlalchemy_exception or context.original_exception
        if not is_conflict(error) and (fault := engine_fault_of(error, self.path)) is not None:
            self.outage.failed(fault, writing=True)
            raise fault from context.original_exception

    def _committed(self, connection: sa.Connection) -> None:
        self.outage.succeeded(writing=bool(connection.info.pop("wrote", False)))

    @contextmanager
    def translated(self) -> Iterator[None]:
        """The same for what goes wrong outside of a statement. Raises DatabaseError."""
        try:
            yield
        except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
            if (fault := engine_fault_of(error, self.path)) is None:
                raise
            self.outage.failed(fault, writing=True)
            raise fault from error

    def check(self) -> None:
        """Raises DatabaseError where the file cannot be written now, found out by a write where it could not be written
        before; PostgreSQL is the database that we have just asked."""
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
        """Whether a record of the library goes into the log: in an outage it says of each call what is said once
        already."""
        return self.outage.fault is None


def _limit_idle(connection: Any, _record: object) -> None:
    """A worker that is stopped in the middle of a transaction holds its locks for a minute, as with the library's own
    connections."""
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
