"""``hypervisord user`` and ``hypervisord token``: users and tokens in the database, whether the daemon runs or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hypersdk.cli.hypervisord.app import state_flags
from hypersdk.cli.hypervisord.daemon import Daemon, pass_daemon
from hypersdk.cli.programs.accounts import login_cell, password_flags, token_flags, user_flags
from hypersdk.cli.programs.groups import Group, flag


@click.group("user", cls=Group)
def user_group() -> None:
    """Users of the daemon. These commands write to its database; `hyperctl users` does the same through the API."""


@user_group.command("add")
@click.argument("name")
@user_flags
@state_flags
@pass_daemon
def add(
    daemon: Daemon, name: str, role: str, password_file: Path | None, password_stdin: bool, no_password: bool
) -> None:
    """Add a user."""
    from hypersdk.access.roles import Role

    password = None
    if not no_password:
        password = daemon.password(f"Password for {name}: ", password_file, from_stdin=password_stdin, twice=True)
    with daemon.access() as access:
        user = access.users.create(name, Role(role), password)
    daemon.output.line(f"Added {user.role} {user.name}")


@user_group.command("list")
@state_flags
@pass_daemon
def list_(daemon: Daemon) -> None:
    """List users."""
    from hypersdk.access.records import User
    from hypersdk.cli.columns import table

    with daemon.access() as access:
        users = access.users.list()
    if not users:
        daemon.output.line("There is no user yet. The daemon creates an administrator at its first start.")
        return
    daemon.output.print(table(users, User, daemon.output.width, disabled=login_cell))


@user_group.command("passwd")
@click.argument("name")
@password_flags("new password")
@state_flags
@pass_daemon
def passwd(daemon: Daemon, name: str, password_file: Path | None, password_stdin: bool) -> None:
    """Set a user's password. The user's sessions end and a lock is lifted."""
    password = daemon.password(f"New password for {name}: ", password_file, from_stdin=password_stdin, twice=True)
    _change(daemon, name, "has a new password", password=password)


@user_group.command("disable")
@click.argument("name")
@state_flags
@pass_daemon
def disable(daemon: Daemon, name: str) -> None:
    """Disable a user; tokens and sessions stop working immediately."""
    _change(daemon, name, "is disabled", disabled=True)


@user_group.command("enable")
@click.argument("name")
@state_flags
@pass_daemon
def enable(daemon: Daemon, name: str) -> None:
    """Enable a disabled user."""
    _change(daemon, name, "may log in", disabled=False)


def _change(daemon: Daemon, name: str, result: str, **changes: Any) -> None:
    with daemon.access() as access:
        user = access.users.change(name, **changes)
    daemon.output.line(f"{user.name} {result}")


DAY_S = 86_400.0


@click.group("token", cls=Group)
def token_group() -> None:
    """API tokens, created in the database: for scripts that set up a daemon, and when the last token is lost."""


@token_group.command("create")
@click.argument("label")
@flag("--user", metavar="NAME", default="admin", show_default=True, help="Owner of the token.")
@token_flags("What the token may do; never more than its owner.")
@state_flags
@pass_daemon
def create(daemon: Daemon, label: str, user: str, scope: str, days: float, forever: bool) -> None:
    """Create a token and print it. It is shown only once."""
    with daemon.access() as access:
        owner = access.users.get(user)
        made, secret = access.tokens.create(owner.id, label, scope, lifetime_s=None if forever else days * DAY_S)
    daemon.output.line(secret.reveal())
    daemon.output.note(f"{made.id} of {made.user}, {made.scope}. Save it now: it is not shown again.", style="yellow")
