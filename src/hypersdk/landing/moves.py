"""Machines of one command on their way to KVM: what migrations and imports have in common.

::

    MachineMove   copy ─> land, in the order of ``landing.stages`` ─> LandingOutcome
        ├─ a migration   copies by an export
        └─ an import     makes images of a package
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from hypersdk.errors import HyperSDKError
from hypersdk.kvm.capabilities import HypervisorFacts
from hypersdk.landing.progress import MigrationProgress
from hypersdk.landing.request import LandingRequest
from hypersdk.landing.stages import run_stages
from hypersdk.landing.steps import GuestTurn, Migrated, Source, land_folder
from hypersdk.migration.export import Observer
from hypersdk.migration.runfile import Change
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import ExportSpec
from hypersdk.migration.ticking import ticking
from hypersdk.model import ExportProgress, Phase
from hypersdk.model.guestplan import GuestPlan
from hypersdk.transfer.cancel import CancelToken


class LandingPlan(Protocol):
    """One machine that will be landed."""

    @property
    def name(self) -> str:
        """The machine's name."""

    @property
    def spec(self) -> ExportSpec:
        """Its export: the folder."""

    @property
    def domain(self) -> GuestPlan | None:
        """What it becomes; None where it was landed before."""


P = TypeVar("P", bound=LandingPlan)


@dataclass(frozen=True, slots=True)
class LandingOutcome(Generic[P]):
    """How it ended for one machine; ``migrated`` is None after an error. ``source_changes`` are those that were held at
    its source."""

    plan: P
    migrated: Migrated | None
    error: HyperSDKError | None
    elapsed_s: float
    source_changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class MovesContext:
    """What all machines of one command share."""

    request: LandingRequest
    facts: HypervisorFacts
    turn: GuestTurn
    settings: RunSettings
    cancel: CancelToken


class MachineMove(ABC, Generic[P]):
    """One machine. Every expected error becomes part of its outcome. ``copying`` is the progress of its copy."""

    def __init__(self, plan: P, source: Source, context: MovesContext, copying: Callable[[], ExportProgress]) -> None:
        self.plan = plan
        self.progress = MigrationProgress(copying)
        self._source = source
        self._context = context
        self._cancel = context.cancel.child()
        self._migrated: Migrated | None = None
        self._error: HyperSDKError | None = None

    @property
    @abstractmethod
    def needs_copy(self) -> bool:
        """See Move."""

    @property
    def keeps_place(self) -> bool:
        """See Move."""
        return False

    @abstractmethod
    def _copy(self) -> None:
        """Copies the machine into the folder of its plan. Raises HyperSDKError."""

    def copy(self) -> bool:
        """See Move."""
        self.progress.begin()
        try:
            self._cancel.check()
            self._copy()
        except HyperSDKError as failed:
            self._error = failed
            self.progress.end(failed)
            return False
        self.progress.enter(Phase.WAITING, "waits until other machines are landed")
        return True

    def land(self) -> None:
        """See Move."""
        if not self.needs_copy:
            self.progress.begin()
        try:
            self._migrated = self._landed()
        except HyperSDKError as failed:
            self._error = failed
        self.progress.end(self._error)

    def _landed(self) -> Migrated:
        if not self.needs_copy:  # else its source may be held: ``land_folder`` gives it back
            self._cancel.check()
        assert self.plan.domain is not None, "what was landed before is not moved"
        request = self._context.request
        return land_folder(
            self.plan.spec.output_dir.absolute(),
            replace(request, options=replace(request.options, name=self.plan.domain.name), exported=self.needs_copy),
            self._context.facts,
            self._source,
            turn=self._context.turn,
            settings=self._context.settings,
            cancel=self._cancel,
            notify=self.progress.enter,
        )

    def outcome(self) -> LandingOutcome[P]:
        """How it ended."""
        changes = tuple(self._source.changes)
        return LandingOutcome(self.plan, self._migrated, self._error, self.progress.elapsed_s, changes)


def run_moves(
    moves: Sequence[MachineMove[P]], *, copies: int, landings: int, observer: Observer, interval_s: float
) -> list[LandingOutcome[P]]:
    """Copies and lands, at most so many at a time; one that fails does not stop the others. ``observer`` is called each
    ``interval_s`` from a thread of its own, and once more at the end."""
    with ticking([move.progress.snapshot for move in moves], observer, interval_s):
        run_stages(moves, copies=copies, landings=landings)
    return [move.outcome() for move in moves]
