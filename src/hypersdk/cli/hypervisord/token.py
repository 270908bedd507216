"""`hypervisord token`: a way in when there is none."""

from __future__ import annotations

import click

from hypersdk.cli.hypervisord.app import state_flags
from hypersdk.cli.hypervisord.daemon import Daemon, pass_daemon
from hypersdk.cli.programs.accounts import token_flags
from hypersdk.cli.programs.groups import Group, flag

DAY_S = 86_400.0


@click.group("token", cls=Group)
def command() -> None:
    """API tokens, by way of the database; for scripts that set a daemon up, and when the last token is lost."""


@command.command("create")
@click.argument("label")
@flag("--user", metavar="NAME", default="admin", show_default=True, help="Whose token it is.")
@token_flags("What it may do; never more than its user.")
@state_flags
@pass_daemon
def create(daemon: Daemon, label: str, user: str, scope: str, days: float, forever: bool) -> None:
    """Make a token and print it, once."""
    with daemon.access() as access:
        owner = access.users.get(user)
        made, secret = access.tokens.create(owner.id, label, scope, lifetime_s=None if forever else days * DAY_S)
    daemon.output.line(secret.reveal())
    daemon.output.note(f"{made.id} of {made.user}, {made.scope}. Keep it now: it is not shown again.", style="yellow")
