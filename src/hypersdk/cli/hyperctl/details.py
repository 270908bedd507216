"""``hyperctl get``, ``hyperctl explain`` and ``hyperctl logs``: one job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.completing import complete_job
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.groups import Command, flag
from hypersdk.cli.report import labelled
from hypersdk.units import format_duration, format_rate, format_size

if TYPE_CHECKING:
    from hypersdk.client import Explanation, Job


@click.command("get", cls=Command)
@click.argument("job_id", metavar="ID", shell_complete=complete_job)
@common_flags
@pass_ctl
def get(ctl: Ctl, job_id: str) -> None:
    """Show one job: its state, progress and result."""
    from hypersdk.cli.hyperctl.shown import facts_table

    job = ctl.client.get(ctl.client.find_id(job_id))
    ctl.show(dict(job.raw), lambda: ctl.output.print(facts_table(list(_job_facts(job))), soft_wrap=True))


@click.command("explain", cls=Command)
@click.argument("job_id", metavar="ID", shell_complete=complete_job)
@common_flags
@pass_ctl
def explain(ctl: Ctl, job_id: str) -> None:
    """Explain a job's current state: code, cause, next step and earlier attempts."""
    job = ctl.client.get(ctl.client.find_id(job_id))
    explanation = ctl.client.explain(job.id)
    facts = {"id": job.id, "status": job.status, "state": job.state, "steps": job.raw["steps"], **explanation.raw}
    ctl.show(facts, lambda: _print(ctl, job, explanation))


def _print(ctl: Ctl, job: Job, found: Explanation) -> None:
    from hypersdk.cli.hyperctl.shown import status_text, step_text

    width = ctl.output.width or 120
    ctl.say(f"{job.id} ({job.name}) is {status_text(job)}")
    for label, text in (
        ("what", found.message),
        ("cause", found.cause),
        *_steps("next", found.next_step),
        ("code", found.code),
    ):
        if text:
            ctl.output.print(labelled(label, text, width), soft_wrap=True)
    for step in job.steps:
        ctl.output.print(labelled("step", step_text(step), width, "dim"), soft_wrap=True)
    for attempt in found.history:
        ctl.output.print(labelled("tried", _attempt(attempt), width, "dim"), soft_wrap=True)


OUTCOMES: Final = {"finish": "completed", "fail": "failed", "requeue": "requeued"}


def _attempt(attempt: Mapping[str, Any]) -> str:
    from hypersdk.cli.columns import moment_text

    error, outcome = attempt.get("error"), str(attempt.get("outcome") or "unfinished")
    why = f": {error.get('message')}" if isinstance(error, Mapping) and error.get("message") else ""
    started = moment_text(datetime.fromisoformat(str(attempt["started_at"]))) if attempt.get("started_at") else "-"
    what = f"{OUTCOMES.get(outcome, outcome)}{why}"
    return f"{started} on {attempt.get('worker_id')}, attempt {attempt.get('attempt')}: {what}"


def _job_facts(job: Job) -> Iterator[tuple[str, str]]:
    from hypersdk.cli.columns import moment_text
    from hypersdk.cli.hyperctl.shown import progress_text, status_text, step_text

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
    if not job.ended and progress.redone is not None:
        yield "Done again", f"{progress.redone:.0%} of {progress.fraction:.0%}"
    if not job.ended and progress.rate_bytes_s:
        yield "Rate", format_rate(progress.rate_bytes_s)
    if not job.ended and progress.eta_s is not None:
        yield "Left", format_duration(progress.eta_s)
    if not job.ended and progress.note:
        yield "Note", progress.note


def _outcome(job: Job) -> Iterator[tuple[str, str]]:
    yield from _landed(job)
    for number, name in enumerate(job.files):
        yield ("Files" if number == 0 else ""), name
    if job.error is not None:
        for label, key in (("Error", "message"), ("Cause", "cause"), ("Next", "next_step"), ("Code", "code")):
            if text := job.error.get(key):
                yield from _steps(label, str(text)) if key == "next_step" else [(label, str(text))]


def _steps(label: str, text: str | None) -> Iterator[tuple[str, str]]:
    """The next step; of several reasons each in a line of its own."""
    for number, line in enumerate((text or "").splitlines()):
        yield ("" if number else label), line


def _landed(job: Job) -> Iterator[tuple[str, str]]:
    """The landed machine, and how it was proved to boot."""
    result = job.result or {}
    domain, proof = result.get("domain"), result.get("proof")
    if isinstance(domain, Mapping):
        state = "started" if result.get("started") else "not started"
        yield "Domain", f"{domain.get('name')} at {result.get('uri')}, {state}"
        yield "UUID", str(result.get("uuid"))
    if isinstance(proof, Mapping):
        yield "Boot proof", f"{proof.get('verdict')}: {proof.get('line')}"
    if "report.html" in (result.get("evidence") or ()):
        yield "Report", f"`hyperctl report {job.id}`"


@click.command("logs", cls=Command)
@click.argument("job_id", metavar="ID", shell_complete=complete_job)
@flag("--follow", "-f", is_flag=True, help="Follow the log until the job has finished.")
@common_flags
@pass_ctl
def logs(ctl: Ctl, job_id: str, follow: bool) -> None:
    """Print a job's log, including all attempts.

    With --json, one object a line: {"line": ...}.
    """
    job_id = ctl.client.find_id(job_id)
    lines = _lines(ctl.client.follow_logs(job_id) if follow else _so_far(ctl, job_id))
    if ctl.format == "yaml":
        ctl.yaml([{"line": line} for line in lines])
        return
    for line in lines:
        if ctl.for_people:
            ctl.output.line(line)
        else:
            ctl.output.row({"line": line})


def _so_far(ctl: Ctl, job_id: str) -> Iterator[str]:
    end = 0
    while True:
        part = ctl.client.logs(job_id, end)
        if not part.text:
            return
        yield part.text
        end = part.end


def _lines(pieces: Iterator[str]) -> Iterator[str]:
    """Whole lines from chunks that may end anywhere."""
    rest = ""
    for piece in pieces:
        *whole, rest = (rest + piece).split("\n")
        yield from whole
    if rest:
        yield rest
