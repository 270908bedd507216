"""The plan of each import on the screen, before anything is changed: one in full, several in one table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from hypersdk.cli.batch import Failure
from hypersdk.cli.columns import Cell, Column
from hypersdk.cli.migrationtable import (
    afterwards,
    domain_cells,
    domain_facts,
    plan_panel,
    show_table,
    storage_text,
    sum_text,
)
from hypersdk.cli.plantable import grouped, reasons_of
from hypersdk.cli.remedies import warning_text
from hypersdk.cli.state import Cli
from hypersdk.landing.importing import ImportPlan
from hypersdk.landing.plans import domain_dict
from hypersdk.landing.request import LandingRequest
from hypersdk.text import clean

_COLUMNS: Final = (
    Column("Machine", least=20),
    Column("Disks", right=True),
    Column("Firmware", optional=True),
    Column("Networks", least=12),
    Column("Domain", least=12, optional=True),
    Column("From"),
    Column("Notes", least=12, optional=True),
)


def show_imports(cli: Cli, plans: Sequence[ImportPlan], skipped: Sequence[Failure], request: LandingRequest) -> None:
    """What will be done with each source, and which are skipped; with --json, events of type "plan" and "error"."""
    alone = len(plans) + len(skipped) == 1
    if cli.output.json_lines:
        _send(cli, plans, () if alone else skipped)
    elif alone:
        for plan in plans:
            cli.output.notes.print(plan_panel(plan.name, _facts(plan, request)))
    else:
        rows = [(plan.name, _row(plan)) for plan in plans]
        rows += [(failure.machine, _skipped_row(failure)) for failure in skipped]
        show_table(cli, _COLUMNS, rows, _remarks(plans, skipped), [_sum(plans, skipped, request)])


def _send(cli: Cli, plans: Sequence[ImportPlan], skipped: Sequence[Failure]) -> None:
    for plan in plans:
        facts = {"machine": plan.name, "source": plan.source, "output_dir": plan.spec.output_dir}
        target = {"domain": domain_dict(plan.domain), "storage": plan.storage.as_dict()}
        warnings = [warning_text(warning) for warning in plan.warnings()]
        cli.output.event("plan", {**facts, "convert": plan.package is not None, **target, "warnings": warnings})
    for failure in skipped:
        failure.send(cli.output)


def _facts(plan: ImportPlan, request: LandingRequest) -> Iterator[tuple[str, str, str]]:
    yield "from", plan.source, ""
    if plan.package is not None:
        yield "convert", f"into {plan.spec.format.value} images in {plan.spec.output_dir}", ""
    yield from domain_facts(plan.domain, request)
    yield "storage", storage_text(plan.storage), ""
    yield "afterwards", afterwards(request), ""
    for warning in plan.warnings():
        yield "warning", warning_text(warning), "yellow"


def _row(plan: ImportPlan) -> list[Cell]:
    warnings = [warning.text for warning in plan.warnings()]
    notes = [f"converted into {plan.spec.output_dir}"] if plan.package is not None else []
    return [
        (clean(plan.name, 100), "bold"),
        *domain_cells(plan.name, plan.domain),
        ("package" if plan.package is not None else "export", ""),
        (clean("; ".join([*notes, *warnings]), 200), "yellow" if warnings else "dim"),
    ]


def _skipped_row(failure: Failure) -> list[Cell]:
    blank: Cell = ("", "")
    reason = clean(failure.error.message, 200)
    return [
        (clean(failure.machine, 100), "red"), blank, blank, blank, blank, ("skipped", "red"), (reason, "red"),
    ]  # fmt: skip


def _remarks(plans: Sequence[ImportPlan], skipped: Sequence[Failure]) -> Iterator[tuple[str, str, str]]:
    warned = [(plan.name, warning_text(warning)) for plan in plans for warning in plan.warnings()]
    yield from grouped("warning", warned, "yellow")
    yield from grouped("skipped", reasons_of(skipped), "red")


def _sum(plans: Sequence[ImportPlan], skipped: Sequence[Failure], request: LandingRequest) -> str:
    return sum_text([plan.domain for plan in plans], len(skipped), request, "imported")
