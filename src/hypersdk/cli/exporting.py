"""Makes, shows, runs and reports plans, for the command, the interactive flow and the demo."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.text import Text

from hypersdk.cli.batch import Batch, Failure, Totals
from hypersdk.cli.options import connection_words
from hypersdk.cli.plantable import device_of, show_plans
from hypersdk.cli.programs.program import spelled
from hypersdk.cli.progress import watching
from hypersdk.cli.remedies import in_one_line
from hypersdk.cli.report import LABEL_CELLS, labelled, report, show_error, show_line
from hypersdk.cli.signals import EXPORT
from hypersdk.cli.state import Cli
from hypersdk.cli.total import MachinesTotal
from hypersdk.errors import Cancelled, HyperSDKError, PartlyFailed, Refused
from hypersdk.migration.export import Outcome, export_machines
from hypersdk.migration.formats import FORMATS
from hypersdk.migration.naming import MANIFEST_NAME, stem_of
from hypersdk.migration.plan import Plan, PlannedDisk, make_plan
from hypersdk.migration.readback import read_small
from hypersdk.migration.runfile import RUN_FILE
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import ExportSpec, ResumeMode
from hypersdk.model import ExportProgress, Firmware, MachineSummary, boot_sequence
from hypersdk.remedies import of_source
from hypersdk.text import clean, count, shell_line, shell_word
from hypersdk.transfer.files import exists
from hypersdk.units import MiB, format_duration, format_rate, format_size
from hypersdk.vsphere.inventory import find_machine
from hypersdk.vsphere.session import Session

if TYPE_CHECKING:
    from hypersdk.migration.publish import ExportResult

SNAPSHOT_KEPT: Final = "24 hours"
"""For people; ``migration.runs.SNAPSHOT_MAX_AGE``, whose module takes long to import."""
MAX_SHOWN: Final = 3
"""Results shown in full; more of them get a line each."""
NO_IS_QUIT: Final = {"n": "quit", "no": "quit"}
"""For questions that can be answered with yes."""


def _still_to_do(
    cli: Cli, specs: Sequence[ExportSpec], machines: Sequence[MachineSummary]
) -> tuple[list[ExportSpec], list[tuple[str, ExportSpec]]]:
    """The exports to run with ``--resume`` for several machines: unfinished ones are resumed, the others started. Then
    the finished ones, which are skipped, with the names of their machines.
    """
    names = {machine.moref: machine.name for machine in machines}
    waiting, earlier = [], []
    for spec in specs:
        if spec.resume is not ResumeMode.RESUME or holds_run(spec.output_dir):
            waiting.append(spec)
        elif not _is_done(spec, machines):
            waiting.append(replace(spec, resume=ResumeMode.REFUSE))
        else:
            earlier.append((names.get(spec.machine, spec.machine), spec))
    for _, spec in earlier:
        if cli.output.json_lines:
            cli.output.event("skipped", {"machine": spec.machine, "output_dir": spec.output_dir, "reason": "exported"})
        else:
            cli.output.note(f"{spec.output_dir}: already exported, skipped", style="dim")
    return waiting, earlier


def holds_run(folder: Path) -> bool:
    """Whether ``folder`` has an unfinished export."""
    return exists(folder / RUN_FILE)


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
) -> Batch:
    """A plan for each machine that can be exported, and the error of each that cannot. Nothing is changed."""
    batch = Batch()
    rows = {machine.moref: machine for machine in machines}
    with cli.output.working("Planning ...") as show:
        for number, spec in enumerate(specs, start=1):
            row = rows.get(spec.machine)
            name = spec.machine if row is None else row.name
            show(f"Planning {number} of {len(specs)}: {name} ...")
            try:
                refuse_landed(spec)
                with session.breakable(cli.cancel):
                    batch.plans.append(
                        make_plan(session, spec, cancel=cli.cancel, machines=machines, min_free=settings.min_free)
                    )
            except Cancelled:
                raise
            except HyperSDKError as error:
                batch.skipped.append(Failure(name, error, spec, row))
    _check_shared_space(batch)
    return batch


def refuse_landed(spec: ExportSpec) -> None:
    """An export does not replace the disks of a landed machine. Raises Refused ``images_landed``."""
    if spec.force:
        from hypersdk.landing.landed import check_not_landed

        check_not_landed(spec.output_dir)


def _check_shared_space(batch: Batch) -> None:
    """Skips plans that do not fit together with those before them: each was checked on its own."""
    left: dict[int, int] = {}
    for plan in list(batch.plans):
        device = device_of(plan.spec.output_dir.absolute())
        room = left.get(device, plan.free_bytes)
        if plan.needs_bytes > room:
            needs, name = format_size(plan.needs_bytes), plan.machine.name
            message = f"'{name}' may need {needs}, the machines before it leave {format_size(room)}"
            batch.plans.remove(plan)
            error = Refused(message, code="target_too_small")
            batch.skipped.append(Failure(name, error, plan.spec, plan.machine.summary))
        else:
            left[device] = room - plan.needs_bytes


@dataclass(frozen=True, slots=True)
class Choices:
    """How the user wants exports to run. ``yes``: without a question before several machines; ``report``: the file for
    the report."""

    settings: RunSettings
    dry_run: bool = False
    yes: bool = False
    report: Path | None = None


def reported(cli: Cli, choices: Choices, batch: Batch) -> AbstractContextManager[None]:
    """Writes the report at the end of the block, if one is wanted; see ``reportfile.reporting``."""
    if choices.report is None:
        return nullcontext()
    from hypersdk.cli.reportfile import reporting

    return reporting(cli, choices.report, batch)


def run_exports(
    cli: Cli,
    session: Session,
    specs: Sequence[ExportSpec],
    machines: Sequence[MachineSummary],
    choices: Choices,
    batch: Batch,
    *,
    alone: bool,
) -> bool:
    """Plans, shows, asks and exports; the machines and their outcomes are added to ``batch``. ``alone``: the command is
    for this machine only. Returns False where the user does not want it."""
    waiting, earlier = ([*specs], []) if alone else _still_to_do(cli, specs, machines)
    made = make_plans(cli, session, waiting, machines, choices.settings)
    made.earlier += earlier
    batch.reached(specs)
    batch.add(made)
    show_plans(cli, made, alone=alone)
    if choices.dry_run or not made.plans:
        return True
    if not (alone or _may_start(cli, len(made.plans), choices)):
        cli.output.note("Nothing was exported.")
        return False
    carry_out(cli, session, batch, made.plans, choices.settings)
    return True


def _may_start(cli: Cli, exports: int, choices: Choices) -> bool:
    """Asks at a terminal."""
    if choices.yes or not cli.output.can_ask:
        return True
    question = f"Start {count(exports, 'export')}? [Y]es, [q]uit: "
    return cli.choose(question, spelled("yes", "quit") | NO_IS_QUIT, empty="yes", unanswered="quit") == "yes"


def carry_out(cli: Cli, session: Session, batch: Batch, plans: Sequence[Plan], settings: RunSettings) -> None:
    """Exports ``plans``, with live progress; the outcomes are added to ``batch``."""
    cli.begin(EXPORT)
    cli.output.keep_going()
    began = time.monotonic()
    total = MachinesTotal(lambda: cli.cancel.cancelled)
    with watching(cli.output, disks=any(plan.spec.show_disks for plan in plans), total=total) as observer:

        def observe(machines: Sequence[ExportProgress]) -> None:
            for plan, machine in zip(plans, machines, strict=True):
                batch.received[id(plan)] = machine.wire_bytes
            observer(machines)

        try:
            batch.outcomes += export_machines(session, plans, cancel=cli.cancel, observer=observe, settings=settings)
        finally:
            batch.elapsed_s += time.monotonic() - began


def conclude(cli: Cli, batch: Batch) -> None:
    """Reports the result of each machine and, of several, the totals. Raises the error that sets the exit status. Why
    machines were skipped was reported with the plans."""
    for outcome in batch.outcomes:
        if outcome.result is not None:
            show_result(cli, outcome.result, brief=batch.size > MAX_SHOWN)
    ended = batch.ended_badly()
    _report_kept_snapshots(cli, batch.outcomes)
    report_ended(cli, batch.size, batch.skipped, ended)
    if batch.size == 1:
        return
    if batch.outcomes:
        show_totals(cli, batch)
    raise_stopped(ended)
    if failed := [*batch.skipped, *ended]:
        raise PartlyFailed(
            _failed_text(len(ended), len(batch.skipped), batch.size),
            exported=sum(outcome.result is not None for outcome in batch.outcomes),
            failed=codes_of(failed),
        )


def report_ended(cli: Cli, size: int, skipped: Sequence[Failure], ended: Sequence[Failure]) -> None:
    """Reports those of ``size`` machines that ended badly, without those that the user stopped. Raises the error of a
    single one."""
    if size == 1:
        for failure in (*skipped, *ended):
            raise failure.error
    show_failures(cli, [failure for failure in ended if not isinstance(failure.error, Cancelled)])


def raise_stopped(ended: Sequence[Failure]) -> None:
    """Raises Cancelled where the user stopped machines, with what is left at the source of any of them."""
    stopped = [failure.error for failure in ended if isinstance(failure.error, Cancelled)]
    if stopped:
        _gather(stopped[0], stopped, "not_undone", "kept")
        raise stopped[0]


def codes_of(failures: Sequence[Failure]) -> list[dict[str, str]]:
    """For programs: the machines that failed, and why."""
    return [{"machine": failure.machine, "code": failure.error.code} for failure in failures]


def _failed_text(failed: int, skipped: int, machines: int) -> str:
    of_all = f"of {count(machines, 'machine')}"
    if not failed:
        return f"{skipped} {of_all} skipped"
    return f"{failed} {of_all} failed" + (f", {skipped} skipped" if skipped else "")


def show_totals(cli: Cli, batch: Batch) -> None:
    """The sums over all machines; an event of type "totals" with --json."""
    totals = batch.totals()
    if cli.output.json_lines:
        cli.output.event("totals", totals.as_dict())
        return
    good = totals.exported + totals.exported_earlier == totals.machines
    counts = ", ".join(f"{number:,} {status}" for status, number in totals.counts().items())
    heading = f"{'✔' if good else '✘'} {count(totals.machines, 'machine')}: {counts}"
    cli.output.print(Text(heading, style=f"bold {'green' if good else 'yellow'}"))
    for label, text in _totals_facts(totals, batch):
        _show_fact(cli, label, text)


def _totals_facts(totals: Totals, batch: Batch) -> Iterator[tuple[str, str]]:
    took = f"in {format_duration(totals.elapsed_s)} ({format_rate(totals.rate_bytes_s)})"
    yield "moved", f"{format_size(totals.wire_bytes)} received {took}, {format_size(totals.written_bytes)} written"
    yield "data", f"{format_size(totals.data_bytes)}; {format_size(totals.holes_bytes)} of holes take no space"
    if folders := [outcome.result.output_dir for outcome in batch.outcomes if outcome.result is not None]:
        yield "next", f"hyper2kvm verify {shell_word(os.path.commonpath(folders))}"


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
        failure.send(cli.output)
    elif failure.machine in failure.error.message:
        show_error(cli.output, failure.error)
    else:
        cli.output.note(f"{failure.machine}:", style="bold")
        report(cli.output, failure.error)


def show_failures(cli: Cli, failures: Sequence[Failure]) -> None:
    """Failures of several machines; where many have the same code, its remedy is told once."""
    by_code: dict[str, list[Failure]] = {}
    for failure in failures:
        by_code.setdefault(failure.error.code, []).append(failure)
    for same in by_code.values():
        if cli.output.json_lines or len(same) <= MAX_SHOWN:
            for failure in same:
                show_failure(cli, failure)
        else:
            _show_same(cli, same)


def _show_same(cli: Cli, failures: Sequence[Failure]) -> None:
    """Several failures with one code: all machines with their messages, then the remedies, each once."""
    notes, code = cli.output.notes, failures[0].error.code
    notes.print(Text.assemble(("Error: ", "bold red"), (f"{count(len(failures), 'machine')} failed: {code}", "red")))
    machines: dict[str, list[str]] = {}
    for failure in failures:
        machines.setdefault(failure.error.message.removeprefix(f"'{failure.machine}' "), []).append(failure.machine)
    for text, names in machines.items():
        notes.print(labelled("-", f"{', '.join(names)}: {text}", notes.width), soft_wrap=True)
    for step in dict.fromkeys(in_one_line(failure.error) for failure in failures):
        notes.print(labelled("next", step, notes.width), soft_wrap=True)


def show_result(cli: Cli, result: ExportResult, *, local: bool = False, brief: bool = False) -> None:
    """Shows the files, how they were verified, and the next step; only a line with ``brief``, and an event of type
    "result" with --json.

    ``local`` says that the source was a file on this machine.
    """
    if cli.output.json_lines:
        cli.output.event("result", result.as_dict())
        return
    if brief:
        show_line(cli.output, _brief_line(result))
        return
    cli.output.print(Text(f"✔ {clean(result.machine, 200)} -> {clean(str(result.output_dir))}", style="bold green"))
    for file in result.files:
        cli.output.line(f"  {file.name}  {format_size(file.size_bytes)}")
        if file.sha256:
            cli.output.line(f"    sha256   {file.sha256}")
        if file.tree:
            cli.output.line(f"    tree     {file.tree}")
        if content := result.content.get(file.name):
            cli.output.line(f"    content  {content}")
    for label, text, style in _result_facts(result, local=local):
        _show_fact(cli, label, text, style)


def _brief_line(result: ExportResult) -> Text:
    size = format_size(sum(file.size_bytes for file in result.files))
    facts = f"{size} in {format_duration(result.elapsed_s)}, {clean(result.proof, 200)}"
    return Text.assemble(
        ("✔ ", "bold green"),
        (clean(result.machine, 100), "bold"),
        f"  {facts}",
        ("" if result.restored else "; source NOT restored", "bold red"),
        (f"  {clean(str(result.output_dir), 400)}", "dim"),
    )


def _show_fact(cli: Cli, label: str, text: str, style: str = "") -> None:
    if cli.output.width is None:
        cli.output.line(f"  {label:<{LABEL_CELLS - 2}}{text}")
    else:
        cli.output.print(labelled(label, text, cli.output.width, style))


def _result_facts(result: ExportResult, *, local: bool) -> Iterator[tuple[str, str, str]]:
    proved = "proved: the received data matches the server's own manifest"
    yield "proof", proved if result.proof == "proved" else result.proof, ""
    rate = result.wire_bytes / result.elapsed_s if result.elapsed_s else 0.0
    verb = "read" if local else "received"
    taken = f"{format_size(result.wire_bytes)} {verb} in {format_duration(result.elapsed_s)} ({format_rate(rate)})"
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
    """Shows how to start the exported machines, unless there are many; for people only."""
    if cli.output.json_lines or len(outcomes) > MAX_SHOWN:
        return
    commands = [
        (outcome.plan.machine.name, command)
        for outcome in outcomes
        if outcome.result is not None and (command := import_command(outcome.plan, outcome.result))
    ]
    for name, command in commands:
        cli.output.note(f"To start {name} on this machine's KVM (stop the original first):", style="dim")
        cli.output.notes.print(f"  {command}", soft_wrap=True)


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
