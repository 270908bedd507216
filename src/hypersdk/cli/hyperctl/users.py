"""`hyperctl users`: users of the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.accounts import ROLES, login_cell, password_flags, user_flags
from hypersdk.cli.programs.groups import Group


@click.group("users", cls=Group)
def command() -> None:
    """Users of the daemon; for administrators. A viewer can read, an operator can run jobs, an admin manages users and
    endpoints."""


@command.command("add")
@click.argument("name")
@user_flags
@common_flags
@pass_ctl
def add(ctl: Ctl, name: str, role: str, password_file: Path | None, password_stdin: bool, no_password: bool) -> None:
    """Add a user."""
    password = None
    if not no_password:
        password = ctl.password(f"Password for {name}: ", password_file, from_stdin=password_stdin, twice=True)
    user = ctl.client.users.create(name, role, password)
    ctl.show(dict(user.raw), lambda: ctl.say(f"Added {user.role} {user.name}", "bold green"))


@command.command("list")
@common_flags
@pass_ctl
def list_(ctl: Ctl) -> None:
    """List users."""
    from hypersdk.cli.hyperctl.shown import show_table
    from hypersdk.client import User

    show_table(ctl, ctl.client.users.list(), User, disabled=login_cell)


@command.command("passwd")
@click.argument("name")
@password_flags("new password")
@common_flags
@pass_ctl
def passwd(ctl: Ctl, name: str, password_file: Path | None, password_stdin: bool) -> None:
    """Set a user's password. The user's sessions end and a lock is lifted."""
    password = ctl.password(f"New password for {name}: ", password_file, from_stdin=password_stdin, twice=True)
    _change(ctl, name, "has a new password", password=password)


@command.command("role")
@click.argument("name")
@click.argument("role", type=click.Choice(ROLES))
@common_flags
@pass_ctl
def role_(ctl: Ctl, name: str, role: str) -> None:
    """Change a user's role."""
    _change(ctl, name, f"is {role}", role=role)


@command.command("disable")
@click.argument("name")
@common_flags
@pass_ctl
def disable(ctl: Ctl, name: str) -> None:
    """Disable a user; tokens and sessions stop working immediately."""
    _change(ctl, name, "is disabled", disabled=True)


@command.command("enable")
@click.argument("name")
@common_flags
@pass_ctl
def enable(ctl: Ctl, name: str) -> None:
    """Enable a disabled user."""
    _change(ctl, name, "may log in", disabled=False)


def _change(ctl: Ctl, name: str, result: str, **changes: Any) -> None:
    user = ctl.client.users.change(name, **changes)
    ctl.show(dict(user.raw), lambda: ctl.say(f"{user.name} {result}"))


@command.command("delete")
@click.argument("name")
@common_flags
@pass_ctl
def delete(ctl: Ctl, name: str) -> None:
    """Delete a user, with all tokens and sessions."""
    ctl.client.users.delete(name)
    ctl.show({"name": name, "deleted": True}, lambda: ctl.say(f"Deleted user {name}"))
