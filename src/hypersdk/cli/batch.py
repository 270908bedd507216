"""The exports of one command: what was planned, what was left out and why, and how each ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from hypersdk.cli.output import Output
from hypersdk.cli.remedies import error_dict, next_step
from hypersdk.errors import Cancelled, HyperSDKError
from hypersdk.migration.export import Outcome
from hypersdk.migration.plan import Plan
from hypersdk.migration.spec import ExportSpec
from hypersdk.model import MachineSummary
from hypersdk.text import natural_key


@dataclass(frozen=True, slots=True)
class Failure:
    """One machine that was not exported, or not restored. ``spec`` and ``summary`` are None where the machine was not
    found."""

    machine: str
    error: HyperSDKError
    spec: ExportSpec | None = None
    summary: MachineSummary | None = None

    def send(self, output: Output) -> None:
        """An event of type "error" that names the machine."""
        output.event("error", {"machine": self.machine, **error_dict(self.error)})


class ExportStatus(StrEnum):
    """How the export of a machine ended."""

    EXPORTED = "exported"
    FAILED = "failed"
    STOPPED = "stopped"  # by the user
    SKIPPED = "skipped"  # it cannot be exported as requested; found before anything was changed
    EARLIER = "exported earlier"  # left as it is by --resume
    NOT_STARTED = "not started"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One machine of a report. Sizes and times are None where they are not known. ``data_bytes`` is what the guest's
    disks hold, ``holes_bytes`` the rest of them: it takes no space."""

    machine: str
    status: ExportStatus
    folder: str
    format: str = ""
    power: str = ""
    disks: int | None = None
    capacity_bytes: int | None = None
    wire_bytes: int | None = None
    data_bytes: int | None = None
    holes_bytes: int | None = None
    written_bytes: int | None = None
    elapsed_s: float | None = None
    proof: str = ""
    code: str = ""
    message: str = ""
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the machines of a batch. The bytes moved are those of all machines, data and holes those of the
    exported ones. The rate is the average over the whole time."""

    machines: int
    exported: int
    failed: int
    stopped: int
    skipped: int
    exported_earlier: int
    not_started: int
    wire_bytes: int
    data_bytes: int
    holes_bytes: int
    written_bytes: int
    elapsed_s: float
    rate_bytes_s: float

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)

    def counts(self) -> dict[ExportStatus, int]:
        """Machines by status: exported ones, and the others where there are any."""
        found = {
            ExportStatus.EXPORTED: self.exported,
            ExportStatus.EARLIER: self.exported_earlier,
            ExportStatus.FAILED: self.failed,
            ExportStatus.STOPPED: self.stopped,
            ExportStatus.SKIPPED: self.skipped,
            ExportStatus.NOT_STARTED: self.not_started,
        }
        return {status: number for status, number in found.items() if number or status is ExportStatus.EXPORTED}


@dataclass(slots=True)
class Batch:
    """The exports of one command. ``received`` has the bytes that each machine received, also one that failed, by the
    ``id`` of its plan. ``unplanned`` are machines by name whose turn has not come."""

    unplanned: list[tuple[str, ExportSpec]] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    skipped: list[Failure] = field(default_factory=list)
    earlier: list[tuple[str, ExportSpec]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    received: dict[int, int] = field(default_factory=dict)
    elapsed_s: float = 0.0
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def size(self) -> int:
        """The number of machines."""
        return len(self.unplanned) + len(self.plans) + len(self.skipped) + len(self.earlier)

    def reached(self, specs: Iterable[ExportSpec]) -> None:
        """These are no longer ``unplanned``."""
        reached = set(map(id, specs))
        self.unplanned = [(name, spec) for name, spec in self.unplanned if id(spec) not in reached]

    def add(self, other: Batch) -> None:
        """Appends another batch that was planned."""
        self.plans += other.plans
        self.skipped += other.skipped
        self.earlier += other.earlier
        self.outcomes += other.outcomes
        self.received |= other.received
        self.elapsed_s += other.elapsed_s

    def ended_badly(self) -> list[Failure]:
        """The machines whose export started and failed or was stopped, or whose source was not restored."""
        return [
            Failure(outcome.plan.machine.name, outcome.error, outcome.plan.spec, outcome.plan.machine.summary)
            for outcome in self.outcomes
            if outcome.error is not None
        ]

    def rows(self) -> list[Row]:
        """One row for each machine, sorted by name."""
        rows = [*self._planned(), *map(_skipped_row, self.skipped)]
        for status, machines in ((ExportStatus.EARLIER, self.earlier), (ExportStatus.NOT_STARTED, self.unplanned)):
            rows += [
                Row(machine=name, status=status, folder=_folder(spec), format=spec.format.value)
                for name, spec in machines
            ]
        return sorted(rows, key=lambda row: natural_key(row.machine))

    def totals(self) -> Totals:
        """The sums."""
        rows = self.rows()
        statuses = [row.status for row in rows]
        wire = _sum(rows, "wire_bytes")
        return Totals(
            machines=len(rows),
            exported=statuses.count(ExportStatus.EXPORTED),
            failed=statuses.count(ExportStatus.FAILED),
            stopped=statuses.count(ExportStatus.STOPPED),
            skipped=statuses.count(ExportStatus.SKIPPED),
            exported_earlier=statuses.count(ExportStatus.EARLIER),
            not_started=statuses.count(ExportStatus.NOT_STARTED),
            wire_bytes=wire,
            data_bytes=_sum(rows, "data_bytes"),
            holes_bytes=_sum(rows, "holes_bytes"),
            written_bytes=_sum(rows, "written_bytes"),
            elapsed_s=self.elapsed_s,
            rate_bytes_s=wire / self.elapsed_s if self.elapsed_s else 0.0,
        )

    def _planned(self) -> Iterator[Row]:
        outcomes = {id(outcome.plan): outcome for outcome in self.outcomes}
        for plan in self.plans:
            yield _plan_row(plan, outcomes.get(id(plan)), self.received.get(id(plan)))


def _sum(rows: Sequence[Row], name: str) -> int:
    return sum(getattr(row, name) or 0 for row in rows)


def _plan_row(plan: Plan, outcome: Outcome | None, wire_bytes: int | None) -> Row:
    facts: dict[str, Any] = {
        "machine": plan.machine.name,
        "folder": _folder(plan.spec),
        "format": plan.spec.format.value,
        "power": plan.machine.power.value,
        "disks": len(plan.disks),
        "capacity_bytes": sum(disk.capacity_bytes for disk in plan.disks),
        "wire_bytes": wire_bytes,
    }
    if outcome is None:
        return Row(status=ExportStatus.NOT_STARTED, **facts)
    if result := outcome.result:
        facts |= {
            "wire_bytes": result.wire_bytes,
            "data_bytes": result.data_bytes,
            "holes_bytes": max(result.capacity_bytes - result.data_bytes, 0),
            "written_bytes": result.written_bytes,
            "elapsed_s": result.elapsed_s,
            "proof": result.proof,
        }
    if outcome.error is None:
        return Row(status=ExportStatus.EXPORTED, **facts)
    stopped = isinstance(outcome.error, Cancelled)
    return Row(status=ExportStatus.STOPPED if stopped else ExportStatus.FAILED, **facts, **_error_facts(outcome.error))


def _skipped_row(failure: Failure) -> Row:
    summary, spec = failure.summary, failure.spec
    return Row(
        machine=failure.machine,
        status=ExportStatus.SKIPPED,
        folder="" if spec is None else _folder(spec),
        format="" if spec is None else spec.format.value,
        power="" if summary is None else summary.power.value,
        disks=None if summary is None else summary.disk_count,
        **_error_facts(failure.error),
    )


def _error_facts(error: HyperSDKError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "next_step": next_step(error)}


def _folder(spec: ExportSpec) -> str:
    path: Path = spec.shown_dir
    return str(path.absolute())
