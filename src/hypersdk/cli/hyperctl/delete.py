"""`hyperctl delete`."""

from __future__ import annotations

import click

from hypersdk.cli.hyperctl.asking import ask, ids_given
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.groups import Command


@click.command("delete", cls=Command)
@ids_given
@pass_ctl
def command(ctl: Ctl, ids: tuple[str, ...], named: tuple[str, ...]) -> None:
    """Forget jobs that have ended, with their logs. The files that they made stay."""
    ask(ctl, ids, named, ctl.client.delete, "Deleted")
