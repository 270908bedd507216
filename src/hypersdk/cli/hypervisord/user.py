"""`hypervisord user`: users, by way of the database; works whether the daemon runs or not."""

from __future__ import annotations

from pathlib import Path

import click

from hypersdk.cli.hypervisord.app import state_flags
from hypersdk.cli.hypervisord.daemon import Daemon, pass_daemon
from hypersdk.cli.programs.accounts import new_password_flags, user_flags
from hypersdk.cli.programs.groups import Group
from hypersdk.cli.text import clean


@click.group("user", cls=Group)
def command() -> None:
    """Users of the daemon. Whoever may write its database may do this; `hyperctl users` does the same through the
    API."""


@command.command("add")
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


@command.command("list")
@state_flags
@pass_daemon
def list_(daemon: Daemon) -> None:
    """List users."""
    from hypersdk.cli.columns import Column, lay_out

    with daemon.access() as access:
        users = access.users.list()
    if not users:
        daemon.output.line("There is no user yet; the daemon makes an administrator when it first starts.")
        return
    rows = [
        [
            (clean(user.name, 128), "bold"),
            (user.role, ""),
            ("disabled", "red") if user.disabled else ("password" if user.has_password else "tokens only", ""),
            (clean(user.id, 64), "dim"),
        ]
        for user in users
    ]
    columns = (Column("Name", least=12), Column("Role"), Column("Login"), Column("ID", optional=True))
    daemon.output.print(lay_out(columns, rows, daemon.output.width))


@command.command("passwd")
@click.argument("name")
@new_password_flags
@state_flags
@pass_daemon
def passwd(daemon: Daemon, name: str, password_file: Path | None, password_stdin: bool) -> None:
    """Give a user a new password; sessions end, a lock is lifted."""
    password = daemon.password(f"New password for {name}: ", password_file, from_stdin=password_stdin, twice=True)
    with daemon.access() as access:
        user = access.users.change(name, password=password)
    daemon.output.line(f"{user.name} has a new password")


@command.command("disable")
@click.argument("name")
@state_flags
@pass_daemon
def disable(daemon: Daemon, name: str) -> None:
    """Let a user in no more, by password or token."""
    with daemon.access() as access:
        user = access.users.change(name, disabled=True)
    daemon.output.line(f"{user.name} is disabled")


@command.command("enable")
@click.argument("name")
@state_flags
@pass_daemon
def enable(daemon: Daemon, name: str) -> None:
    """Let a disabled user in again."""
    with daemon.access() as access:
        user = access.users.change(name, disabled=False)
    daemon.output.line(f"{user.name} may log in")
