"""Machines from vSphere onto KVM, several at a time.

::

    plan ─> export, the source is held ─> steps in the folder (landing.steps) ─> done
              │                                  │
              └── a failure gives the source back┘       the other machines go on
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from hypersdk.errors import HyperSDKError
from hypersdk.guest.tools import GuestTools
from hypersdk.kvm.capabilities import HypervisorFacts
from hypersdk.landing.plans import MigrationPlan
from hypersdk.landing.progress import MigrationProgress
from hypersdk.landing.request import LandingRequest
from hypersdk.landing.steps import GuestTurn, Migrated, Source, land_folder
from hypersdk.migration.export import MachineExport, Observer
from hypersdk.migration.prepare import endpoint_name
from hypersdk.migration.publish import ExportResult
from hypersdk.migration.runfile import Change
from hypersdk.migration.settings import RunResources, RunSettings
from hypersdk.migration.ticking import ticking
from hypersdk.model import ExportProgress
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.session import Session


@dataclass(frozen=True, slots=True)
class MigrationOutcome:
    """How the migration of one machine ended. ``exported`` is None where its export was finished before;
    ``source_changes`` are those that were held at its source."""

    plan: MigrationPlan
    exported: ExportResult | None
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
    """Migrates several machines, at most ``settings.max_machines`` at a time, of which at most ``max_conversions``
    convert their guest; one that fails does not stop the others.

    ``observer`` is called at a bounded rate from a thread of its own, and once more at the end.
    """
    resources = RunResources(settings)
    turn = GuestTurn(tools, max_conversions, resources.space)
    machines = [_MachineMigration(session, plan, request, facts, resources, turn, cancel) for plan in plans]
    with (
        ticking([machine.progress.snapshot for machine in machines], observer, settings.progress_interval_s),
        ThreadPoolExecutor(max_workers=settings.max_machines, thread_name_prefix="machine") as pool,
    ):
        return list(pool.map(_MachineMigration.outcome, machines))


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
        self._session = session
        self._plan = plan
        self._request = request
        self._facts = facts
        self._resources = resources
        self._turn = turn
        self._cancel = cancel.child()
        self._export = MachineExport(session, plan.export, resources, cancel) if plan.export else None
        self._exported: ExportResult | None = None
        where = f"{plan.machine.summary.path} at {endpoint_name(session)}"
        self._source = Source(where, session, plan.machine.moref)
        waiting = ExportProgress(machine=plan.name)
        self.progress = MigrationProgress(self._export.progress if self._export else lambda: waiting)

    def outcome(self) -> MigrationOutcome:
        """Runs the migration; every expected error becomes part of the outcome."""
        self.progress.begin()
        migrated, error = None, None
        try:
            migrated = self._run()
        except HyperSDKError as failed:
            error = failed
        self.progress.end(error)
        changes = tuple(self._source.changes)
        return MigrationOutcome(self._plan, self._exported, migrated, error, self.progress.elapsed_s, changes)

    def _run(self) -> Migrated:
        self._cancel.check()
        if self._export is not None:
            outcome = self._export.outcome()
            self._exported = outcome.result
            if outcome.error is not None:
                raise outcome.error
        domain = self._plan.domain
        assert domain is not None, "a machine that is migrated has no plan to run"
        options = replace(self._request.options, name=domain.name)
        return land_folder(
            self._plan.spec.output_dir.absolute(),
            replace(self._request, options=options, exported=self._exported is not None),
            self._facts,
            self._source,
            turn=self._turn,
            settings=self._resources.settings,
            cancel=self._cancel,
            notify=self.progress.enter,
        )
