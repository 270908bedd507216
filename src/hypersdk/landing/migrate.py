"""Machines from vSphere onto KVM, several at a time.

::

    plan ─> export, the source is held ─> steps in the folder (landing.steps) ─> done
              │                                  │
              └── a failure gives the source back┘       the other machines go on
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypersdk.errors import Cancelled, HyperSDKError
from hypersdk.guest.tools import GuestTools
from hypersdk.kvm.capabilities import HypervisorFacts
from hypersdk.landing.fence import Fence
from hypersdk.landing.plans import MigrationPlan
from hypersdk.landing.progress import MigrationProgress
from hypersdk.landing.request import LandingRequest
from hypersdk.landing.stages import run_stages
from hypersdk.landing.steps import GuestTurn, Migrated, Source, land_folder
from hypersdk.migration.export import MachineExport, Observer
from hypersdk.migration.prepare import endpoint_name
from hypersdk.migration.runfile import Change
from hypersdk.migration.settings import RunResources, RunSettings
from hypersdk.migration.ticking import ticking
from hypersdk.model import ExportProgress, Phase
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.session import Session


@dataclass(frozen=True, slots=True)
class MigrationOutcome:
    """How the migration of one machine ended; ``source_changes`` are those that were held at its source."""

    plan: MigrationPlan
    migrated: Migrated | None
    error: HyperSDKError | None
    elapsed_s: float
    source_changes: tuple[Change, ...] = ()


def migrate_machines(
    session: Session,
    plans: Sequence[MigrationPlan],
    request: LandingRequest,
    facts: HypervisorFacts,
    *,
    tools: GuestTools,
    max_conversions: int,
    cancel: CancelToken,
    observer: Observer,
    settings: RunSettings,
) -> list[MigrationOutcome]:
    """Migrates several machines. At most ``settings.max_machines`` are exported at a time, and at most
    ``max_conversions`` convert their guest; one that fails does not stop the others.

    ``observer`` is called at a bounded rate from a thread of its own, and once more at the end.
    """
    resources = RunResources(settings)
    turn = GuestTurn(tools, max_conversions, resources.space)
    machines = [_MachineMigration(session, plan, request, facts, resources, turn, cancel) for plan in plans]
    with ticking([machine.progress.snapshot for machine in machines], observer, settings.progress_interval_s):
        run_stages(machines, copies=settings.max_machines, landings=max_conversions)
    return [machine.outcome() for machine in machines]


class _MachineMigration:
    """One machine."""

    def __init__(
        self,
        session: Session,
        plan: MigrationPlan,
        request: LandingRequest,
        facts: HypervisorFacts,
        resources: RunResources,
        turn: GuestTurn,
        cancel: CancelToken,
    ) -> None:
        self._plan = plan
        self._request = request
        self._facts = facts
        self._settings = resources.settings
        self._turn = turn
        self._cancel = cancel.child()
        self._export = MachineExport(session, plan.export, resources, cancel) if plan.export else None
        self._migrated: Migrated | None = None
        self._error: HyperSDKError | None = None
        where = f"{plan.machine.summary.path} at {endpoint_name(session)}"
        self._source = Source(where, session, plan.machine.moref)
        waiting = ExportProgress(machine=plan.name)
        self.progress = MigrationProgress(self._export.progress if self._export else lambda: waiting)

    @property
    def needs_copy(self) -> bool:
        return self._export is not None

    @property
    def keeps_place(self) -> bool:
        return self._plan.spec.disconnect or self._plan.fence in (Fence.POWERED_OFF, Fence.SHUT_DOWN)

    def copy(self) -> bool:
        """Exports the machine."""
        self.progress.begin()
        self._error = self._export_error()
        if self._error is None:
            self.progress.enter(Phase.WAITING, "waits until other machines are landed")
            return True
        self.progress.end(self._error)
        return False

    def _export_error(self) -> HyperSDKError | None:
        assert self._export is not None
        try:
            self._cancel.check()
        except Cancelled as stopped:
            return stopped
        return self._export.outcome().error

    def land(self) -> None:
        """Runs the steps after the export."""
        if self._export is None:
            self.progress.begin()
        try:
            self._migrated = self._landed()
        except HyperSDKError as failed:
            self._error = failed
        self.progress.end(self._error)

    def outcome(self) -> MigrationOutcome:
        """How it ended."""
        changes = tuple(self._source.changes)
        return MigrationOutcome(self._plan, self._migrated, self._error, self.progress.elapsed_s, changes)

    def _landed(self) -> Migrated:
        if self._export is None:  # else the source may be held: ``land_folder`` gives it back
            self._cancel.check()
        domain = self._plan.domain
        assert domain is not None, "a machine that is migrated has no plan to run"
        options = replace(self._request.options, name=domain.name)
        return land_folder(
            self._plan.spec.output_dir.absolute(),
            replace(self._request, options=options, exported=self._export is not None),
            self._facts,
            self._source,
            turn=self._turn,
            settings=self._settings,
            cancel=self._cancel,
            notify=self.progress.enter,
        )
