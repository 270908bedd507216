"""Locks of jobs: names of what a job needs for itself while a worker has it. Admission only compares the names.

::

    folder:ROOT_ID/PATH     the folder below an export root that it writes to
    machine:SITE/PATH       the machine that it reads, on the vCenter or ESXi host at SITE (host:port)
    domain:TARGET/NAME      the domain that it defines, at the libvirt with that endpoint's id or address
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Final

import sqlalchemy as sa

from hypersdk.errors import register
from hypersdk.jobs.states import HELD
from hypersdk.remedies import Look
from hypersdk.state.tables import jobs, locks

FOLDER_BUSY: Final = register(
    "folder_busy",
    "Another job is using the same folder.",
    "Nothing needs to be done: the job starts when that one has finished. A folder holds one export; otherwise cancel"
    " this job and submit it with another `output_path`.",
)
MACHINE_BUSY: Final = register(
    "machine_exported",
    "Another job of this daemon is exporting the same machine.",
    "Nothing needs to be done: the job starts when that one has finished.",
    Look("jobs"),
)
LOCK_BUSY: Final = register(
    "lock_busy",
    "Another job is using the same object.",
    "Nothing needs to be done: the job starts when that one has finished.",
    Look("jobs"),
)
FOLDER: Final = "folder"
MACHINE: Final = "machine"
DOMAIN: Final = "domain"
_CODES: Final = {FOLDER: FOLDER_BUSY, MACHINE: MACHINE_BUSY}
BUSY: Final = frozenset({*_CODES.values(), LOCK_BUSY})
"""Codes of a queued job that waits for a lock."""
HELD_BY_WORKER: Final = sa.and_(jobs.c.state.in_([state.value for state in HELD]), jobs.c.worker_id.is_not(None))
"""Condition: a worker has the job."""


def folder_lock(root_id: str, path: str) -> str:
    """The same name for all spellings of a folder."""
    return f"{FOLDER}:{root_id}/{PurePosixPath(path)}"


def machine_lock(site: str, path: str) -> str:
    """``site`` is host:port of the vCenter or ESXi host."""
    return f"{MACHINE}:{site}/{path}"


def domain_lock(target: str, name: str) -> str:
    """``target`` is the endpoint's id, or an address of libvirt."""
    return f"{DOMAIN}:{target}/{name}"


def busy_code(names: Iterable[str]) -> str:
    """The code for a job that waits for these locks, by the first of them."""
    return _CODES.get(next(iter(names)).partition(":")[0], LOCK_BUSY)


def locks_of(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> Mapping[str, list[str]]:
    """Names of the locks of the jobs that meet the conditions, sorted, by job."""
    found: dict[str, list[str]] = {}
    query = sa.select(locks.c.job_id, locks.c.name).join(jobs, jobs.c.id == locks.c.job_id).where(*conditions)
    for job_id, name in connection.execute(query.order_by(locks.c.name)):
        found.setdefault(job_id, []).append(name)
    return found


def conflicting_job(connection: sa.Connection, job_id: str) -> str | None:
    """Another job that a worker has and that holds one of this job's locks. A machine's lock does not count here: a job
    is admitted only if that is free, and undoing changes must not wait until another copy has ended."""
    mine = sa.select(locks.c.name).where(locks.c.job_id == job_id, locks.c.name.not_like(f"{MACHINE}:%"))
    others = sa.select(jobs.c.id).join(locks, locks.c.job_id == jobs.c.id)
    query = others.where(locks.c.name.in_(mine), jobs.c.id != job_id, HELD_BY_WORKER).limit(1)
    return connection.execute(query).scalar()
