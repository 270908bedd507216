"""The state of one run of ``hypervisord``: streams, environment, settings, and the database of its commands."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click

from hypersdk.cli.programs.program import Run
from hypersdk.errors import UsageError, register

if TYPE_CHECKING:
    from hypersdk.access.access import Access
    from hypersdk.jobs.settings import DaemonSettings
    from hypersdk.state.database import Database

DATABASE_VARIABLE: Final = "HYPERVISORD_DATABASE_URL"
URL_IN_ARGV: Final = register(
    "database_password_in_argv",
    "Every user of this host can read the command line of a process.",
    "Put the URL into the configuration file (`database_url`) or $HYPERVISORD_DATABASE_URL, or the password into"
    " ~/.pgpass.",
)
SERVICE_STATE: Final = Path("/var/lib/hypersdk")
WHICH_STATE: Final = register(
    "which_state",
    "The packaged service has its own state directory; run by root, the command would otherwise use root's.",
    "For the service, pass `--config /etc/hypersdk/hypervisord.toml --state-dir /var/lib/hypersdk`; for another state"
    " directory, --state-dir.",
)
NO_STATE: Final = register(
    "no_state",
    "A daemon creates its state at its first start, and none has been started with that directory.",
    "Name the daemon's directory with --state-dir, or its database with --database; `hypervisord migrate-db` creates"
    " an empty one.",
)
ROLES: Final[Mapping[str, tuple[str, ...]]] = {"api": ("api",), "worker": ("worker",), "all": ("api", "worker")}
"""What the daemon does, by the value of ``--role``."""


class Daemon(Run):
    """Passed to every command. ``given`` holds settings from flags, by the names of the settings."""

    @cached_property
    def settings(self) -> DaemonSettings:
        """Flags override the environment, which overrides the configuration file. Raises UsageError with the key."""
        from hypersdk.jobs.settings import load_settings

        overrides = {name: value for name, value in self.given.items() if name != "config"}
        if url := self.environ.get(DATABASE_VARIABLE):
            overrides.setdefault("database_url", url)
        return load_settings(self.environ, self.given.get("config"), overrides)

    @property
    def state_settings(self) -> DaemonSettings:
        """The settings for commands that use a state. Raises UsageError ``which_state`` if root selects none and this
        machine has the service's: a change of the wrong state would look successful."""
        named = (
            self.given.keys() & {"config", "state_dir", "database_url"}
            or {"STATE_DIRECTORY", DATABASE_VARIABLE} & self.environ.keys()
        )
        if not named and os.geteuid() == 0 and SERVICE_STATE.is_dir():
            raise UsageError(
                f"there is the state of the service in {SERVICE_STATE}, and no state was named", code=WHICH_STATE
            )
        return self.settings

    @contextmanager
    def database(self, *, make: bool = False) -> Iterator[Database]:
        """The daemon's database, upgraded; the daemon may be running. Raises UsageError ``no_state`` if there is none,
        unless ``make`` allows to create it."""
        from hypersdk.state.database import Database

        database = Database.open(self.settings.url if make else self.state_settings.url)
        if not make and database.path is not None:
            check_state(database.path)
        try:
            database.upgrade()
            yield database
        finally:
            database.close()

    @contextmanager
    def access(self) -> Iterator[Access]:
        """Users and tokens."""
        from hypersdk.access.access import Access

        with self.database() as database:
            yield Access(database)


def check_state(file: Path) -> None:
    """Raises UsageError ``no_state`` if the database file does not exist."""
    if not file.exists():
        raise UsageError(f"there is no state in {file.parent}", code=NO_STATE)


def check_database(url: str) -> str:
    """``url``, unless it holds a password, which other users could read on the command line. Raises UsageError."""
    try:
        secret = urlsplit(url).password
    except ValueError:
        secret = None  # loading the settings reports it
    if secret:
        raise UsageError("--database holds a password", code=URL_IN_ARGV)
    return url


pass_daemon = click.make_pass_decorator(Daemon)
