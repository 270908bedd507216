"""Plans, shows and runs the import of one machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hypersdk.cli.migrating import opened_target, show_migrated, start_step
from hypersdk.cli.migrationreport import check_report, write_reports
from hypersdk.cli.migrationtable import afterwards, domain_facts, plan_panel, storage_text
from hypersdk.cli.progress import watching
from hypersdk.cli.remedies import for_landing, in_one_line, warning_text
from hypersdk.cli.state import Cli
from hypersdk.errors import HyperSDKError
from hypersdk.guest.tools import GuestTools, find_tools
from hypersdk.landing.importing import ImportPlan, plan_import, run_import
from hypersdk.landing.plans import domain_dict
from hypersdk.landing.progress import MigrationProgress
from hypersdk.landing.report import read_report
from hypersdk.landing.request import LandingRequest
from hypersdk.landing.steps import GuestTurn, Migrated
from hypersdk.landing.target import Target
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.ticking import ticking
from hypersdk.model import ExportProgress


@dataclass(frozen=True, slots=True)
class ImportChoices:
    """``output`` is the folder for a package; ``source_off``: the user says that the source is off the network."""

    output: Path | None = None
    source_off: bool = False
    dry_run: bool = False
    report: Path | None = None


def import_source(cli: Cli, path: Path, request: LandingRequest, choices: ImportChoices) -> None:
    """The whole command. Raises the error that ends it."""
    check_report(choices.report)
    settings = RunSettings(state=cli.state_dir)
    tools = find_tools(cli.environ)
    if request.conversion is not None:
        request.conversion.check_tools(tools)
    with opened_target(cli, request) as target:
        plan = plan_import(
            path,
            choices.output,
            request,
            target,
            source_off=choices.source_off,
            tools=tools,
            runs=settings.run_store,
            cancel=cli.cancel,
        )
    _show(cli, plan, request)
    if choices.dry_run:
        return
    cli.resumable = True
    cli.output.keep_going()
    began = datetime.now(UTC)
    migrated, error, elapsed_s = _carry_out(cli, plan, request, target, tools, settings)
    if choices.report is not None:
        step = in_one_line(error) if error else ""
        name, folder = plan.guest.name, plan.spec.output_dir
        found = read_report(folder, machine=name, error=error, next_step=step, elapsed_s=elapsed_s)
        write_reports(cli, choices.report, [found], began=began, elapsed_s=elapsed_s)
    if error is not None:
        raise error
    assert migrated is not None
    unsure = "Make sure that its source is off, then " if _may_meet_source(migrated, choices) else ""
    step = start_step(migrated)
    show_migrated(cli, plan.guest.name, migrated, elapsed_s, next_step=f"{unsure}`{step}`" if unsure and step else step)


def _carry_out(
    cli: Cli, plan: ImportPlan, request: LandingRequest, target: Target, tools: GuestTools, settings: RunSettings
) -> tuple[Migrated | None, HyperSDKError | None, float]:
    """Shows the progress; returns the landed machine or the error, and the seconds that it took."""
    latest = [ExportProgress(machine=plan.guest.name)]
    progress = MigrationProgress(lambda: latest[0])
    progress.begin()
    migrated, error = None, None
    with watching(cli.output) as observer, ticking([progress.snapshot], observer, settings.progress_interval_s):
        try:
            migrated = run_import(
                plan,
                request,
                target,
                turn=GuestTurn(tools),
                settings=settings,
                cancel=cli.cancel,
                observer=lambda now: latest.__setitem__(0, now),
                notify=progress.enter,
            )
        except HyperSDKError as failed:
            error = for_landing(failed)
        progress.end(error)
    return migrated, error, progress.elapsed_s


def _may_meet_source(migrated: Migrated, choices: ImportChoices) -> bool:
    """Whether the landed machine has MAC addresses that a source may use at this moment."""
    return not choices.source_off and any(nic.mac for nic in migrated.domain.nics)


def _show(cli: Cli, plan: ImportPlan, request: LandingRequest) -> None:
    if cli.output.json_lines:
        facts = {"machine": plan.guest.name, "source": plan.source, "output_dir": plan.spec.output_dir}
        target = {"domain": domain_dict(plan.domain), "storage": plan.storage.as_dict()}
        warnings = [warning_text(warning) for warning in plan.warnings()]
        cli.output.event("plan", {**facts, "convert": plan.package is not None, **target, "warnings": warnings})
        return
    cli.output.notes.print(plan_panel(plan.guest.name, _facts(plan, request)))


def _facts(plan: ImportPlan, request: LandingRequest) -> Iterator[tuple[str, str, str]]:
    yield "from", plan.source, ""
    if plan.package is not None:
        yield "convert", f"into {plan.spec.format.value} images in {plan.spec.output_dir}", ""
    yield from domain_facts(plan.domain, request)
    yield "storage", storage_text(plan.storage), ""
    yield "afterwards", afterwards(request), ""
    for warning in plan.warnings():
        yield "warning", warning_text(warning), "yellow"
