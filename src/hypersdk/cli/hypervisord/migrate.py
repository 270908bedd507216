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
    """Upgrade the database to the schema of this version.

    Starting the daemon does it too; this command does it separately. An SQLite file is copied beside itself first. A
    database with the schema of a newer version is refused.
    """
    from hypersdk.state.database import Database

    database = Database.open(daemon.state_settings.url)
    try:
        before = database.upgrade()
    finally:
        database.close()
    shown = str(daemon.state_settings.shown()["database_url"])
    daemon.output.line(f"{shown} is up to date" if before is None else f"{shown} was upgraded from schema {before}")
