"""`hyper2kvm doctor`: checks the connection between this machine and vSphere, or a target."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hypersdk.cli.options import connection_options, output_options
from hypersdk.cli.programs.groups import Command
from hypersdk.cli.remedies import next_step
from hypersdk.cli.report import wrapped
from hypersdk.cli.state import Cli, pass_cli
from hypersdk.errors import ConnectError, UsageError, register
from hypersdk.remedies import as_json
from hypersdk.text import clean

if TYPE_CHECKING:
    from hypersdk.model.check import DoctorCheck

DOCTOR_FAILED: Final = register(
    "doctor_failed",
    "At least one check failed.",
    "Follow the advice below each failed check, starting with the first.",
)

INDENT: Final = 2
UNLIMITED: Final = 10_000
_SIGNS: Final = {"ok": ("✔", "green"), "warn": ("!", "yellow"), "fail": ("✘", "red")}


@click.command("doctor", cls=Command)
@click.option("--vm", "machine", metavar="VM", help="Check privileges and datastores for this machine only.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Also check the free space of this folder.",
)
@click.option(
    "--to",
    "target",
    metavar="URI",
    help="Check a target of `migrate` instead, like qemu:///system, and the programs here that convert guests.",
)
@click.option(
    "--appliance",
    is_flag=True,
    help="With --to, also boot libguestfs's appliance, in which guests are converted: half a minute without KVM.",
)
@output_options
@connection_options
@pass_cli
def command(cli: Cli, machine: str | None, output: Path | None, target: str | None, appliance: bool) -> None:
    """Check the connection: name, port, certificate, login, privileges by operation, route to each ESXi host, space,
    clock. With --to: libvirt, permission, versions, KVM and firmware of the target, virt-v2v and its programs, drivers
    for Windows, and with -o whether the guests' user can reach that folder.

    Nothing is changed. With --json: an event of type check for each. Fails with status 3 if a check fails.
    """
    if appliance and target is None:
        raise UsageError("--appliance belongs to a target", next_step="Pass --to with it, such as --to qemu:///system.")
    failed = []
    for check in _vsphere(cli, machine, output) if target is None else _target(cli, target, output, appliance):
        _show(cli, check)
        if check.status == "fail":
            failed.append(check.name)
    if failed:
        raise ConnectError(f"{len(failed)} of the checks failed: {', '.join(failed)}", code=DOCTOR_FAILED)


def _vsphere(cli: Cli, machine: str | None, output: Path | None) -> Iterator[DoctorCheck]:
    from hypersdk.cli.connect import endpoint_of, with_password
    from hypersdk.vsphere.doctor import run_doctor

    endpoint = with_password(cli, endpoint_of(cli))
    return run_doctor(endpoint, cancel=cli.cancel, machine=machine, output_dir=output)


def _target(cli: Cli, target: str, output: Path | None, appliance: bool) -> Iterator[DoctorCheck]:
    from hypersdk.guest.tools import find_tools
    from hypersdk.kvm.address import parse_libvirt_address
    from hypersdk.landing.doctor import examine_landing

    address, tools = parse_libvirt_address(target), find_tools(cli.environ)
    return examine_landing(address, tools, output, appliance=appliance, cancel=cli.cancel)


def _show(cli: Cli, check: DoctorCheck) -> None:
    from rich.text import Text

    step = next_step(check)
    if cli.output.json_lines:
        facts = {"name": check.name, "status": check.status, "detail": check.detail, "next_step": step}
        cli.output.event("check", {**facts, "remedies": as_json(check.remedies)})
        return
    sign, colour = _SIGNS[check.status]
    width, name = cli.output.width or UNLIMITED, clean(check.name)
    lines = wrapped(check.detail, width - INDENT, len(name) + 2)
    detail = f"\n{' ' * INDENT}".join(lines)
    cli.output.print(Text.assemble((f"{sign} ", f"bold {colour}"), (f"{name}: ", "bold"), detail), soft_wrap=True)
    if step and check.status != "ok":
        for line in wrapped(step, width - INDENT, 0):
            cli.output.print(Text(" " * INDENT + line, style=colour), soft_wrap=True)
