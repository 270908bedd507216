"""`hyperctl explain`: a job's current state and the reasons for it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.hyperctl.shown import moment_text, status_text, step_text
from hypersdk.cli.programs.groups import Command

if TYPE_CHECKING:
    from hypersdk.client import Explanation, Job


@click.command("explain", cls=Command)
@click.argument("job_id", metavar="ID")
@common_flags
@pass_ctl
def command(ctl: Ctl, job_id: str) -> None:
    """Explain a job's current state: code, cause, next step and earlier attempts."""
    job = ctl.client.get(job_id)
    explanation = ctl.client.explain(job_id)
    facts = {"id": job.id, "status": job.status, "state": job.state, "steps": job.raw["steps"], **explanation.raw}
    ctl.show(facts, lambda: _print(ctl, job, explanation))


def _print(ctl: Ctl, job: Job, found: Explanation) -> None:
    from hypersdk.cli.report import labelled

    width = ctl.output.width or 120
    ctl.say(f"{job.id} ({job.name}) is {status_text(job)}")
    for label, text in (
        ("what", found.message),
        ("cause", found.cause),
        ("next", found.next_step),
        ("code", found.code),
    ):
        if text:
            ctl.output.print(labelled(label, text, width), soft_wrap=True)
    for step in job.steps:
        ctl.output.print(labelled("step", step_text(step), width, "dim"), soft_wrap=True)
    for attempt in found.history:
        ctl.output.print(labelled("tried", _attempt(attempt), width, "dim"), soft_wrap=True)


OUTCOMES: Final = {"finish": "completed", "fail": "failed", "requeue": "handed back to the queue"}


def _attempt(attempt: Mapping[str, Any]) -> str:
    error, outcome = attempt.get("error"), str(attempt.get("outcome") or "no end")
    why = f": {error.get('message')}" if isinstance(error, Mapping) and error.get("message") else ""
    begun = moment_text(datetime.fromisoformat(str(attempt["started_at"]))) if attempt.get("started_at") else "-"
    what = f"{OUTCOMES.get(outcome, outcome)}{why}"
    return f"{begun} on {attempt.get('worker_id')}, attempt {attempt.get('attempt')}: {what}"
