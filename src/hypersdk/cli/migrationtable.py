"""The plan of each migration on the screen, before anything is changed: one in full, several in one table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from rich import box
from rich.console import RenderableType
from rich.panel import Panel
from rich.text import Text

from hypersdk.cli.batch import Failure
from hypersdk.cli.columns import Cell, Column, lay_out
from hypersdk.cli.picker.details import facts_table
from hypersdk.cli.plantable import grouped, reasons_of, space_texts
from hypersdk.cli.remedies import warning_text
from hypersdk.cli.report import labelled, named
from hypersdk.cli.state import Cli
from hypersdk.landing.disks import Placing, StoragePlan
from hypersdk.landing.earlier import Earlier
from hypersdk.landing.fence import Fence, needs_fence
from hypersdk.landing.plans import MigrationPlan
from hypersdk.landing.request import LandingRequest
from hypersdk.model import Firmware
from hypersdk.model.guestplan import GuestPlan
from hypersdk.text import clean, count, natural_key
from hypersdk.units import format_size

COLUMNS: Final = (
    Column("Machine", least=20),
    Column("Power"),
    Column("Disks", right=True),
    Column("Firmware", optional=True),
    Column("Networks", least=12),
    Column("Domain", least=12, optional=True),
    Column("Source"),
    Column("Notes", least=12, optional=True),
)
_PLACINGS: Final = {Placing.MOVE: "moved", Placing.COPY: "copied", Placing.UPLOAD: "uploaded"}
_WORK: Final = {
    Earlier.UNFINISHED: "its export is resumed",
    Earlier.OUTDATED: "it is exported again",
    Earlier.EXPORTED: "its finished export is used",
}


def show_migrations(
    cli: Cli,
    plans: Sequence[MigrationPlan],
    skipped: Sequence[Failure],
    earlier: Sequence[MigrationPlan],
    request: LandingRequest,
) -> None:
    """What will be done to each machine, which are skipped, and which are migrated already; with --json, events of type
    "plan", "error" and "skipped"."""
    alone = len(plans) + len(skipped) + len(earlier) == 1
    if cli.output.json_lines:
        _send(cli, plans, () if alone else skipped, earlier)
        return
    if earlier:
        cli.output.note(f"{named([plan.name for plan in earlier])}: already migrated, skipped", style="dim")
    if alone:
        for plan in plans:
            cli.output.notes.print(plan_panel(plan.name, _facts(plan, request)))
    elif plans or skipped:
        _show_table(cli, plans, skipped, request)


def _send(
    cli: Cli, plans: Sequence[MigrationPlan], skipped: Sequence[Failure], earlier: Sequence[MigrationPlan]
) -> None:
    for plan in earlier:
        facts = {"machine": plan.machine.moref, "output_dir": plan.spec.output_dir, "reason": "migrated"}
        cli.output.event("skipped", facts)
    for plan in plans:
        warnings = [warning_text(warning) for warning in plan.warnings()]
        cli.output.event("plan", {**plan.as_dict(), "warnings": warnings})
    for failure in skipped:
        failure.send(cli.output)


# --- one machine -----------------------------------------------------------------------------------------------------


def plan_panel(name: str, facts: Iterable[tuple[str, str, str]]) -> RenderableType:
    """The plan of one machine: ``facts`` are label, text and style."""
    rows = [(label, Text(clean(value, 400), style=style)) for label, value, style in facts]
    title = Text(f" {clean(name, 100)} ", style="bold")
    return Panel(
        facts_table(rows), title=title, title_align="left", box=box.ROUNDED, border_style="cyan", padding=(0, 1)
    )


def _facts(plan: MigrationPlan, request: LandingRequest) -> Iterator[tuple[str, str, str]]:
    assert plan.domain is not None
    if plan.export is not None:
        yield "export", f"{plan.export.point}, to {plan.spec.output_dir} as {plan.spec.format.value}", ""
        space = f"at most {format_size(plan.export.needs_bytes)} to write, {format_size(plan.export.free_bytes)} free"
        yield "space", space, ""
    if plan.earlier in _WORK:
        yield "earlier", _WORK[plan.earlier], ""
    yield from domain_facts(plan.domain, request)
    if plan.storage is not None:
        yield "storage", storage_text(plan.storage), ""
    for change in plan.export.changes if plan.export else ():
        yield "at the source", change, ""
    yield "afterwards", afterwards(request, plan.fence), ""
    for warning in plan.warnings():
        yield "warning", warning_text(warning), "yellow"


def domain_facts(domain: GuestPlan, request: LandingRequest) -> Iterator[tuple[str, str, str]]:
    """Label, text and style of what the machine becomes."""
    by_drivers = request.conversion is not None
    if by_drivers:
        yield "guest", "converted by virt-v2v; disk bus and network card follow the drivers that it has then", ""
    else:
        yield "guest", "landed as it is, without a conversion", ""
    yield "domain", f"{domain.name} on {request.address}", ""
    yield "machine", machine_text(domain), ""
    for disk in domain.disks:
        on_bus = "" if by_drivers and request.options.disk_bus is None else f" on {disk.bus.value}"
        yield "disk", f"{disk.label} of {format_size(disk.capacity_bytes)}{on_bus}", ""
    for nic in domain.nics:
        where = f"{'bridge' if nic.bridge else 'network'} {nic.target}"
        model = "" if by_drivers and request.options.nic_model is None else f", {nic.model.value}"
        yield "network", f"{nic.mac or 'a new MAC address'} on {where}{model}", ""


def storage_text(storage: StoragePlan) -> str:
    """Where the disks will lie, and what is written once more for that."""
    if storage.pool is None:
        return "the images stay where they are"
    ways = " or ".join(_PLACINGS[placing] for placing in storage.placings) or "put"
    more = f", at most {format_size(storage.extra_bytes)} more to write" if storage.extra_bytes else ""
    return f"{ways} into the storage pool {storage.pool.name}{more}"


def machine_text(domain: GuestPlan) -> str:
    """Size and firmware of a domain."""
    firmware = "UEFI" if domain.firmware is Firmware.EFI else "BIOS"
    firmware += " with secure boot" if domain.secure_boot else ""
    firmware += ", TPM" if domain.tpm else ""
    emulated = "" if domain.virt_type == "kvm" else ", emulated"
    return f"{count(domain.cpus, 'CPU')}, {format_size(domain.memory_bytes)}, {firmware}{emulated}"


def afterwards(request: LandingRequest, fence: Fence | None = None) -> str:
    """What is done with the landed machine, and what keeps it apart from its source."""
    options = request.options
    words = ["a boot without network proves that it runs"] if request.proof is not None else []
    words += ["the landed machine is started" if options.start else "the landed machine is defined and not started"]
    words += ["it starts with its host"] if options.autostart else []
    words += [fence.value] if fence is not None and needs_fence(options) else []
    return "; ".join(words)


# --- several machines ------------------------------------------------------------------------------------------------


def _show_table(cli: Cli, plans: Sequence[MigrationPlan], skipped: Sequence[Failure], request: LandingRequest) -> None:
    rows = [(plan.name, _row(plan)) for plan in plans]
    rows += [(failure.machine, _skipped_row(failure)) for failure in skipped]
    show_table(cli, COLUMNS, rows, _remarks(plans, skipped), _sums(plans, skipped, request))


def show_table(
    cli: Cli,
    columns: Sequence[Column],
    rows: Sequence[tuple[str, Sequence[Cell]]],
    remarks: Iterable[tuple[str, str, str]],
    sums: Iterable[str],
) -> None:
    """A line for each machine, sorted by name; the last column only where it says something. Below it ``remarks``
    (label, text, style), and the sums."""
    notes = cli.output.notes
    cells = [row for _, row in sorted(rows, key=lambda row: natural_key(row[0]))]
    shown = columns if any(row[-1][0] for row in cells) else columns[:-1]
    notes.print(lay_out(shown, cells, notes.width))
    for label, text, style in remarks:
        notes.print(labelled(label, text, notes.width, style), soft_wrap=True)
    for text in sums:
        cli.output.note(text, style="bold")


def _row(plan: MigrationPlan) -> list[Cell]:
    assert plan.domain is not None
    disks, *others = domain_cells(plan.name, plan.domain)
    notes = [_WORK[plan.earlier]] if plan.earlier in _WORK else []
    notes += [warning.text for warning in plan.warnings()]
    return [
        (clean(plan.name, 100), "bold"),
        (plan.machine.power.value, ""),
        disks,
        *others,
        (plan.fence.value, ""),
        (clean("; ".join(notes), 200), "yellow" if list(plan.warnings()) else "dim"),
    ]


def domain_cells(name: str, domain: GuestPlan) -> list[Cell]:
    """Disks, firmware, networks and name of the domain that the machine ``name`` becomes."""
    size = format_size(sum(disk.capacity_bytes for disk in domain.disks))
    targets = ", ".join(dict.fromkeys(clean(nic.target, 60) for nic in domain.nics)) or "none"
    return [
        (f"{len(domain.disks)} of {size}", ""),
        ("secure boot" if domain.secure_boot else domain.firmware.value, ""),
        (targets, ""),
        (domain.name if domain.name != name else "same name", "" if domain.name != name else "dim"),
    ]


def _skipped_row(failure: Failure) -> list[Cell]:
    blank: Cell = ("", "")
    return [
        (clean(failure.machine, 100), "red"), blank, blank, blank, blank, blank,
        ("skipped", "red"), (clean(failure.error.message, 200), "red"),
    ]  # fmt: skip


def _remarks(plans: Sequence[MigrationPlan], skipped: Sequence[Failure]) -> Iterator[tuple[str, str, str]]:
    changes = [(plan.name, change) for plan in plans for change in (plan.export.changes if plan.export else ())]
    yield from grouped("source", changes, "")
    warned = [(plan.name, warning_text(warning)) for plan in plans for warning in plan.warnings()]
    yield from grouped("warning", warned, "yellow")
    yield from grouped("skipped", reasons_of(skipped), "red")


def _sums(plans: Sequence[MigrationPlan], skipped: Sequence[Failure], request: LandingRequest) -> Iterator[str]:
    domains = [plan.domain for plan in plans if plan.domain is not None]
    yield sum_text(domains, len(skipped), request, "migrated")
    yield from space_texts([plan.export for plan in plans if plan.export is not None])


def sum_text(domains: Sequence[GuestPlan], skipped: int, request: LandingRequest, verb: str) -> str:
    """How many machines and disks there are, and where they go."""
    if not domains:
        return f"None of {count(skipped, 'machine')} can be {verb}"
    disks = [disk for domain in domains for disk in domain.disks]
    size = format_size(sum(disk.capacity_bytes for disk in disks))
    left_out = f", {count(skipped, 'machine')} skipped" if skipped else ""
    return f"{count(len(domains), 'machine')}, {count(len(disks), 'disk')} of {size}, to {request.address}{left_out}"
