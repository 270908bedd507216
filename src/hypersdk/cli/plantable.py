"""Plans on the screen: one in full, several in one table with a sum, before anything is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich import box
from rich.console import RenderableType
from rich.panel import Panel
from rich.text import Text

from hypersdk.cli.batch import Batch, Failure
from hypersdk.cli.columns import Cell, Column, lay_out, size_text
from hypersdk.cli.picker.details import facts_table
from hypersdk.cli.remedies import in_one_line, warning_text
from hypersdk.cli.report import labelled, named
from hypersdk.cli.state import Cli
from hypersdk.migration.plan import Plan
from hypersdk.migration.spec import Method, SourceState
from hypersdk.text import clean, count, natural_key
from hypersdk.transfer.files import exists
from hypersdk.units import format_size

MAX_REMARKS: Final = 12
"""Remarks of one kind below the table; the table, ``--report`` and ``--json`` have all."""

METHOD_TEXT: Final = {
    Method.AUTO: "the best method that vSphere offers",
    Method.LEASE: "the export stream (lease)",
    Method.DATASTORE: "ranges of the datastore",
}


def show_plans(cli: Cli, batch: Batch, *, alone: bool) -> None:
    """Shows what each export will do and need, and which machines are skipped; with --json, events of type "plan" and
    "error". A machine that is ``alone`` is shown in full; why it is refused is reported at the end."""
    if cli.output.json_lines:
        _send_events(cli, batch, alone=alone)
    elif alone:
        for plan in batch.plans:
            cli.output.notes.print(plan_panel(plan))
    elif batch.plans or batch.skipped:
        _show_table(cli, batch)


def _send_events(cli: Cli, batch: Batch, *, alone: bool) -> None:
    for plan in batch.plans:
        cli.output.event("plan", {**plan.as_dict(), "warnings": [warning_text(warning) for warning in plan.warnings]})
    for failure in () if alone else batch.skipped:
        failure.send(cli.output)


def plan_panel(plan: Plan) -> RenderableType:
    """One plan for people."""
    facts = [(label, Text(clean(value, 400), style=style)) for label, value, style in _plan_facts(plan)]
    title = Text(f" {clean(plan.machine.name, 100)} ", style="bold")
    return Panel(
        facts_table(facts), title=title, title_align="left", box=box.ROUNDED, border_style="cyan", padding=(0, 1)
    )


def _plan_facts(plan: Plan) -> Iterator[tuple[str, str, str]]:
    spec = plan.spec
    yield "from", plan.point, ""
    yield "through", f"{plan.route}, {METHOD_TEXT[plan.method]}", ""
    yield "to", f"{spec.output_dir} as {_format_text(plan)}", ""
    for disk in plan.disks:
        yield "disk", f"{disk.label} of {format_size(disk.capacity_bytes)} -> {disk.file_name}", ""
    yield "space", f"at most {format_size(plan.needs_bytes)} to write, {format_size(plan.free_bytes)} free", ""
    if plan.resumption is not None:
        yield "resume", plan.resumption.text, ""
    for change in plan.changes or ("nothing is changed",):
        yield "at the source", change, ""
    for warning in plan.warnings:
        yield "warning", warning_text(warning), "yellow"


def _format_text(plan: Plan) -> str:
    spec = plan.spec
    return spec.format.value if spec.compress == "none" else f"{spec.format}, compressed ({spec.compress})"


# --- several machines ------------------------------------------------------------------------------------------------

COLUMNS: Final = (
    Column("Machine", least=30),
    Column("Power"),
    Column("Disks", right=True),
    Column("Provisioned", right=True),
    Column("At most", right=True),
    Column("How", least=8),
    Column("Notes", least=12, optional=True),
)


def _show_table(cli: Cli, batch: Batch) -> None:
    """A line for each machine. Below it what is done at the source, warnings and reasons, each once with the number of
    its machines; and the sum."""
    notes = cli.output.notes
    formats = len({_format_text(plan) for plan in batch.plans}) > 1
    rows = [(plan.machine.name, _plan_row(plan, formats=formats)) for plan in batch.plans]
    rows += [(failure.machine, _skipped_row(failure)) for failure in batch.skipped]
    rows.sort(key=lambda row: natural_key(row[0]))
    notes.print(lay_out(COLUMNS, [row for _, row in rows], notes.width))
    for label, text, style in _remarks(batch):
        notes.print(labelled(label, text, notes.width, style), soft_wrap=True)
    for text in _sums(batch):
        cli.output.note(text, style="bold")


def _plan_row(plan: Plan, *, formats: bool) -> list[Cell]:
    how = _how(plan)
    warnings = [warning.text for warning in plan.warnings]
    remarks = ([plan.resumption.text] if plan.resumption else []) + warnings
    return [
        (clean(plan.machine.name, 100), "bold"),
        (plan.machine.power.value, ""),
        (str(len(plan.disks)), ""),
        (format_size(sum(disk.capacity_bytes for disk in plan.disks)), ""),
        (format_size(plan.needs_bytes), ""),
        (clean(f"{_format_text(plan)}, {how}" if formats else how, 100), ""),
        (clean("; ".join(remarks), 200), "yellow" if warnings else "dim"),
    ]


def _how(plan: Plan) -> str:
    """How the machine is kept from changing its disks, in two words."""
    if plan.temporary_snapshot:
        return "snapshot"
    if plan.snapshot is not None:
        return f"of '{plan.spec.snapshot}'"
    words = {SourceState.POWER_OFF: "power off", SourceState.SHUTDOWN: "shut down"}
    return words.get(plan.spec.state, "as it is") if plan.machine.power == "on" else "as it is"


def _skipped_row(failure: Failure) -> list[Cell]:
    summary = failure.summary
    return [
        (clean(failure.machine, 100), "red"),
        ("" if summary is None else summary.power.value, ""),
        ("" if summary is None else str(summary.disk_count), ""),
        ("" if summary is None else size_text(summary.provisioned_bytes), ""),
        ("", ""),
        ("skipped", "red"),
        (clean(failure.error.message, 200), "red"),
    ]


def _remarks(batch: Batch) -> Iterator[tuple[str, str, str]]:
    """Label, text and style of what stands below the table."""
    total = len(batch.plans)
    changes = Counter(change for plan in batch.plans for change in plan.changes)
    yield from (("source", f"{change} ({number} of {total})", "") for change, number in changes.items())
    warned = [(plan.machine.name, warning_text(found)) for plan in batch.plans for found in plan.warnings]
    yield from grouped("warning", warned, "yellow")
    yield from grouped("skipped", reasons_of(batch.skipped), "red")


def reasons_of(failures: Iterable[Failure]) -> Iterator[tuple[str, str]]:
    """Each machine with each of its reasons: the same text for machines that are skipped for the same reason."""
    for failure in failures:
        for reason in failure.error.reasons or (failure.error,):
            what = reason.message.removeprefix(f"'{failure.machine}' ")
            yield failure.machine, f"{what} ({reason.code}). {in_one_line(reason)}"


def grouped(label: str, remarks: Iterable[tuple[str, str]], style: str) -> Iterator[tuple[str, str, str]]:
    """Each text once, behind the machines that it holds for."""
    machines: dict[str, list[str]] = {}
    for name, text in remarks:
        machines.setdefault(text, []).append(name)
    for text, names in list(machines.items())[:MAX_REMARKS]:
        yield label, f"{named(names)}: {text}", style
    if len(machines) > MAX_REMARKS:
        yield label, f"and {len(machines) - MAX_REMARKS} more; --report FILE and --json have all", style


def _sums(batch: Batch) -> Iterator[str]:
    skipped = f", {count(len(batch.skipped), 'machine')} skipped" if batch.skipped else ""
    if not batch.plans:
        yield f"None of {count(batch.size, 'machine')} can be exported"
        return
    disks = [disk for plan in batch.plans for disk in plan.disks]
    provisioned = format_size(sum(disk.capacity_bytes for disk in disks))
    kinds = ", ".join(dict.fromkeys(map(_format_text, batch.plans)))
    whole = f"{count(len(batch.plans), 'machine')}, {count(len(disks), 'disk')} of {provisioned}, as {kinds}{skipped}"
    yield whole
    yield from space_texts(batch.plans)


def space_texts(plans: Iterable[Plan]) -> Iterator[str]:
    """What is written at most to each file system, and what is free there."""
    for place in places_of(plans):
        yield (
            f"At most {format_size(place.needs_bytes)} to write to {clean(str(place.folder), 400)},"
            f" {format_size(place.free_bytes)} free{_doubt(place)}"
        )


def _doubt(place: Place) -> str:
    """Each machine alone has room, else it is skipped."""
    return ": that may not be enough for all" if place.needs_bytes > place.free_bytes else ""


@dataclass(slots=True)
class Place:
    """One file system that plans write to: its free space, what they need at most, and the folder above them."""

    folder: Path
    free_bytes: int
    needs_bytes: int = 0


def places_of(plans: Iterable[Plan]) -> list[Place]:
    """The file systems that ``plans`` write to."""
    found: dict[int, Place] = {}
    for plan in plans:
        folder = plan.spec.output_dir.absolute()
        place = found.setdefault(device_of(folder), Place(folder, plan.free_bytes))
        while place.folder not in (folder, *folder.parents):
            place.folder = place.folder.parent
        place.needs_bytes += plan.needs_bytes
    return list(found.values())


def device_of(folder: Path) -> int:
    """The file system of a folder that may not exist yet."""
    return next(parent for parent in (folder, *folder.parents) if exists(parent)).stat().st_dev
