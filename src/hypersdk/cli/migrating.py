"""Plans, shows, runs and reports migrations."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.text import Text

from hypersdk.cli.batch import Failure
from hypersdk.cli.connect import connected
from hypersdk.cli.exporting import MAX_SHOWN, NO_IS_QUIT, codes_of, raise_stopped, report_ended, specs_for
from hypersdk.cli.machines import read_selected
from hypersdk.cli.migrationreport import check_report, write_reports
from hypersdk.cli.migrationtable import machine_text, show_migrations
from hypersdk.cli.programs.program import spelled
from hypersdk.cli.progress import watching
from hypersdk.cli.remedies import for_landing, in_one_line
from hypersdk.cli.report import labelled, show_line
from hypersdk.cli.selection import Selection
from hypersdk.cli.state import Cli
from hypersdk.cli.total import MachinesTotal
from hypersdk.errors import Cancelled, HyperSDKError, PartlyFailed, UsageError
from hypersdk.guest.tools import GuestTools, find_tools
from hypersdk.landing.migrate import MigrationOutcome, migrate_machines
from hypersdk.landing.plans import MigrationPlan, plan_migration
from hypersdk.landing.prove import proof_text
from hypersdk.landing.report import MachineReport, read_report
from hypersdk.landing.request import LandingRequest
from hypersdk.landing.results import migrated_dict
from hypersdk.landing.steps import Migrated
from hypersdk.landing.target import Target, open_target
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import ExportSpec
from hypersdk.model import Firmware, MachineSummary
from hypersdk.text import clean, count, shell_line
from hypersdk.units import format_duration
from hypersdk.vsphere.session import Session


@dataclass(frozen=True, slots=True)
class Choices:
    """How the user wants migrations to run. ``yes``: without a question before several machines."""

    settings: RunSettings
    dry_run: bool = False
    yes: bool = False
    max_conversions: int = 1
    report: Path | None = None


@dataclass(slots=True)
class Migrations:
    """The migrations of one command."""

    plans: list[MigrationPlan] = field(default_factory=list)
    skipped: list[Failure] = field(default_factory=list)
    earlier: list[MigrationPlan] = field(default_factory=list)
    outcomes: list[MigrationOutcome] = field(default_factory=list)
    elapsed_s: float = 0.0
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def size(self) -> int:
        """The number of machines."""
        return len(self.plans) + len(self.skipped) + len(self.earlier)

    def failed(self) -> list[Failure]:
        """Those that began and failed, or were stopped."""
        return [
            Failure(outcome.plan.name, outcome.error, outcome.plan.spec)
            for outcome in self.outcomes
            if outcome.error is not None
        ]


def migrate_selected(
    cli: Cli, selection: Selection, spec: ExportSpec, request: LandingRequest, choices: Choices, *, own_folder: bool
) -> None:
    """The whole command: selects, plans, shows, asks, runs and reports."""
    check_report(choices.report)
    tools = find_tools(cli.environ)
    if request.conversion is not None:
        request.conversion.check_tools(tools)
    with opened_target(cli, request) as target, connected(cli) as session:
        inventory, chosen = read_selected(cli, session, selection)
        if request.options.name is not None and len(chosen) > 1:
            raise UsageError(f"--name is for one machine, and {len(chosen)} are selected")
        specs = specs_for(spec, chosen, own_folder=own_folder)
        batch = migrate_specs(cli, session, target, tools, specs, inventory, request, choices)
    if choices.report is not None and not choices.dry_run:
        write_reports(cli, choices.report, list(_reports(batch)), began=batch.began, elapsed_s=batch.elapsed_s)
    conclude(cli, batch)


def migrate_specs(
    cli: Cli,
    session: Session,
    target: Target,
    tools: GuestTools,
    specs: Sequence[ExportSpec],
    inventory: Sequence[MachineSummary],
    request: LandingRequest,
    choices: Choices,
) -> Migrations:
    """Plans, shows, asks and runs."""
    batch = _plans(cli, session, target, tools, specs, inventory, request, choices.settings)
    show_migrations(cli, batch.plans, batch.skipped, batch.earlier, request)
    if batch.plans and not choices.dry_run and _may_start(cli, len(batch.plans), choices):
        _carry_out(cli, session, batch, request, target, tools, choices)
    return batch


@contextmanager
def opened_target(cli: Cli, request: LandingRequest) -> Iterator[Target]:
    """Connects to the target. Raises ConnectError, AccessError, Refused."""
    with ExitStack() as stack:
        with cli.output.working(f"Connecting to {request.address} ..."), cli.interrupts.breakable():
            target = stack.enter_context(open_target(request, cancel=cli.cancel))
        yield target


def _plans(
    cli: Cli,
    session: Session,
    target: Target,
    tools: GuestTools,
    specs: Sequence[ExportSpec],
    machines: Sequence[MachineSummary],
    request: LandingRequest,
    settings: RunSettings,
) -> Migrations:
    """A plan for each machine that can be migrated, and the error of each that cannot. Nothing is changed."""
    batch = Migrations()
    names = {machine.moref: machine.name for machine in machines}
    with cli.output.working("Planning ...") as show:
        for number, spec in enumerate(specs, start=1):
            name = names.get(spec.machine, spec.machine)
            show(f"Planning {number} of {len(specs)}: {name} ...")
            taken = {plan.domain.name for plan in batch.plans if plan.domain is not None}
            try:
                with session.breakable(cli.cancel):
                    plan = plan_migration(
                        session,
                        spec,
                        request,
                        target,
                        tools=tools,
                        taken=taken,
                        machines=list(machines),
                        settings=settings,
                        cancel=cli.cancel,
                    )
                (batch.earlier if plan.domain is None else batch.plans).append(plan)
            except Cancelled:
                raise
            except HyperSDKError as error:
                batch.skipped.append(Failure(name, for_landing(error), spec))
    return batch


def _reports(batch: Migrations) -> Iterator[MachineReport]:
    """What the report says of each machine."""
    for outcome in batch.outcomes:
        yield read_report(
            outcome.plan.spec.output_dir,
            machine=outcome.plan.name,
            source=outcome.source_changes,
            error=outcome.error,
            next_step=in_one_line(outcome.error) if outcome.error else "",
            elapsed_s=outcome.elapsed_s,
        )
    for plan in batch.earlier:
        yield read_report(plan.spec.output_dir, machine=plan.name)
    for failure in batch.skipped:
        assert failure.spec is not None, "each has one"
        step = in_one_line(failure.error)
        yield read_report(failure.spec.output_dir, machine=failure.machine, error=failure.error, next_step=step)


def _may_start(cli: Cli, machines: int, choices: Choices) -> bool:
    """Asks at a terminal before several machines."""
    if machines == 1 or choices.yes or not cli.output.can_ask:
        return True
    question = f"Start {count(machines, 'migration')}? [Y]es, [q]uit: "
    if cli.choose(question, spelled("yes", "quit") | NO_IS_QUIT, empty="yes", unanswered="quit") == "yes":
        return True
    cli.output.note("Nothing was migrated.")
    return False


def _carry_out(
    cli: Cli,
    session: Session,
    batch: Migrations,
    request: LandingRequest,
    target: Target,
    tools: GuestTools,
    choices: Choices,
) -> None:
    cli.resumable = True
    cli.output.keep_going()
    began = time.monotonic()
    total = MachinesTotal(lambda: cli.cancel.cancelled, timed=False)
    with watching(cli.output, total=total) as observer:
        try:
            batch.outcomes += migrate_machines(
                session,
                batch.plans,
                request,
                target.facts,
                tools=tools,
                max_conversions=choices.max_conversions,
                cancel=cli.cancel,
                observer=observer,
                settings=choices.settings,
            )
        finally:
            batch.elapsed_s = time.monotonic() - began
    for outcome in batch.outcomes:
        if outcome.error is not None:
            for_landing(outcome.error)


def conclude(cli: Cli, batch: Migrations) -> None:
    """Reports each machine and, of several, the totals. Raises the error that sets the exit status."""
    for outcome in batch.outcomes:
        if outcome.migrated is not None:
            show_migrated(
                cli,
                outcome.plan.name,
                outcome.migrated,
                outcome.elapsed_s,
                next_step=_next(outcome.migrated, source_runs=outcome.plan.source_runs_on),
                brief=batch.size > MAX_SHOWN,
            )
    failed = batch.failed()
    report_ended(cli, batch.size, batch.skipped, failed)
    if batch.size == 1:
        return
    if batch.outcomes:
        _show_totals(cli, batch, failed)
    raise_stopped(failed)
    if bad := [*batch.skipped, *failed]:
        raise PartlyFailed(
            f"{len(bad)} of {count(batch.size, 'machine')} not migrated",
            next_step="Check each failure, then run the same command again.",
            migrated=sum(outcome.migrated is not None for outcome in batch.outcomes),
            failed=codes_of(bad),
        )


def _next(migrated: Migrated, *, source_runs: bool) -> str:
    """What to do after a migration. The landed machine is not to be started beside its source."""
    if migrated.started or not source_runs or not any(nic.mac for nic in migrated.domain.nics):
        return start_step(migrated)
    landed = migrated.landed
    nvram = ["--nvram"] if migrated.domain.firmware is Firmware.EFI else []
    undefine = shell_line(["virsh", "-c", landed.uri, "undefine", landed.name, *nvram])
    return (
        f"Do not start it while its source runs. To move the machine: `{undefine}`, then this command with"
        " --start --shutdown."
    )


def start_step(migrated: Migrated) -> str:
    """The command that starts the landed machine; empty if it is started."""
    landed = migrated.landed
    return "" if migrated.started else shell_line(["virsh", "-c", landed.uri, "start", landed.name])


def show_migrated(
    cli: Cli, name: str, migrated: Migrated, elapsed_s: float, *, next_step: str, brief: bool = False
) -> None:
    """Where the machine is now, and what to do next; an event of type "result" with --json."""
    landed = migrated.landed
    if cli.output.json_lines:
        cli.output.event("result", migrated_dict(name, migrated, elapsed_s))
        return
    state = "" if migrated.started else ", not started"
    heading = Text.assemble(
        ("✔ ", "bold green"),
        (clean(name, 100), "bold"),
        f"  {'running' if migrated.started else 'defined'} as {clean(landed.name, 200)} on {landed.uri}{state}",
    )
    if brief:
        heading.append(f" in {format_duration(elapsed_s)}", "dim")
        show_line(cli.output, heading)
        return
    cli.output.print(heading)
    for path in landed.disks:
        cli.output.line(f"  {path}")
    for label, text, style in _facts(migrated, elapsed_s, next_step):
        if cli.output.width is None:
            cli.output.line(f"  {label:<8}{text}")
        else:
            cli.output.print(labelled(label, text, cli.output.width, style))


def _facts(migrated: Migrated, elapsed_s: float, next_step: str) -> list[tuple[str, str, str]]:
    domain, landed = migrated.domain, migrated.landed
    buses = ", ".join(dict.fromkeys(disk.bus.value for disk in domain.disks))
    models = ", ".join(dict.fromkeys(nic.model.value for nic in domain.nics)) or "no network card"
    found = [
        ("machine", machine_text(domain), ""),
        ("guest", "converted" if migrated.converted else "not converted", ""),
        ("devices", f"disks on {buses}; network: {models}", ""),
        ("proof", proof_text(migrated.proof) if migrated.proof else "not booted; --prove does", ""),
        ("images", landed.owner, ""),
        ("took", format_duration(elapsed_s), ""),
    ]
    texts = [warning.text for warning in migrated.warnings] + list(migrated.proof.warnings if migrated.proof else ())
    found += [("warning", text, "yellow") for text in texts]
    if next_step:
        found.append(("next", next_step, "bold"))
    return found


def _show_totals(cli: Cli, batch: Migrations, failed: Sequence[Failure]) -> None:
    stopped = sum(isinstance(failure.error, Cancelled) for failure in failed)
    counts = {
        "migrated": sum(outcome.migrated is not None for outcome in batch.outcomes),
        "migrated earlier": len(batch.earlier),
        "failed": len(failed) - stopped,
        "stopped": stopped,
        "skipped": len(batch.skipped),
        "not started": len(batch.plans) - len(batch.outcomes),
    }
    if cli.output.json_lines:
        facts = {name.replace(" ", "_"): number for name, number in counts.items()}
        cli.output.event("totals", {"machines": batch.size, **facts, "elapsed_s": round(batch.elapsed_s, 1)})
        return
    good = counts["migrated"] + counts["migrated earlier"] == batch.size
    shown = ", ".join(f"{number:,} {name}" for name, number in counts.items() if number or name == "migrated")
    text = f"{'✔' if good else '✘'} {count(batch.size, 'machine')}: {shown}"
    if batch.outcomes:
        text += f", in {format_duration(batch.elapsed_s)}"
    cli.output.print(Text(text, style=f"bold {'green' if good else 'yellow'}"))
