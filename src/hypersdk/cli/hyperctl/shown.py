"""How hyperctl shows jobs and other records: tables, whose titles and words programs parse, and the details of one
job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeVar

from hypersdk.cli.text import clean
from hypersdk.resource import ListRecord, table_of
from hypersdk.units import format_duration, format_size

if TYPE_CHECKING:
    from rich.text import Text

    from hypersdk.cli.columns import Cell
    from hypersdk.client import Job
    from hypersdk.jobs.records import StepColumns

STATUS_STYLES: Final = {
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "running": "cyan",
    "pending": "dim",
}
Facts = Sequence[tuple[str, str]]
R = TypeVar("R", bound=ListRecord)


def status_text(job: Job) -> str:
    """One of the five legacy words, followed by the daemon's own state where that is more precise."""
    same = job.state in (job.status, "queued")
    return job.status if same else f"{job.status} ({job.state})"


def progress_text(job: Job) -> str:
    """``phase (x.x%)``."""
    return f"{clean(job.progress.phase, 40)} ({job.progress.percent_complete:.1f}%)"


def step_text(step: StepColumns) -> str:
    """``copy: done, took 3 min``."""
    if step.started_at is None:
        return f"{step.name}: {step.state}"
    if step.ended_at is None:
        return f"{step.name}: {step.state} since {moment_text(step.started_at)}"
    took = format_duration((step.ended_at - step.started_at).total_seconds())
    return f"{step.name}: {step.state}, took {took}"


def moment_text(moment: datetime | None) -> str:
    """In local time, to the second."""
    return "-" if moment is None else f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def table(records: Sequence[R], kind: type[R], width: int | None, **cells: Callable[[R], Cell]) -> Text:
    """Records of one kind, a line each, with the columns that are declared for it. ``cells`` are those that say more
    than the value of their field."""
    from hypersdk.cli.columns import Column, lay_out

    named = table_of(kind)
    columns = [Column(cell.title, least=cell.least, optional=cell.optional) for _, cell in named]
    rows = [
        [
            cells[name](record) if name in cells else (value_text(getattr(record, name)), cell.style)
            for name, cell in named
        ]
        for record in records
    ]
    return lay_out(columns, rows, width)


def value_text(value: object) -> str:
    """A value of a record for people, in one line."""
    if isinstance(value, datetime) or value is None:
        return moment_text(value)
    if isinstance(value, bool):
        return "yes" if value else ""
    return clean(str(value), 400)


def jobs_table(jobs: Sequence[Job], width: int | None) -> Text:
    """The table of ``hyperctl query``."""
    from hypersdk.client import Job

    return table(
        jobs,
        Job,
        width,
        state=lambda job: (status_text(job), STATUS_STYLES.get(job.status, "")),
        progress=lambda job: (progress_text(job), ""),
        started_at=lambda job: (moment_text(job.started_at), "dim" if job.started_at is None else ""),
    )


def facts_table(facts: Facts) -> Text:
    """Labels and values, one pair per line."""
    from hypersdk.cli.columns import Column, lay_out

    rows = [((label, "bold"), (clean(value, 4096), "")) for label, value in facts]
    body = lay_out((Column(""), Column("")), rows, None)
    _, *lines = body.split("\n")
    return type(body)("\n", no_wrap=True).join(lines)


def job_facts(job: Job) -> Iterator[tuple[str, str]]:
    """The details that ``hyperctl get`` prints."""
    yield "Job ID", job.id
    yield "Name", job.name
    yield ("VM Path" if job.vm_path else "Subject"), job.subject
    yield ("Output" if job.output_path else "Target"), job.target
    yield ("Format", job.format) if job.format else ("Kind", job.kind)
    yield "Status", status_text(job)
    if job.waiting:
        yield "Waits for", job.waiting
    yield "Progress", progress_text(job)
    yield from _amounts(job)
    for number, step in enumerate(job.steps):
        yield ("Steps" if number == 0 else ""), step_text(step)
    yield "Attempt", str(job.attempt)
    yield "Submitted", moment_text(job.created_at)
    yield "Started", moment_text(job.started_at)
    if job.completed_at is not None:
        yield "Ended", moment_text(job.completed_at)
        if job.started_at is not None:
            yield "Took", format_duration((job.completed_at - job.started_at).total_seconds())
    yield from _outcome(job)


def _amounts(job: Job) -> Iterator[tuple[str, str]]:
    progress = job.progress
    if progress.total_bytes:
        yield "Received", f"{format_size(progress.bytes_downloaded)} of disks with {format_size(progress.total_bytes)}"
    if not job.ended and progress.rate_bytes_s:
        yield "Rate", f"{format_size(progress.rate_bytes_s)}/s"
    if not job.ended and progress.eta_s is not None:
        yield "Left", format_duration(progress.eta_s)
    if not job.ended and progress.note:
        yield "Note", progress.note


def _outcome(job: Job) -> Iterator[tuple[str, str]]:
    for number, name in enumerate(job.files):
        yield ("Files" if number == 0 else ""), name
    if job.error is not None:
        for label, key in (("Error", "message"), ("Cause", "cause"), ("Next", "next_step"), ("Code", "code")):
            if text := job.error.get(key):
                yield label, str(text)
