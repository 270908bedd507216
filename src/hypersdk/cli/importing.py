"""Plans, shows, runs and reports imports."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from hypersdk.cli.batch import Failure
from hypersdk.cli.importtable import show_imports
from hypersdk.cli.landed import Landings, conclude, may_start, opened_target, reports_of, start_step
from hypersdk.cli.landoptions import DEFAULT_CONVERSIONS
from hypersdk.cli.migrationreport import check_report, write_reports
from hypersdk.cli.networks import plan_asked
from hypersdk.cli.progress import watching
from hypersdk.cli.remedies import for_landing
from hypersdk.cli.signals import LANDING
from hypersdk.cli.state import Cli
from hypersdk.cli.total import MachinesTotal
from hypersdk.errors import Cancelled, HyperSDKError, UsageError
from hypersdk.guest.tools import GuestTools, find_tools
from hypersdk.kvm.preflight import TargetInventory
from hypersdk.landing.importing import ImageFolder, ImportPlan, LocalSource, import_machines, plan_import
from hypersdk.landing.request import LandingRequest
from hypersdk.landing.steps import Migrated
from hypersdk.landing.target import Target
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import ExportSpec


@dataclass(frozen=True, slots=True)
class ImportChoices:
    """``output`` is the folder for a package, with ``own_folders`` that above those of several; ``source_off``: the
    user says that the sources are off the network. ``yes``: without questions."""

    output: Path | None = None
    own_folders: bool = False
    source_off: bool = False
    dry_run: bool = False
    yes: bool = False
    max_conversions: int = DEFAULT_CONVERSIONS
    report: Path | None = None


def import_sources(cli: Cli, paths: Sequence[Path], request: LandingRequest, choices: ImportChoices) -> None:
    """The whole command. Raises the error that sets the exit status."""
    check_report(choices.report)
    if request.options.name is not None and len(paths) > 1:
        raise UsageError(f"--name is for one machine, and {len(paths)} are given")
    settings = RunSettings(state=cli.state_dir)
    tools = find_tools(cli.environ)
    if request.conversion is not None:
        request.conversion.check_tools(tools)
    with opened_target(cli, request) as target:
        batch: Landings[ImportPlan] = Landings("imported")
        planner = _Planner(cli, target, tools, choices)
        planner.add(batch, paths, request)
        if not choices.yes:
            request = plan_asked(cli, batch, request, target.connection, planner.again(batch))
    show_imports(cli, batch.plans, batch.skipped, request)
    if batch.plans and not choices.dry_run and may_start(cli, len(batch.plans), "import", yes=choices.yes):
        _carry_out(cli, batch, request, target, tools, settings, choices)
    if choices.report is not None and not choices.dry_run:
        write_reports(cli, choices.report, list(reports_of(batch)), began=batch.began, elapsed_s=batch.elapsed_s)
    conclude(cli, batch, lambda _plan, migrated: _next(migrated, choices))


@dataclass(frozen=True, slots=True)
class _Planner:
    """Plans sources. Nothing is changed."""

    cli: Cli
    target: Target
    tools: GuestTools
    choices: ImportChoices

    def add(self, batch: Landings[ImportPlan], paths: Sequence[Path], request: LandingRequest) -> None:
        """Adds a plan for each source that can be imported, and the error of each that cannot."""
        inventory = self.target.inventory(request.options)
        names = {plan.domain.name for plan in batch.plans}
        folders = {plan.spec.output_dir.resolve(): plan for plan in batch.plans}
        for path in paths:
            try:
                plan = self._plan(path, request, inventory, names)
                _take_folder(plan, folders)
            except Cancelled:
                raise
            except HyperSDKError as error:
                spec = ExportSpec(machine="", output_dir=path if path.is_dir() else self._images.of(path.stem))
                batch.skipped.append(Failure(str(path), for_landing(error), spec))
            else:
                batch.plans.append(plan)
                names.add(plan.domain.name)

    def again(self, batch: Landings[ImportPlan]) -> Callable[[Sequence[Failure], LandingRequest], None]:
        """Plans sources again that failed."""
        return lambda failed, request: self.add(batch, [Path(found.machine) for found in failed], request)

    @property
    def _images(self) -> ImageFolder:
        return ImageFolder(self.choices.output, own=self.choices.own_folders)

    def _plan(
        self, path: Path, request: LandingRequest, inventory: TargetInventory, taken: Collection[str]
    ) -> ImportPlan:
        return plan_import(
            LocalSource(path, path.absolute()),
            self._images,
            request,
            self.target,
            inventory=inventory,
            source_off=self.choices.source_off,
            taken=taken,
            tools=self.tools,
            cancel=self.cli.cancel,
        )


def _take_folder(plan: ImportPlan, folders: dict[Path, ImportPlan]) -> None:
    """Raises UsageError where another source of this command has the same folder."""
    folder = plan.spec.output_dir.resolve()
    if (other := folders.setdefault(folder, plan)) is not plan:
        raise UsageError(
            f"its folder would be {folder}, as that of {other.source}",
            next_step="Import one of them alone, with a folder of its own (-o).",
        )


def _carry_out(
    cli: Cli,
    batch: Landings[ImportPlan],
    request: LandingRequest,
    target: Target,
    tools: GuestTools,
    settings: RunSettings,
    choices: ImportChoices,
) -> None:
    cli.begin(LANDING)
    cli.output.keep_going()
    began = time.monotonic()
    total = MachinesTotal(lambda: cli.cancel.cancelled, timed=False) if batch.size > 1 else None
    with watching(cli.output, total=total) as observer:
        try:
            batch.outcomes += import_machines(
                batch.plans,
                request,
                target,
                tools=tools,
                max_conversions=choices.max_conversions,
                cancel=cli.cancel,
                observer=observer,
                settings=settings,
            )
        finally:
            batch.elapsed_s = time.monotonic() - began
    for outcome in batch.outcomes:
        if outcome.error is not None:
            for_landing(outcome.error)


def _next(migrated: Migrated, choices: ImportChoices) -> str:
    """What to do after an import: its source may use the MAC addresses at this moment."""
    step = start_step(migrated)
    if not step or choices.source_off or not any(nic.mac for nic in migrated.domain.nics):
        return step
    return f"Make sure that its source is off, then `{step}`"
