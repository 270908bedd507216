"""`hypervisord migrate-db`."""

from __future__ import annotations

import click

from hypersdk.cli.hypervisord.app import state_flags
from hypersdk.cli.hypervisord.daemon import Daemon, pass_daemon
from hypersdk.cli.programs.groups import Command


@click.command("migrate-db", cls=Command)
@state_flags
@pass_daemon
def command(daemon: Daemon) -> None:
    """Bring the database's schema up to date.

    Starting the daemon does it too; this is for those who want to see it happen first. An SQLite file is copied beside
    itself before. A database that a newer version has upgraded is refused.
    """
    from hypersdk.state.database import Database

    database = Database.open(daemon.state_settings.url)
    try:
        before = database.upgrade()
    finally:
        database.close()
    shown = str(daemon.state_settings.shown()["database_url"])
    daemon.output.line(f"{shown} is up to date" if before is None else f"{shown} was upgraded from schema {before}")
