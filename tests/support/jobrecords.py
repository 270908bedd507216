"""Job rows, for tests without workers."""

from __future__ import annotations

from dataclasses import replace

from hypersdk.errors import UsageError
from hypersdk.jobs.kinds.migrate import Export
from hypersdk.jobs.locks import folder_lock, machine_lock
from hypersdk.jobs.records import JobRecord, NewJob
from hypersdk.jobs.store import JobStore

WEB = NewJob(
    id=None,
    name="web",
    kind=Export.name,
    subject="/DC0/vm/web",
    target="/tmp/web",
    definition={"vm_path": "/DC0/vm/web", "format": "qcow2"},
    digest="0" * 64,
    endpoint_id=None,
    secret=None,
    site="vcenter.example.com:443",
    root_id="root",
    steps=Export.steps,
)


def new_job(**changes: object) -> NewJob:
    """An export, with the locks that it needs."""
    job = replace(WEB, **changes)  # type: ignore[arg-type]
    return replace(job, locks=(folder_lock(job.root_id, job.target), machine_lock(job.site, job.subject)))


def submit(store: JobStore, new: NewJob) -> JobRecord:
    """The job, new or stored before. Raises UsageError ``job_exists``."""
    (found,) = store.submit([new])
    if isinstance(found, UsageError):
        raise found
    return found
