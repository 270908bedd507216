"""Jobs as hyperctl shows them: rows of a table whose titles and words programs read, and a sheet of one job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from hypersdk.cli.text import clean
from hypersdk.units import format_duration, format_size

if TYPE_CHECKING:
    from rich.text import Text

    from hypersdk.cli.columns import Cell
    from hypersdk.client import Job

STATUS_STYLES: Final = {
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "running": "cyan",
    "pending": "dim",
}
Facts = Sequence[tuple[str, str]]


def status_text(job: Job) -> str:
    """One of the five words that programs know, with the daemon's own word behind it where that says more."""
    same = job.state in (job.status, "queued")
    return job.status if same else f"{job.status} ({job.state})"


def progress_text(job: Job) -> str:
    """``phase (x.x%)``."""
    return f"{clean(job.progress.phase, 40)} ({job.progress.percent_complete:.1f}%)"


def moment_text(moment: datetime | None) -> str:
    """In the zone of whoever reads it, to the second."""
    return "-" if moment is None else f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def jobs_table(jobs: Sequence[Job], width: int | None) -> Text:
    """The table of ``hyperctl query``."""
    from hypersdk.cli.columns import Column, lay_out

    columns = (
        Column("Job ID"),
        Column("Name", least=12),
        Column("VM Path", least=12, optional=True),
        Column("Status"),
        Column("Progress"),
        Column("Started", optional=True),
    )
    return lay_out(columns, [_row(job) for job in jobs], width)


def _row(job: Job) -> list[Cell]:
    return [
        (clean(job.id, 128), "bold"),
        (clean(job.name, 200), ""),
        (clean(job.vm_path, 400), ""),
        (status_text(job), STATUS_STYLES.get(job.status, "")),
        (progress_text(job), ""),
        (moment_text(job.started_at), "dim" if job.started_at is None else ""),
    ]


def facts_table(facts: Facts) -> Text:
    """Labels and values, one pair a line."""
    from hypersdk.cli.columns import Column, lay_out

    rows = [((label, "bold"), (clean(value, 4096), "")) for label, value in facts]
    body = lay_out((Column(""), Column("")), rows, None)
    _, *lines = body.split("\n")
    return type(body)("\n", no_wrap=True).join(lines)


def job_facts(job: Job) -> Iterator[tuple[str, str]]:
    """The sheet of ``hyperctl get``."""
    yield "Job ID", job.id
    yield "Name", job.name
    yield "VM Path", job.vm_path
    yield "Output", job.output_path
    yield "Format", job.format
    yield "Status", status_text(job)
    if job.waiting:
        yield "Waits for", job.waiting
    yield "Progress", progress_text(job)
    yield from _amounts(job)
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
