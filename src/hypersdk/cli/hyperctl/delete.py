"""`hyperctl delete`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from hypersdk.cli.hyperctl.asking import ask, ids_given
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.groups import Command, flag


@click.command("delete", cls=Command)
@flag(
    "--give-up",
    is_flag=True,
    help="Also delete jobs whose source could not be restored: prints what is left there. It is not undone afterwards.",
)
@ids_given
@pass_ctl
def command(ctl: Ctl, ids: tuple[str, ...], named: tuple[str, ...], give_up: bool) -> None:
    """Delete finished jobs and their logs. The exported files are kept."""
    ask(ctl, ids, named, lambda job_id: _delete(ctl, job_id, give_up), "Deleted")


def _delete(ctl: Ctl, job_id: str, give_up: bool) -> None:
    left = list(_left_behind(ctl, job_id)) if give_up else []
    ctl.client.delete(job_id, give_up=give_up)
    for text in left:
        ctl.output.warn(f"{job_id}: deleted; left at the source: {text}")


def _left_behind(ctl: Ctl, job_id: str) -> Iterator[str]:
    """What is left at the source. The job may have failed for another reason, which does not mention it."""
    job = ctl.client.get(job_id)
    if not (changes := job.raw.get("source_changes")):
        return
    snapshots = [held.snapshot for held in ctl.client.snapshots() if held.job_id == job_id]
    for name in snapshots:
        yield f"snapshot {name}; `hyper2kvm cleanup --snapshot {name}` removes it"
    if len(snapshots) < changes:
        error = job.error or {}
        told = error.get("message") if error.get("code") == "not_restored" else None
        yield (
            told
            or f"{changes - len(snapshots)} other change(s) of '{job.subject}'; the job's log, gone with it, said which"
        )
