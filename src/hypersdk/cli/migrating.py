"""Plans, shows, runs and reports migrations."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from hypersdk.cli.batch import Failure
from hypersdk.cli.connect import connected
from hypersdk.cli.exporting import specs_for
from hypersdk.cli.landed import Landings, conclude, may_start, opened_target, reports_of, start_step
from hypersdk.cli.landoptions import DEFAULT_CONVERSIONS
from hypersdk.cli.machines import read_selected
from hypersdk.cli.migrationreport import check_report, write_reports
from hypersdk.cli.migrationtable import show_migrations
from hypersdk.cli.networks import plan_asked
from hypersdk.cli.progress import watching
from hypersdk.cli.remedies import for_landing
from hypersdk.cli.selection import Selection
from hypersdk.cli.signals import LANDING
from hypersdk.cli.state import Cli
from hypersdk.cli.total import MachinesTotal
from hypersdk.errors import Cancelled, HyperSDKError, UsageError
from hypersdk.guest.tools import GuestTools, find_tools
from hypersdk.kvm.preflight import TargetInventory
from hypersdk.landing.migrate import migrate_machines
from hypersdk.landing.plans import MigrationPlan, plan_migration
from hypersdk.landing.request import LandingRequest
from hypersdk.landing.steps import Migrated
from hypersdk.landing.target import Target
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import ExportSpec
from hypersdk.model import Firmware, MachineSummary
from hypersdk.text import shell_line
from hypersdk.vsphere.session import Session


@dataclass(frozen=True, slots=True)
class Choices:
    """How the user wants migrations to run. ``yes``: without a question before several machines."""

    settings: RunSettings
    dry_run: bool = False
    yes: bool = False
    max_conversions: int = DEFAULT_CONVERSIONS
    report: Path | None = None


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
        write_reports(cli, choices.report, list(reports_of(batch)), began=batch.began, elapsed_s=batch.elapsed_s)
    conclude(cli, batch, next_step)


def migrate_specs(
    cli: Cli,
    session: Session,
    target: Target,
    tools: GuestTools,
    specs: Sequence[ExportSpec],
    inventory: Sequence[MachineSummary],
    request: LandingRequest,
    choices: Choices,
) -> Landings[MigrationPlan]:
    """Plans, shows, asks and runs."""
    batch: Landings[MigrationPlan] = Landings("migrated")
    planner = _Planner(cli, session, target, tools, inventory, choices.settings)
    planner.add(batch, specs, request)
    if not choices.yes:
        request = plan_asked(cli, batch, request, target.connection, planner.again(batch))
    show_migrations(cli, batch.plans, batch.skipped, batch.earlier, request)
    if batch.plans and not choices.dry_run and may_start(cli, len(batch.plans), "migration", yes=choices.yes):
        _carry_out(cli, session, batch, request, target, tools, choices)
    return batch


@dataclass(frozen=True, slots=True)
class _Planner:
    """Plans machines of the inventory ``machines``. Nothing is changed."""

    cli: Cli
    session: Session
    target: Target
    tools: GuestTools
    machines: Sequence[MachineSummary]
    settings: RunSettings

    def add(self, batch: Landings[MigrationPlan], specs: Sequence[ExportSpec], request: LandingRequest) -> None:
        """Adds a plan for each machine that can be migrated, and the error of each that cannot."""
        names = {machine.moref: machine.name for machine in self.machines}
        with self.cli.output.working("Planning ...") as show:
            inventory = self.target.inventory(request.options)
            for number, spec in enumerate(specs, start=1):
                name = names.get(spec.machine, spec.machine)
                show(f"Planning {number} of {len(specs)}: {name} ...")
                taken = {plan.domain.name for plan in batch.plans if plan.domain is not None}
                try:
                    plan = self._plan(spec, request, inventory, taken)
                except Cancelled:
                    raise
                except HyperSDKError as error:
                    batch.skipped.append(Failure(name, for_landing(error), spec))
                else:
                    (batch.earlier if plan.domain is None else batch.plans).append(plan)

    def again(self, batch: Landings[MigrationPlan]) -> Callable[[Sequence[Failure], LandingRequest], None]:
        """Plans machines again that failed."""
        return lambda failed, request: self.add(batch, [found.spec for found in failed if found.spec], request)

    def _plan(
        self, spec: ExportSpec, request: LandingRequest, inventory: TargetInventory, taken: Collection[str]
    ) -> MigrationPlan:
        with self.session.breakable(self.cli.cancel):
            return plan_migration(
                self.session,
                spec,
                request,
                self.target,
                inventory=inventory,
                tools=self.tools,
                taken=taken,
                machines=list(self.machines),
                settings=self.settings,
                cancel=self.cli.cancel,
            )


def _carry_out(
    cli: Cli,
    session: Session,
    batch: Landings[MigrationPlan],
    request: LandingRequest,
    target: Target,
    tools: GuestTools,
    choices: Choices,
) -> None:
    cli.begin(LANDING)
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


def next_step(plan: MigrationPlan, migrated: Migrated) -> str:
    """What to do after a migration. The landed machine is not to be started beside its source."""
    if migrated.started or not plan.source_runs_on or not any(nic.mac for nic in migrated.domain.nics):
        return start_step(migrated)
    landed = migrated.landed
    nvram = ["--nvram"] if migrated.domain.firmware is Firmware.EFI else []
    undefine = shell_line(["virsh", "-c", landed.uri, "undefine", landed.name, *nvram])
    return (
        f"Do not start it while its source runs. To move the machine: `{undefine}`, then this command with"
        " --start --shutdown."
    )
