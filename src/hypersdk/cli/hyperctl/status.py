"""`hyperctl status`: version, uptime and job counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.groups import Command

if TYPE_CHECKING:
    from hypersdk.client import DaemonStatus


@click.command("status", cls=Command)
@common_flags
@pass_ctl
def command(ctl: Ctl) -> None:
    """Show the daemon's version, uptime and job counts."""
    status = ctl.client.status()
    ctl.show(dict(status.raw), lambda: _print(ctl, status))


def _print(ctl: Ctl, status: DaemonStatus) -> None:
    from hypersdk.cli.hyperctl.shown import facts_table

    ctl.say("Retrieved daemon status", "bold green")
    facts = (
        ("Version", status.version),
        ("Uptime", status.uptime),
        ("Total Jobs", str(status.total_jobs)),
        ("Running", str(status.running_jobs)),
        ("Completed", str(status.completed_jobs)),
        ("Failed", str(status.failed_jobs)),
    )
    ctl.output.print(facts_table(facts))
    ctl.output.note(ctl.client.url, style="dim")
