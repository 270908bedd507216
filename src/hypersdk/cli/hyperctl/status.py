"""`hyperctl status`: version, uptime, job counts and the progress of the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.groups import Command

if TYPE_CHECKING:
    from hypersdk.client import DaemonStatus
    from hypersdk.model.eta import QueueProgress


@click.command("status", cls=Command)
@common_flags
@pass_ctl
def command(ctl: Ctl) -> None:
    """Show the daemon's version, uptime, job counts, and the progress of the queue."""
    status, queue = ctl.client.status(), ctl.client.queue()
    shown = {} if queue is None else {"queue": dict(queue.raw)}
    ctl.show({**status.raw, **shown}, lambda: _print(ctl, status, queue))


def _print(ctl: Ctl, status: DaemonStatus, queue: QueueProgress | None) -> None:
    from hypersdk.cli.hyperctl.shown import facts_table
    from hypersdk.cli.total import total_text

    ctl.say("Retrieved daemon status", "bold green")
    facts = [
        ("Version", status.version),
        ("Uptime", status.uptime),
        ("Total Jobs", str(status.total_jobs)),
        ("Running", str(status.running_jobs)),
        ("Completed", str(status.completed_jobs)),
        ("Failed", str(status.failed_jobs)),
    ]
    if queue is not None:
        facts.append(("Queue", total_text(queue) if queue.open_jobs else "empty"))
    ctl.output.print(facts_table(facts))
    ctl.output.note(ctl.client.url, style="dim")
