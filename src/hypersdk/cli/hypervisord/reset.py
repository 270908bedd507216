"""`hypervisord reset-vault`: for a key that is lost."""

from __future__ import annotations

import click

from hypersdk.cli.hypervisord.app import state_flags
from hypersdk.cli.hypervisord.daemon import Daemon, pass_daemon
from hypersdk.cli.programs.groups import Command, flag
from hypersdk.errors import UsageError
from hypersdk.jobs.supervisor import one_daemon


@click.command("reset-vault", cls=Command)
@flag("--yes", is_flag=True, help="Do it without asking.")
@state_flags
@pass_daemon
def command(daemon: Daemon, yes: bool) -> None:
    """Forget all stored passwords, because the key that opens them is lost. The daemon must not run.

    Users, tokens, jobs and endpoints stay. Endpoints and waiting jobs must be given their passwords again.
    """
    from hypersdk.access.vault import forget_sealed

    if not yes:
        if not daemon.output.can_ask:
            raise UsageError("this forgets all stored passwords", next_step="Pass --yes if that is what you want.")
        daemon.output.notes.print("This forgets all stored passwords. Type yes: ", end="", markup=False)
        if input().strip().lower() != "yes":
            return
    with one_daemon(daemon.state_settings.state_dir), daemon.database() as database:
        count = forget_sealed(database)
    daemon.output.line(f"{count} stored passwords are forgotten; a new key is made at the next start")
