"""`hyper2kvm doctor`: what works between this machine and vSphere, check by check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hypersdk.cli.options import Command, connection_options, json_option
from hypersdk.cli.state import Cli, pass_cli
from hypersdk.errors import ConnectError, register

if TYPE_CHECKING:
    from hypersdk.vsphere.doctor import Check

DOCTOR_FAILED: Final = register(
    "doctor_failed",
    "At least one check failed.",
    "Follow the advice below each check that failed, the first one first.",
)

_SIGNS: Final = {"ok": ("✔", "green"), "warn": ("!", "yellow"), "fail": ("✘", "red")}


@click.command("doctor", cls=Command)
@click.option("--vm", "machine", metavar="VM", help="Check privileges and datastores for this machine only.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Check the space in this folder, too.",
)
@json_option
@connection_options
@pass_cli
def command(cli: Cli, machine: str | None, output: Path | None) -> None:
    """Check the connection: name, port, certificate, login, privileges by operation, route to each ESXi host, space, clock.

    Nothing is changed. With --json: an event of type check for each. Fails with status 3 if a check fails.
    """
    from hypersdk.cli.connect import endpoint_of, with_password
    from hypersdk.vsphere.doctor import run_doctor

    endpoint = with_password(cli, endpoint_of(cli))
    failed = []
    for check in run_doctor(endpoint, cancel=cli.cancel, machine=machine, output_dir=output):
        _show(cli, check)
        if check.status == "fail":
            failed.append(check.name)
    if failed:
        raise ConnectError(f"{len(failed)} of the checks failed: {', '.join(failed)}", code=DOCTOR_FAILED)


def _show(cli: Cli, check: Check) -> None:
    if cli.output.json_lines:
        cli.output.event(
            "check", {"name": check.name, "status": check.status, "detail": check.detail, "next_step": check.next_step}
        )
        return
    from rich.text import Text

    from hypersdk.cli.text import clean

    sign, colour = _SIGNS[check.status]
    cli.output.print(
        Text.assemble((f"{sign} ", f"bold {colour}"), (f"{clean(check.name)}: ", "bold"), clean(check.detail))
    )
    if check.next_step and check.status != "ok":
        cli.output.print(Text(f"  {clean(check.next_step)}", style=colour))
