"""Makes, shows, runs and reports plans, for the command, the interactive flow and the demo."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import RenderableType
from rich.panel import Panel
from rich.text import Text

from hypersdk.cli.columns import Column, lay_out
from hypersdk.cli.options import connection_words
from hypersdk.cli.picker.details import facts_table
from hypersdk.cli.progress import watching
from hypersdk.cli.remedies import error_dict, warning_text
from hypersdk.cli.report import LABEL_CELLS, labelled, report, show_error
from hypersdk.cli.state import Cli
from hypersdk.errors import Cancelled, HyperSDKError, PartlyFailed, Refused
from hypersdk.migration.export import Outcome, export_machines
from hypersdk.migration.formats import FORMATS
from hypersdk.migration.naming import MANIFEST_NAME, stem_of
from hypersdk.migration.plan import Plan, PlannedDisk, make_plan
from hypersdk.migration.readback import read_small
from hypersdk.migration.runfile import RUN_FILE
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import ExportSpec, Method, ResumeMode
from hypersdk.model import Firmware, MachineSummary, boot_sequence
from hypersdk.remedies import of_source
from hypersdk.text import clean, count, shell_line, shell_word
from hypersdk.units import MiB, format_duration, format_size
from hypersdk.vsphere.inventory import find_machine
from hypersdk.vsphere.session import Session

if TYPE_CHECKING:
    from hypersdk.migration.publish import ExportResult

SNAPSHOT_KEPT: Final = "24 hours"
"""For people; ``migration.runs.SNAPSHOT_MAX_AGE``, whose module takes long to import."""
MAX_PANELS: Final = 3
"""Plans shown in full; more of them get a line each."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One machine that was not exported, or not restored."""

    machine: str
    error: HyperSDKError


def still_to_do(cli: Cli, specs: Sequence[ExportSpec], machines: Sequence[MachineSummary]) -> list[ExportSpec]:
    """The exports to run with ``--resume`` for several machines: unfinished ones are resumed, the others started,
    finished ones skipped.

    A single machine is not checked: there must be something to resume.
    """
    if len(specs) < 2:
        return list(specs)
    waiting = []
    for spec in specs:
        if spec.resume is not ResumeMode.RESUME or holds_run(spec.output_dir):
            waiting.append(spec)
        elif not _is_done(spec, machines):
            waiting.append(replace(spec, resume=ResumeMode.REFUSE))
        elif cli.output.json_lines:
            cli.output.event("skipped", {"machine": spec.machine, "output_dir": spec.output_dir, "reason": "exported"})
        else:
            cli.output.note(f"{spec.output_dir}: already exported, skipped", style="dim")
    return waiting


def holds_run(folder: Path) -> bool:
    """Whether ``folder`` has an unfinished export."""
    return (folder / RUN_FILE).exists()


def _is_done(spec: ExportSpec, machines: Sequence[MachineSummary]) -> bool:
    """Whether the folder holds a finished export of this very machine."""
    from hypersdk.migration.manifest import MAX_MANIFEST_BYTES, read_manifest

    try:
        manifest = read_manifest(read_small(spec.output_dir / MANIFEST_NAME, MAX_MANIFEST_BYTES))
        return manifest.source.vm_id == find_machine(machines, spec.machine).moref
    except (OSError, HyperSDKError):
        return False


def make_plans(
    cli: Cli, session: Session, specs: Sequence[ExportSpec], machines: Sequence[MachineSummary], settings: RunSettings
) -> tuple[list[Plan], list[Failure]]:
    """A plan for each machine that can be exported, and the error of each that cannot. Nothing is changed."""
    plans, failures = [], []
    names = {machine.moref: machine.name for machine in machines}
    with cli.output.working("Planning ...") as show:
        for number, spec in enumerate(specs, start=1):
            name = names.get(spec.machine, spec.machine)
            show(f"Planning {number} of {len(specs)}: {name} ...")
            try:
                with session.breakable(cli.cancel):
                    plans.append(
                        make_plan(session, spec, cancel=cli.cancel, machines=machines, min_free=settings.min_free)
                    )
            except Cancelled:
                raise
            except HyperSDKError as error:
                failures.append(Failure(name, error))
    _check_shared_space(plans, failures)
    return plans, failures


def _check_shared_space(plans: list[Plan], failures: list[Failure]) -> None:
    """Refuses plans that do not fit together with those before them: each was checked on its own."""
    left: dict[int, int] = {}
    for plan in list(plans):
        folder = plan.spec.output_dir.absolute()
        device = next(parent for parent in (folder, *folder.parents) if parent.exists()).stat().st_dev
        room = left.get(device, plan.free_bytes)
        if plan.needs_bytes > room:
            needs, name = format_size(plan.needs_bytes), plan.machine.name
            message = f"'{name}' may need {needs}, the machines before it leave {format_size(room)}"
            plans.remove(plan)
            failures.append(Failure(name, Refused(message, code="target_too_small")))
        else:
            left[device] = room - plan.needs_bytes


def show_plans(cli: Cli, plans: Sequence[Plan], failures: Sequence[Failure]) -> None:
    """Shows what each export will do and need; events of type "plan" with --json."""
    if cli.output.json_lines:
        for plan in plans:
            cli.output.event(
                "plan", {**plan.as_dict(), "warnings": [warning_text(warning) for warning in plan.warnings]}
            )
    elif len(plans) > MAX_PANELS:
        _show_as_table(cli, plans)
    else:
        for plan in plans:
            cli.output.notes.print(plan_panel(plan))
    if len(plans) > 1:
        needs = sum(plan.needs_bytes for plan in plans)
        cli.output.note(f"{count(len(plans), 'machine')}: at most {format_size(needs)} to write", style="bold")
    for failure in failures:
        show_failure(cli, failure)


def plan_panel(plan: Plan) -> RenderableType:
    """One plan for people."""
    facts = [(label, Text(clean(value, 400), style=style)) for label, value, style in _plan_facts(plan)]
    title = Text(f" {clean(plan.machine.name, 100)} ", style="bold")
    return Panel(
        facts_table(facts), title=title, title_align="left", box=box.ROUNDED, border_style="cyan", padding=(0, 1)
    )


METHOD_TEXT: Final = {
    Method.AUTO: "the best method that vSphere offers",
    Method.LEASE: "the export stream (lease)",
    Method.DATASTORE: "ranges of the datastore",
}


def _plan_facts(plan: Plan) -> Iterator[tuple[str, str, str]]:
    spec = plan.spec
    compress = "" if spec.compress == "none" else f", compressed ({spec.compress})"
    yield "from", plan.point, ""
    yield "through", f"{plan.route}, {METHOD_TEXT[plan.method]}", ""
    yield "to", f"{spec.output_dir} as {spec.format}{compress}", ""
    for disk in plan.disks:
        yield "disk", f"{disk.label} of {format_size(disk.capacity_bytes)} -> {disk.file_name}", ""
    yield "space", f"at most {format_size(plan.needs_bytes)} to write, {format_size(plan.free_bytes)} free", ""
    if plan.resumption is not None:
        yield "resume", plan.resumption.text, ""
    for change in plan.changes or ("nothing is changed",):
        yield "at the source", change, ""
    for warning in plan.warnings:
        yield "warning", warning_text(warning), "yellow"


def _show_as_table(cli: Cli, plans: Sequence[Plan]) -> None:
    """Many plans, a line each; below them the changes at the source, with the number of machines, and all warnings."""
    columns = (
        Column("Machine", least=16),
        Column("From", least=8, optional=True),
        Column("Disks", right=True),
        Column("At most", right=True),
        Column("Folder", least=16),
    )
    rows = [
        [
            (clean(plan.machine.name, 100), "bold"),
            ("temporary snapshot" if plan.temporary_snapshot else clean(plan.point.removeprefix("the "), 100), ""),
            (str(len(plan.disks)), ""),
            (format_size(plan.needs_bytes), ""),
            (clean(str(plan.spec.output_dir), 400), "dim"),
        ]
        for plan in plans
    ]
    notes = cli.output.notes
    notes.print(lay_out(columns, rows, notes.width))
    changes = Counter(change for plan in plans for change in plan.changes)
    facts = [("source", f"{change} ({number} of {len(plans)})", "") for change, number in changes.items()]
    for plan in plans:
        if plan.resumption is not None:
            facts.append(("resume", f"{plan.machine.name}: {plan.resumption.text}", ""))
        facts += [("warning", f"{plan.machine.name}: {warning_text(found)}", "yellow") for found in plan.warnings]
    for label, text, style in facts:
        notes.print(labelled(label, text, notes.width, style), soft_wrap=True)


def carry_out(cli: Cli, session: Session, plans: Sequence[Plan], settings: RunSettings) -> list[Outcome]:
    """Exports all, with live progress."""
    cli.resumable = True
    cli.output.keep_going()
    with watching(cli.output, disks=any(plan.spec.show_disks for plan in plans)) as observer:
        return export_machines(session, plans, cancel=cli.cancel, observer=observer, settings=settings)


def conclude(cli: Cli, outcomes: Sequence[Outcome], failures: Sequence[Failure]) -> None:
    """Reports the result of each machine, and raises the error that sets the exit status. ``failures`` of several
    machines were reported with the plans."""
    for outcome in outcomes:
        if outcome.result is not None:
            show_result(cli, outcome.result)
    ended = [Failure(outcome.plan.machine.name, outcome.error) for outcome in outcomes if outcome.error]
    _report_kept_snapshots(cli, outcomes)
    total = len(outcomes) + len(failures)
    if total == 1:
        for failure in (*failures, *ended):
            raise failure.error
    for failure in ended:
        if not isinstance(failure.error, Cancelled):
            show_failure(cli, failure)
    stopped = [failure.error for failure in ended if isinstance(failure.error, Cancelled)]
    if stopped:
        _gather(stopped[0], stopped, "not_undone", "kept")
        raise stopped[0]
    if failed := [*failures, *ended]:
        raise PartlyFailed(
            f"{len(failed)} of {count(total, 'machine')} failed",
            exported=sum(outcome.result is not None for outcome in outcomes),
            failed=[{"machine": failure.machine, "code": failure.error.code} for failure in failed],
        )


def _gather(error: Cancelled, errors: Sequence[Cancelled], *names: str) -> None:
    """Adds to ``error`` the lists that ``errors`` have under ``names``, and their remedies for the source."""
    for name in names:
        lists = [listed for each in errors if isinstance(listed := each.fields.get(name), list)]
        if lists:
            error.fields[name] = [entry for listed in lists for entry in listed]
    left = [remedy for each in errors for remedy in of_source(each.remedies)]
    error.remedies = tuple(dict.fromkeys((*error.remedies, *left)))


def _report_kept_snapshots(cli: Cli, outcomes: Sequence[Outcome]) -> None:
    """Reports temporary snapshots that are kept at the source, and the command that removes them; for programs in the
    error (``kept``)."""
    for outcome in outcomes:
        name = outcome.error.fields.get("kept_snapshot") if outcome.error else None
        if name is None or outcome.error is None:
            continue
        folder = str(outcome.plan.spec.output_dir.absolute())
        command = shell_line(["hyper2kvm", "cleanup", "--drop-snapshots", folder, *connection_words(cli)])
        if cli.output.json_lines:
            outcome.error.fields["kept"] = [{"snapshot": name, "folder": folder, "command": command}]
            continue
        cli.output.note(
            f"{outcome.plan.machine.name}: snapshot {name} is kept for --resume; the resumed export removes it. It"
            f" grows as the machine writes. `hyper2kvm cleanup` removes it once the export is {SNAPSHOT_KEPT} old. To"
            " remove it now:",
            style="yellow",
        )
        cli.output.notes.print(f"  {clean(command)}", markup=False, soft_wrap=True)


def show_failure(cli: Cli, failure: Failure) -> None:
    """One machine's failure among several: an event of type "error" that names it, or a message."""
    if cli.output.json_lines:
        cli.output.event("error", {"machine": failure.machine, **error_dict(failure.error)})
    elif failure.machine in failure.error.message:
        show_error(cli.output, failure.error)
    else:
        cli.output.note(f"{failure.machine}:", style="bold")
        report(cli.output, failure.error)


def show_result(cli: Cli, result: ExportResult, *, local: bool = False) -> None:
    """Shows the files, how they were verified, and the next step; an event of type "result" with --json.

    ``local`` says that the source was a file on this machine.
    """
    if cli.output.json_lines:
        cli.output.event("result", result.as_dict())
        return
    cli.output.print(Text(f"✔ {clean(result.machine, 200)} -> {clean(str(result.output_dir))}", style="bold green"))
    for file in result.files:
        cli.output.line(f"  {file.name}  {format_size(file.size_bytes)}")
        if file.sha256:
            cli.output.line(f"    sha256   {file.sha256}")
        if content := result.content.get(file.name):
            cli.output.line(f"    content  {content}")
    for label, text, style in _result_facts(result, local=local):
        if cli.output.width is None:
            cli.output.line(f"  {label:<{LABEL_CELLS - 2}}{text}")
        else:
            cli.output.print(labelled(label, text, cli.output.width, style))


def _result_facts(result: ExportResult, *, local: bool) -> Iterator[tuple[str, str, str]]:
    proved = "proved: the received data matches the server's own manifest"
    yield "proof", proved if result.proof == "proved" else result.proof, ""
    rate = result.wire_bytes / result.elapsed_s if result.elapsed_s else 0.0
    verb = "read" if local else "received"
    taken = f"{format_size(result.wire_bytes)} {verb} in {format_duration(result.elapsed_s)} ({format_size(rate)}/s)"
    yield (
        "moved",
        f"{taken}, {format_size(result.data_bytes)} of data on {format_size(result.capacity_bytes)} of disk",
        "",
    )
    if result.blocks_skipped:
        yield "resumed", f"{format_size(result.blocks_skipped * MiB // 16)} was already copied", ""
    if not result.restored:
        yield "source", "NOT restored; run `hyper2kvm cleanup`", "bold red"
    elif not local:
        yield "source", "left as it was found", ""
    for warning in result.warnings:
        yield "warning", warning, "yellow"
    yield "next", f"hyper2kvm verify {shell_word(str(result.output_dir))}", "bold"


def import_command(plan: Plan, result: ExportResult) -> str | None:
    """The command that starts the machine on KVM, for the formats that KVM runs. The disk that boots comes first:
    `--import` boots from it."""
    image = FORMATS[plan.spec.format].image
    if not image.bootable:
        return None
    machine = plan.machine
    words = [
        "virt-install", "--import", "--name", domain_name(machine.name),
        "--memory", str(machine.summary.memory_bytes // MiB), "--vcpus", str(machine.summary.cpus),
        "--osinfo", "detect=on,require=off",
    ]  # fmt: skip
    for disk in in_boot_order(plan):
        path = _option_value(str(result.output_dir / disk.file_name))
        words += ["--disk", f"path={path},format={image.suffix}"]
    for nic in machine.nics:
        words += ["--network", "network=default" + (f",mac={_option_value(nic.mac)}" if nic.mac else "")]
    if machine.firmware is Firmware.EFI:
        words += ["--boot", "uefi"]
    return _in_lines(words)


def in_boot_order(plan: Plan) -> list[PlannedDisk]:
    """The disks in the machine's boot order; by number if it is not known."""
    places = {key: place for place, key in enumerate(boot_sequence(plan.machine))}
    return sorted(plan.disks, key=lambda disk: places.get(disk.key, len(places)))


def domain_name(machine: str) -> str:
    """A name that virt-install accepts: without blanks, ``/`` and line breaks, and not starting with ``-``."""
    return stem_of("-".join(machine.split()))


def _option_value(text: str) -> str:
    """One value in an option of virt-install, which splits ``key=value,key=value`` as a shell splits words: quotes,
    backslashes and commas are escaped (``parse_optstr_tuples`` in virtinst/cli.py)."""
    return re.sub(r"""[\\"',]""", r"\\\g<0>", text)


def _in_lines(words: Sequence[str]) -> str:
    """A shell command with a line for each of its longer flags."""
    quoted = [shell_word(word) for word in words]
    text = quoted[0]
    for word in quoted[1:]:
        text += f" \\\n    {word}" if word in ("--osinfo", "--disk", "--network", "--boot") else f" {word}"
    return text


def show_next_steps(cli: Cli, outcomes: Sequence[Outcome]) -> None:
    """Shows how to start the exported machines; for people only."""
    if cli.output.json_lines:
        return
    commands = [
        (outcome.plan.machine.name, command)
        for outcome in outcomes
        if outcome.result is not None and (command := import_command(outcome.plan, outcome.result))
    ]
    for name, command in commands[:3]:
        cli.output.note(f"To start {name} on this machine's KVM (stop the original first):", style="dim")
        cli.output.notes.print(f"  {command}", soft_wrap=True)


def resolve(machines: Sequence[MachineSummary], selectors: Sequence[str]) -> list[MachineSummary]:
    """The machines that ``selectors`` name, each once, in that order. Raises LookupFailed."""
    found = [find_machine(machines, selector) for selector in selectors]
    return list({machine.moref: machine for machine in found}.values())


def specs_for(
    template: ExportSpec, machines: Sequence[MachineSummary], *, own_folder: bool = False
) -> list[ExportSpec]:
    """``template`` for each machine. A single machine gets the template's folder itself (unless it gets its
    ``own_folder``); else each has one below it, named after the machine, with the moref if names are equal."""
    if len(machines) == 1 and not own_folder:
        return [replace(template, machine=machines[0].moref)]
    stems = [stem_of(machine.name) for machine in machines]
    return [
        replace(
            template,
            machine=machine.moref,
            output_dir=template.output_dir / (stem if stems.count(stem) == 1 else f"{stem}-{machine.moref}"),
        )
        for stem, machine in zip(stems, machines, strict=True)
    ]
