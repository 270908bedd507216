"""`hyperctl logs`: a job's log."""

from __future__ import annotations

from collections.abc import Iterator

import click

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.groups import Command, flag


@click.command("logs", cls=Command)
@click.argument("job_id", metavar="ID")
@flag("--follow", "-f", is_flag=True, help="Follow the log until the job has finished.")
@common_flags
@pass_ctl
def command(ctl: Ctl, job_id: str, follow: bool) -> None:
    """Print a job's log, including all attempts.

    With --json, one object a line: {"line": ...}.
    """
    lines = _lines(ctl.client.follow_logs(job_id) if follow else _so_far(ctl, job_id))
    if ctl.format == "yaml":
        ctl.yaml([{"line": line} for line in lines])
        return
    for line in lines:
        if ctl.for_people:
            ctl.output.line(line)
            ctl.stdout.flush()
        else:
            ctl.output.row({"line": line})


def _so_far(ctl: Ctl, job_id: str) -> Iterator[str]:
    end = 0
    while True:
        part = ctl.client.logs(job_id, end)
        if not part.text:
            return
        yield part.text
        end = part.end


def _lines(pieces: Iterator[str]) -> Iterator[str]:
    """Whole lines from chunks that may end anywhere."""
    rest = ""
    for piece in pieces:
        *whole, rest = (rest + piece).split("\n")
        yield from whole
    if rest:
        yield rest
