"""How hyperctl shows jobs and other records: tables, whose titles and words programs parse, and the details of one
job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from rich.cells import cell_len
from rich.text import Text

from hypersdk.cli.columns import Cell, R, moment_text, table
from hypersdk.cli.hyperctl.ctl import Ctl
from hypersdk.client import Job
from hypersdk.jobs.ids import short_ids
from hypersdk.jobs.records import StepColumns
from hypersdk.text import clean
from hypersdk.units import format_duration

STATUS_STYLES: Final = {
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "running": "cyan",
    "pending": "dim",
}
Facts = Sequence[tuple[str, str]]


def status_text(job: Job) -> str:
    """One of the five legacy words, followed by the daemon's own state if that is more precise."""
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


def jobs_table(jobs: Sequence[Job], width: int | None) -> Text:
    """The table of ``hyperctl query``. Where the whole ids leave no room for all columns, they are abbreviated."""

    def lines(ids: Mapping[str, str], width: int | None) -> Text:
        return _jobs_table(jobs, ids, width)

    whole = {job.id: job.id for job in jobs}
    if width is None or cell_len(lines(whole, None).plain.partition("\n")[0]) <= width:
        return lines(whole, width)
    return lines(dict(zip(whole, short_ids(list(whole)), strict=True)), width)


def _jobs_table(jobs: Sequence[Job], ids: Mapping[str, str], width: int | None) -> Text:
    return table(
        jobs,
        Job,
        width,
        id=lambda job: (clean(ids[job.id], 128), "bold"),
        state=lambda job: (status_text(job), STATUS_STYLES.get(job.status, "")),
        progress=lambda job: (progress_text(job), ""),
        started_at=lambda job: (moment_text(job.started_at), "dim" if job.started_at is None else ""),
    )


def trust_cell(insecure: bool, thumbprint: str | None) -> Cell:
    """The certificates that are trusted, for the column Trust."""
    if insecure:
        return "anyone", "red"
    return ("pinned", "") if thumbprint else ("authorities", "")


def show_table(ctl: Ctl, records: Sequence[R], kind: type[R], *, empty: str = "", **cells: Callable[[R], Cell]) -> None:
    """Shows the records of a list; people get a table, or the text ``empty`` if there are none."""

    def show() -> None:
        if records or not empty:
            ctl.output.print(table(records, kind, ctl.output.width, **cells))
        else:
            ctl.output.line(empty)

    ctl.show([dict(record.raw) for record in records], show)


def facts_table(facts: Facts) -> Text:
    """Labels and values, one pair per line."""
    width = max(len(label) for label, _ in facts)
    lines = [Text.assemble((f"{label:<{width}}  ", "bold"), clean(value, 4096)) for label, value in facts]
    return Text("\n", no_wrap=True).join(lines)
