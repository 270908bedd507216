"""`hyper2kvm demo`: a whole migration against a simulator in this process. Nothing outside this machine is changed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hypersdk.cli.options import output_options
from hypersdk.cli.programs.groups import Command
from hypersdk.cli.state import Cli, pass_cli
from hypersdk.errors import TARGET_DENIED, TargetError
from hypersdk.migration.spec import ExportSpec
from hypersdk.text import shell_word
from hypersdk.transfer.files import exists
from hypersdk.units import MiB, format_duration

if TYPE_CHECKING:
    from hypersdk.cli.batch import Batch
    from hypersdk.model import MachineSummary
    from hypersdk.simulator import Simulator
    from hypersdk.vsphere.session import Session

DEMO_MACHINE: Final = "hypersdk-demo"
DEMO_RATE_BYTES_S: Final = 40 * MiB
"""A stream's rate: slow enough to watch the progress for a few seconds."""
BOOT_TIMEOUT_S: Final = 120.0
"""For qemu without hardware acceleration on a busy machine; the boot sector itself takes a second."""


@click.command("demo", cls=Command)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Output folder (default: a new one in the temporary folder).",
)
@click.option(
    "--machines",
    type=click.IntRange(0, 5000),
    default=12,
    show_default=True,
    help="Number of other machines in the simulated vCenter.",
)
@output_options
@pass_cli
def command(cli: Cli, output: Path | None, machines: int) -> None:
    """Try a migration against a built-in vCenter simulator: list, export to qcow2, verify, boot.

    Takes less than a minute and needs neither a vCenter nor root. The boot is skipped where qemu is not installed.
    """
    from hypersdk.cli.exporting import conclude, in_boot_order
    from hypersdk.cli.verifying import raise_for_findings, verify_folder

    with ExitStack() as told:
        with _simulated(cli, machines) as session:
            chosen = _list(cli, session)
            folder = told.enter_context(_folder(cli, output))
            batch = _export(cli, session, chosen, folder)
        conclude(cli, batch)
        _step(cli, "Verify: read the files back and compare them with the manifest")
        raise_for_findings(verify_folder(cli, folder))
        _boot(cli, folder / in_boot_order(batch.plans[0])[0].file_name)
        _step(cli, "Done")
    cli.output.note("With a real vCenter: hyper2kvm -u vcenter.example.com --username you@example.com", style="dim")


@contextmanager
def _folder(cli: Cli, output: Path | None) -> Iterator[Path]:
    """The output folder. Says at the end, also after an error, what was left there and how to remove it."""
    folder = output.absolute() if output is not None else _new_folder()
    is_ours = output is None or not exists(folder)
    try:
        yield folder
    finally:
        if exists(folder):
            cli.output.line(f"The images are in {folder}")
            if is_ours:  # else it held something before
                cli.output.line(f"To remove them: rm -r {shell_word(str(folder))}")


def _new_folder() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="hypersdk-demo-"))
    except OSError as error:
        raise TargetError(f"no temporary folder can be created: {error.strerror}", code=TARGET_DENIED) from error


def _step(cli: Cli, text: str) -> None:
    cli.output.note(f"▸ {text}", style="bold cyan")


@contextmanager
def _simulated(cli: Cli, machines: int) -> Iterator[Session]:
    """A login to a simulator that lives as long as the block."""
    from hypersdk.net.certificate import TlsPolicy
    from hypersdk.vsphere.endpoint import Endpoint
    from hypersdk.vsphere.session import Session

    _step(cli, f"Start a simulated vCenter with {machines + 1} machines")
    with _simulator(machines) as simulator:
        cli.output.note(f"It listens on {simulator.url}; its certificate is pinned.", style="dim")
        endpoint = Endpoint(
            host=simulator.host,
            port=simulator.port,
            username=simulator.config.username,
            password=simulator.config.password,
            tls=TlsPolicy(thumbprint=simulator.thumbprint_sha256),
        )
        with Session.connect(endpoint, cancel=cli.cancel) as session:
            yield session


def _simulator(machines: int) -> Simulator:
    from hypersdk.simulator import DiskSpec, MachineSpec, Simulator, SimulatorConfig

    machine = MachineSpec(
        name=DEMO_MACHINE,
        disks=(DiskSpec(boot=True), DiskSpec(capacity_bytes=1024 * MiB, allocated_bytes=256 * MiB)),
        annotation="A boot sector that says hello, and a disk to watch.",
    )
    return Simulator(SimulatorConfig(vms=machines, machines=(machine,), rate_bytes_s=DEMO_RATE_BYTES_S))


def _list(cli: Cli, session: Session) -> list[MachineSummary]:
    from hypersdk.cli.machines import list_table, read_inventory, summary_object

    _step(cli, "List its machines")
    machines = read_inventory(cli, session, remembered=False)  # the server is gone soon
    for machine in machines if cli.output.json_lines else ():
        cli.output.event("machine", summary_object(machine))
    cli.output.print(list_table(machines[:20], cli.output.width))
    return machines


def _export(cli: Cli, session: Session, machines: list[MachineSummary], folder: Path) -> Batch:
    from hypersdk.cli.exporting import carry_out, make_plans
    from hypersdk.cli.plantable import show_plans
    from hypersdk.migration.settings import RunSettings

    _step(cli, f"Export {DEMO_MACHINE} to qcow2")
    settings = RunSettings(state=cli.state_dir)
    spec = ExportSpec(machine=DEMO_MACHINE, output_dir=folder)
    batch = make_plans(cli, session, [spec], machines, settings)
    for failure in batch.skipped:
        raise failure.error
    show_plans(cli, batch, alone=True)
    carry_out(cli, session, batch, batch.plans, settings)
    return batch


def _boot(cli: Cli, image: Path) -> None:
    from hypersdk.kvm.boot import find_qemu, prove_boot
    from hypersdk.simulator.bootsector import MARKER

    _step(cli, "Boot the image")
    if find_qemu() is None:
        cli.output.note("Skipped: qemu-system-x86_64 is not installed.", style="yellow")
        return
    with cli.output.working("Waiting for its serial port ..."):
        proof = prove_boot(image, marker=MARKER, timeout_s=BOOT_TIMEOUT_S, cancel=cli.cancel)
    if proof is None:
        return
    if cli.output.json_lines:
        cli.output.event("booted", {"image": image, "line": proof.line, "seconds": round(proof.seconds, 2)})
    else:
        cli.output.line(
            f"✔ {image.name} booted: its serial port showed {proof.line} after {format_duration(proof.seconds)}"
        )
