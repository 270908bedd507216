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
from hypersdk.errors import TARGET_DENIED, TargetError, UsageError
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
@click.argument("what", required=False, type=click.Choice(["migrate"]), metavar="[migrate]")
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
@click.option(
    "--to",
    "target",
    metavar="URI",
    help="With `migrate`: libvirt of the target (default: this machine's own, where it answers).",
)
@output_options
@pass_cli
def command(cli: Cli, what: str | None, output: Path | None, machines: int, target: str | None) -> None:
    """Try an export against a built-in vCenter simulator: list, export to qcow2, verify, boot.

    With `migrate`, the machine is also landed on libvirt: its domain is defined, and booted once as a proof.

    Takes less than a minute and needs neither a vCenter nor root. The boot is skipped where qemu is not installed.
    """
    if target is not None and what is None:
        raise UsageError("--to has no effect without `migrate`", next_step="Like `hyper2kvm demo migrate --to URI`.")
    with ExitStack() as told:
        session = told.enter_context(_simulated(cli, machines))
        chosen = _list(cli, session)
        folder = told.enter_context(_folder(cli, output))
        if what is None or not _migrated(cli, session, chosen, folder, target):
            _exported(cli, session, chosen, folder)
        _step(cli, "Done")
    command = "migrate VM --to qemu:///system --prove" if what else "-u vcenter.example.com --username you@example.com"
    cli.output.note(f"With a real vCenter: hyper2kvm {command}", style="dim")


def _exported(cli: Cli, session: Session, machines: list[MachineSummary], folder: Path) -> None:
    from hypersdk.cli.exporting import conclude, in_boot_order

    batch = _export(cli, session, machines, folder)
    conclude(cli, batch)
    _verify(cli, folder)
    _boot(cli, folder / in_boot_order(batch.plans[0])[0].file_name)


def _verify(cli: Cli, folder: Path) -> None:
    from hypersdk.cli.verifying import raise_for_findings, verify_folder

    _step(cli, "Verify: read the files back and compare them with the manifest")
    raise_for_findings(verify_folder(cli, folder))


def _migrated(cli: Cli, session: Session, machines: list[MachineSummary], folder: Path, uri: str | None) -> bool:
    """Migrates the machine; says whether there was a target."""
    from hypersdk.cli.demomigration import FOLDER_MODE, demo_target, migrate_demo
    from hypersdk.simulator.bootsector import MARKER

    with demo_target(cli, uri, marker=MARKER, timeout_s=BOOT_TIMEOUT_S) as target:
        if target is None:
            return False
        _step(cli, f"Migrate {DEMO_MACHINE} to {target.request.address}")
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(FOLDER_MODE)
        (machine,) = (machine for machine in machines if machine.name == DEMO_MACHINE)
        migrate_demo(cli, session, machine, machines, folder, target)
    _verify(cli, folder)
    return True


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
        memory_mb=64,
        nics=0,  # nothing to map, and nothing to disturb
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
