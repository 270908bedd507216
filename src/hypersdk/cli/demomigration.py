"""The migration of the demo's machine onto libvirt: export, landing, and a boot that proves it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypersdk.cli.landed import conclude
from hypersdk.cli.migrating import Choices, migrate_specs, next_step
from hypersdk.cli.state import Cli
from hypersdk.errors import Cancelled, HyperSDKError
from hypersdk.guest.tools import find_tools
from hypersdk.kvm.address import LibvirtAddress, parse_libvirt_address
from hypersdk.kvm.prove import ProofOptions
from hypersdk.landing.options import LandOptions
from hypersdk.landing.request import LandingRequest
from hypersdk.landing.target import Target, open_target
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import ExportSpec
from hypersdk.model import MachineSummary
from hypersdk.text import shell_line
from hypersdk.vsphere.session import Session

FOLDER_MODE: Final = 0o711
"""Libvirt's user has to reach the images in the output folder."""


@dataclass(frozen=True, slots=True)
class DemoTarget:
    """Where the demo lands its machine, and how it asks for that."""

    target: Target
    request: LandingRequest


@contextmanager
def demo_target(cli: Cli, uri: str | None, *, marker: str, timeout_s: float) -> Iterator[DemoTarget | None]:
    """Connects to libvirt at ``uri``. Without one the machine's own libvirt is tried, and None is the answer where that
    is missing: a note says why."""
    address = parse_libvirt_address(uri) if uri is not None else _own_libvirt()
    name = f"hypersdk-demo-{secrets.token_hex(3)}"  # no domain of the user's has it
    request = LandingRequest(
        address=address, options=LandOptions(name=name), proof=ProofOptions(marker=marker, timeout_s=timeout_s)
    )
    with ExitStack() as stack:
        try:
            target = stack.enter_context(open_target(request, cancel=cli.cancel))
        except Cancelled:
            raise
        except HyperSDKError as error:
            if uri is not None:
                raise
            cli.output.note(f"The machine is not landed on {address}: {error.message}.", style="yellow")
            yield None
            return
        yield DemoTarget(target, request)


def _own_libvirt() -> LibvirtAddress:
    return parse_libvirt_address("qemu:///system" if os.geteuid() == 0 else "qemu:///session")


def migrate_demo(
    cli: Cli, session: Session, machine: MachineSummary, machines: list[MachineSummary], folder: Path, demo: DemoTarget
) -> None:
    """Exports the machine to ``folder``, lands it there and boots it once. Says how to remove the domain."""
    cli.output.note(
        "The guest is not converted: a boot sector needs no drivers. A machine of your own is.", style="dim"
    )
    spec = ExportSpec(machine=machine.moref, output_dir=folder)
    choices = Choices(RunSettings(state=cli.state_dir))
    batch = migrate_specs(cli, session, demo.target, find_tools(cli.environ), [spec], machines, demo.request, choices)
    conclude(cli, batch, next_step)
    for outcome in batch.outcomes:
        if outcome.migrated is not None and not cli.output.json_lines:
            landed = outcome.migrated.landed
            words = ["virsh", "-c", landed.uri, "undefine", landed.name]
            cli.output.line(f"To remove the domain: {shell_line(words)}")
