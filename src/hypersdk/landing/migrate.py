"""Machines from vSphere onto KVM, several at a time.

::

    plan ─> export, the source is held ─> steps in the folder (landing.steps) ─> done
              │                                  │
              └── a failure gives the source back┘       the other machines go on
"""

from __future__ import annotations

from collections.abc import Sequence

from hypersdk.guest.tools import GuestTools
from hypersdk.kvm.capabilities import HypervisorFacts
from hypersdk.landing.fence import Fence
from hypersdk.landing.moves import LandingOutcome, MachineMove, MovesContext, run_moves
from hypersdk.landing.plans import MigrationPlan
from hypersdk.landing.request import LandingRequest
from hypersdk.landing.steps import GuestTurn, Source
from hypersdk.migration.export import MachineExport, Observer
from hypersdk.migration.prepare import endpoint_name
from hypersdk.migration.settings import RunResources, RunSettings
from hypersdk.model import ExportProgress
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.session import Session


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
) -> list[LandingOutcome[MigrationPlan]]:
    """Migrates several machines. At most ``settings.max_machines`` are exported at a time, and at most
    ``max_conversions`` convert their guest. See ``run_moves``."""
    resources = RunResources(settings)
    turn = GuestTurn(tools, max_conversions, resources.space)
    context = MovesContext(request, facts, turn, settings, cancel)
    return run_moves(
        [_MachineMigration(session, plan, resources, context) for plan in plans],
        copies=settings.max_machines,
        landings=max_conversions,
        observer=observer,
        interval_s=settings.progress_interval_s,
    )


class _MachineMigration(MachineMove[MigrationPlan]):
    """A machine that is exported, unless it was before."""

    def __init__(self, session: Session, plan: MigrationPlan, resources: RunResources, context: MovesContext) -> None:
        self._export = MachineExport(session, plan.export, resources, context.cancel) if plan.export else None
        where = f"{plan.machine.summary.path} at {endpoint_name(session)}"
        waiting = ExportProgress(machine=plan.name)
        copying = self._export.progress if self._export else lambda: waiting
        super().__init__(plan, Source(where, session, plan.machine.moref), context, copying)

    @property
    def needs_copy(self) -> bool:
        return self._export is not None

    @property
    def keeps_place(self) -> bool:
        return self.plan.spec.disconnect or self.plan.fence in (Fence.POWERED_OFF, Fence.SHUT_DOWN)

    def _copy(self) -> None:
        assert self._export is not None
        if (error := self._export.outcome().error) is not None:
            raise error
