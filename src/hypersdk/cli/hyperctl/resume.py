"""`hyperctl resume`."""

from __future__ import annotations

import click

from hypersdk.cli.hyperctl.asking import ask, ids_given
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.groups import Command


@click.command("resume", cls=Command)
@ids_given
@pass_ctl
def command(ctl: Ctl, ids: tuple[str, ...], named: tuple[str, ...]) -> None:
    """Resume paused jobs from their checkpoints."""
    ask(ctl, ids, named, ctl.client.resume, "Resumed")
