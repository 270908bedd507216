"""Plans made, shown, carried out and told of: what the command, the interactive flow and the demo share."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hypersdk.cli.report import report, tell
from hypersdk.cli.state import Cli
from hypersdk.cli.text import clean, count
from hypersdk.errors import Cancelled, HyperSDKError, PartlyFailed, Refused
from hypersdk.migration.spec import ExportSpec, OutputFormat
from hypersdk.model import Firmware, MachineSummary
from hypersdk.units import MiB, format_duration, format_size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hypersdk.migration.export import Outcome
    from hypersdk.migration.plan import Plan
    from hypersdk.migration.publish import ExportResult
    from hypersdk.migration.settings import RunSettings
    from hypersdk.vsphere.session import Session


@dataclass(frozen=True, slots=True)
class Failure:
    """One machine that was not exported, or not put back."""

    machine: str
    error: HyperSDKError


def folders_for(base: Path, machines: Sequence[MachineSummary], *, own: bool = False) -> list[Path]:
    """One output folder each: ``base`` itself for one machine (unless it shall have its ``own``), else one below it named after the machine.

    Where names meet, the moref is added.
    """
    from hypersdk.migration.naming import stem_of

    if len(machines) == 1 and not own:
        return [base]
    stems = [stem_of(machine.name) for machine in machines]
    return [
        base / (stem if stems.count(stem) == 1 else f"{stem}-{machine.moref}")
        for stem, machine in zip(stems, machines, strict=True)
    ]


def make_plans(
    cli: Cli, session: Session, specs: Sequence[ExportSpec], machines: Sequence[MachineSummary], settings: RunSettings
) -> tuple[list[Plan], list[Failure]]:
    """A plan for each machine that can be exported, and the reason for each that cannot. Nothing is changed."""
    from hypersdk.migration.plan import make_plan

    plans, failures = [], []
    names = {machine.moref: machine.name for machine in machines}
    with cli.output.working("Planning ...") as show:
        for number, spec in enumerate(specs, start=1):
            name = names.get(spec.machine, spec.machine)
            show(f"Planning {number} of {len(specs)}: {name} ...")
            try:
                plans.append(make_plan(session, spec, cancel=cli.cancel, machines=machines, floor=settings.floor))
            except Cancelled:
                raise
            except HyperSDKError as error:
                failures.append(Failure(name, error))
    _check_shared_space(plans, failures)
    return plans, failures


def _check_shared_space(plans: list[Plan], failures: list[Failure]) -> None:
    """Each plan has room on its own; together they may not have. Refuses those that no longer fit, in order."""
    left: dict[int, int] = {}
    for plan in list(plans):
        device = _device_of(plan.spec.output_dir)
        room = left.get(device, plan.free_bytes)
        if plan.needs_bytes > room:
            plans.remove(plan)
            failures.append(Failure(plan.machine.name, _too_small_together(plan, room)))
        else:
            left[device] = room - plan.needs_bytes


def _device_of(folder: Path) -> int:
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return existing.stat().st_dev


def _too_small_together(plan: Plan, room: int) -> HyperSDKError:
    return Refused(
        f"'{plan.machine.name}' may need {format_size(plan.needs_bytes)}, the machines before it leave {format_size(room)}",
        code="target_too_small",
    )


def show_plans(cli: Cli, plans: Sequence[Plan], failures: Sequence[Failure]) -> None:
    """What will be done, to whom, and what it takes; events of type "plan" with --json."""
    for plan in plans:
        if cli.output.json_lines:
            cli.output.event("plan", plan.as_dict())
        else:
            cli.output.notes.print(plan_panel(plan))
    if len(plans) > 1 and not cli.output.json_lines:
        needs = sum(plan.needs_bytes for plan in plans)
        cli.output.note(f"{count(len(plans), 'machine')}: at most {format_size(needs)} to write", style="bold")
    for failure in failures:
        tell_failure(cli, failure)


def plan_panel(plan: Plan) -> RenderableType:
    """One plan for people."""
    from rich import box
    from rich.panel import Panel
    from rich.text import Text

    from hypersdk.cli.picker.details import facts_table

    facts = [(label, Text(clean(value, 400), style=style)) for label, value, style in _plan_facts(plan)]
    title = Text(f" {clean(plan.machine.name, 100)} ", style="bold")
    return Panel(
        facts_table(facts), title=title, title_align="left", box=box.ROUNDED, border_style="cyan", padding=(0, 1)
    )


def _plan_facts(plan: Plan) -> Iterator[tuple[str, str, str]]:
    spec = plan.spec
    compress = "" if spec.compress == "none" else f", compressed ({spec.compress})"
    yield "from", f"{plan.point}, via {plan.route} ({plan.method})", ""
    yield "to", f"{spec.output_dir} as {spec.format}{compress}", ""
    for disk in plan.disks:
        yield (
            "disk",
            f"{disk.label}: {format_size(disk.capacity_bytes)}, at most {format_size(disk.expected_bytes)} -> {disk.file_name}",
            "",
        )
    yield "space", f"needs at most {format_size(plan.needs_bytes)}, {format_size(plan.free_bytes)} free", ""
    for change in plan.changes or ("nothing is changed",):
        yield "at the source", change, ""
    for warning in plan.warnings:
        yield "warning", warning, "yellow"


def carry_out(cli: Cli, session: Session, plans: Sequence[Plan], settings: RunSettings) -> list[Outcome]:
    """Exports all, with live progress."""
    from hypersdk.cli.progress import watching
    from hypersdk.migration.export import export_machines

    with watching(cli.output) as observer:
        return export_machines(session, plans, cancel=cli.cancel, observer=observer, settings=settings)


def conclude(cli: Cli, outcomes: Sequence[Outcome], failures: Sequence[Failure]) -> None:
    """Tells how each machine ended, and raises what decides the exit status. ``failures`` of several were told with the plans."""
    for outcome in outcomes:
        if outcome.result is not None:
            show_result(cli, outcome.result)
    ended = [Failure(outcome.plan.machine.name, outcome.error) for outcome in outcomes if outcome.error]
    total = len(outcomes) + len(failures)
    if total == 1:
        for failure in (*failures, *ended):
            raise failure.error
    for failure in ended:
        if not isinstance(failure.error, Cancelled):
            tell_failure(cli, failure)
    for failure in ended:
        if isinstance(failure.error, Cancelled):
            raise failure.error
    if failures or ended:
        raise _partly_failed(outcomes, [*failures, *ended], total)


def _partly_failed(outcomes: Sequence[Outcome], failed: Sequence[Failure], total: int) -> PartlyFailed:
    done = sum(outcome.result is not None for outcome in outcomes)
    return PartlyFailed(
        f"{len(failed)} of {count(total, 'machine')} failed",
        exported=done, failed=[{"machine": failure.machine, "code": failure.error.code} for failure in failed],
    )  # fmt: skip


def tell_failure(cli: Cli, failure: Failure) -> None:
    """One machine's failure among several: an event of type "error" that names it, or a message."""
    if cli.output.json_lines:
        cli.output.event("error", {"machine": failure.machine, **failure.error.as_dict()})
    elif failure.machine in failure.error.message:
        tell(cli.output, failure.error)
    else:
        cli.output.note(f"{failure.machine}:", style="bold")
        report(cli.output, failure.error)


def show_result(cli: Cli, result: ExportResult) -> None:
    """What lies where now, what proves it, and what to do next; an event of type "result" with --json."""
    if cli.output.json_lines:
        cli.output.event("result", result.as_dict())
        return
    from rich.text import Text

    heading = Text(f"✔ {clean(result.machine, 200)} -> {clean(str(result.output_dir))}", style="bold green")
    cli.output.console.print(heading, soft_wrap=True)
    for file in result.files:
        cli.output.line(f"  {file.name}  {format_size(file.size_bytes)}")
        if file.sha256:
            cli.output.line(f"      sha256 {file.sha256}")
        if content := result.content.get(file.name):
            cli.output.line(f"      guest content {content}")
    for label, text in _result_facts(result):
        cli.output.line(f"  {label:<8} {text}")


def _result_facts(result: ExportResult) -> Iterator[tuple[str, str]]:
    yield "proof", _proof_text(result.proof)
    rate = result.wire_bytes / result.elapsed_s if result.elapsed_s else 0.0
    taken = f"{format_size(result.wire_bytes)} received in {format_duration(result.elapsed_s)} ({format_size(rate)}/s)"
    yield "moved", f"{taken}, {format_size(result.data_bytes)} of data on {format_size(result.capacity_bytes)} of disk"
    if result.blocks_skipped:
        yield "resumed", f"{format_size(result.blocks_skipped * MiB // 16)} had been copied before"
    yield "source", "left as it was found" if result.restored else "NOT put back; run `hyper2kvm cleanup`"
    for warning in result.warnings:
        yield "warning", warning
    yield "next", f"hyper2kvm verify {shlex.quote(str(result.output_dir))}"


def _proof_text(proof: str) -> str:
    return "proved: what was received is what the server's own manifest says" if proof == "proved" else proof


def import_command(plan: Plan, result: ExportResult) -> str | None:
    """The command that starts the machine on KVM, for the formats that KVM runs."""
    if plan.spec.format not in (OutputFormat.QCOW2, OutputFormat.RAW):
        return None
    machine = plan.machine
    words = [
        "virt-install", "--import", "--name", machine.name, "--memory", str(machine.summary.memory_bytes // MiB),
        "--vcpus", str(machine.summary.cpus), "--osinfo", "detect=on,require=off",
    ]  # fmt: skip
    for disk in plan.disks:
        words += ["--disk", f"path={result.output_dir / disk.file_name},format={plan.spec.format}"]
    for nic in machine.nics:
        words += ["--network", "network=default" + (f",mac={nic.mac}" if nic.mac else "")]
    if machine.firmware is Firmware.EFI:
        words += ["--boot", "uefi"]
    return shlex.join(words)


def show_next_steps(cli: Cli, outcomes: Sequence[Outcome]) -> None:
    """How to start what was exported; for people only."""
    commands = [
        (outcome.plan.machine.name, command)
        for outcome in outcomes
        if outcome.result is not None and (command := import_command(outcome.plan, outcome.result))
    ]
    for name, command in commands[:3]:
        cli.output.note(f"To start {name} on this machine's KVM (stop the original first):", style="dim")
        cli.output.notes.print(f"  {clean(command)}", soft_wrap=True)


def resolve(machines: Sequence[MachineSummary], selectors: Sequence[str]) -> list[MachineSummary]:
    """The machines that ``selectors`` name, each once, in that order. Raises LookupFailed."""
    from hypersdk.vsphere.inventory import find_machine

    found = [find_machine(machines, selector) for selector in selectors]
    return list({machine.moref: machine for machine in found}.values())


def specs_for(
    template: ExportSpec, machines: Sequence[MachineSummary], *, own_folder: bool = False
) -> list[ExportSpec]:
    """``template`` for each machine; its folder is the base of theirs."""
    folders = folders_for(template.output_dir, machines, own=own_folder)
    return [
        replace(template, machine=machine.moref, output_dir=folder)
        for machine, folder in zip(machines, folders, strict=True)
    ]
