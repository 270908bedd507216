"""`hyperctl submit`: a job file, or one machine by flags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hypersdk.cli.hyperctl.app import daemon_flags, json_option
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl, raise_failures
from hypersdk.cli.programs.groups import Command, flag
from hypersdk.cli.remedies import error_dict
from hypersdk.cli.report import show_error
from hypersdk.errors import Cancelled, UsageError

if TYPE_CHECKING:
    from hypersdk.client import Submission

FORMATS = ("ovf", "ova", "qcow2", "raw", "vmdk")
MAX_STDIN_BYTES = 4 * 1024 * 1024
MAX_NAMED = 10


@click.command("submit", cls=Command)
@flag(
    "--file",
    "-f",
    "file",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Job file, JSON or YAML; - is standard input.",
)
@flag("--vm", metavar="PATH", help="Submit this one machine: its inventory path or name.")
@flag(
    "--output",
    "--output-dir",
    "folder",
    metavar="DIR",
    help="With --vm: folder for the files, on the daemon's host.",
)
@flag("--format", "image", type=click.Choice(FORMATS), help="With --vm: format of the files (ovf).")
@flag("--name", metavar="NAME", help="With --vm: name of the job (the machine's).")
@flag("--compress", is_flag=True, help="With --vm: compressed qcow2.")
@flag("--endpoint", metavar="NAME", help="Endpoint for jobs that name none (see `hyperctl endpoints list`).")
@flag(
    "--priority",
    type=click.IntRange(-1000, 1000),
    default=0,
    metavar="N",
    help="Jobs with a higher priority start first (0).",
)
@flag("--watch", is_flag=True, help="Follow the jobs until they finish; the exit status is theirs.")
@json_option
@daemon_flags
@pass_ctl
def command(ctl: Ctl, /, file: Path | None, endpoint: str | None, priority: int, watch: bool, **machine: Any) -> None:
    """Submit the jobs of a file, or one machine.

    Each job of a file is accepted or rejected on its own; the reasons are printed. The jobs run in the daemon and
    continue when hyperctl exits.
    """
    from hypersdk.cli.hyperctl.watch import follow

    definition = _definition(ctl, file, machine)
    endpoint_id = None if endpoint is None else ctl.client.endpoints.get(endpoint).id
    done = ctl.client.submit(definition, endpoint_id=endpoint_id, priority=priority)
    ctl.show(_facts(done, ctl.output.program), lambda: _print(ctl, done))
    if watch and done.accepted:
        ids = [job.id for job in done.accepted]
        try:
            follow(ctl, ids)
        except KeyboardInterrupt as error:
            names = f" {' '.join(ids)}" if len(ids) <= MAX_NAMED else ""
            again = f"Nothing is lost: jobs run in the daemon. `hyperctl watch{names}` shows them again."
            raise Cancelled("stopped: interrupted", signal="SIGINT", next_step=again) from error
    _raise_rejections(done)


def _definition(ctl: Ctl, file: Path | None, machine: dict[str, Any]) -> Any:
    given = {key: value for key, value in machine.items() if value}
    if file is not None:
        if given:
            raise UsageError(
                "--file cannot be combined with the flags of a single machine", next_step="Write it into the job file."
            )
        # As bytes: the daemon reports text that is not UTF-8, as it does for a file.
        return ctl.stdin.buffer.read(MAX_STDIN_BYTES + 1) if str(file) == "-" else file
    if not machine["vm"] or not machine["folder"]:
        raise UsageError("nothing to submit", next_step="Give --file FILE, or --vm PATH and --output DIR.")
    names = {"vm": "vm_path", "folder": "output_path", "image": "format", "name": "name", "compress": "compress"}
    return {names[key]: value for key, value in given.items()}


def _facts(done: Submission, program: str) -> dict[str, Any]:
    return {
        "type": "submitted",
        "job_ids": [job.id for job in done.accepted],
        "accepted": len(done.accepted),
        "rejected": len(done.rejected),
        "errors": [{"number": rejection.number, **error_dict(rejection.error, program)} for rejection in done.rejected],
        "warnings": list(done.warnings),
    }


def _print(ctl: Ctl, done: Submission) -> None:
    for warning in done.warnings:
        ctl.output.warn(warning)
    if len(done.accepted) + len(done.rejected) > 1:  # a single one is reported at the end
        for rejection in done.rejected:
            ctl.output.note(f"Job {rejection.number} of the file was not accepted:", style="bold red")
            show_error(ctl.output, rejection.error)
    ctl.say(f"Submitted {len(done.accepted)} job(s)", "bold green" if done.accepted else "bold")
    ctl.output.line(f"Accepted Jobs: {len(done.accepted)}")
    if done.rejected:
        ctl.output.line(f"Rejected Jobs: {len(done.rejected)}")
    for job in done.accepted:
        ctl.output.line(f"Job ID: {job.id}")


def _raise_rejections(done: Submission) -> None:
    errors = [rejection.error for rejection in done.rejected]
    raise_failures(done.accepted, errors, "accepted", next_step="Correct them and submit them again on their own.")
