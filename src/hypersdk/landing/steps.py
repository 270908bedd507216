"""The steps after the export, in the folder of one machine.

::

    held folder ─> convert ─> land ─> prove ─> source off the network? ─> its changes are final ─> start
          │                                                                                          │
          └─────────────────── a failure: undo at the target, then give the source back ─────────────┘

The record of the landing has the state of each step: one that is done is not repeated. What is left at the target keeps
the source off the network, so the source is given back last, and only when nothing is left there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hypersdk.errors import Cancelled, HyperSDKError, NotRestored, Refused, register
from hypersdk.guest.faults import NOT_CONVERTED
from hypersdk.guest.report import stages
from hypersdk.guest.tools import GuestTools
from hypersdk.kvm.address import LibvirtAddress
from hypersdk.kvm.capabilities import HypervisorFacts
from hypersdk.kvm.connection import Connection, open_connection
from hypersdk.kvm.define import is_ours, set_autostart
from hypersdk.kvm.prove import ProofOptions
from hypersdk.landing.commit import converted_drivers, settle_conversion
from hypersdk.landing.conversions import ConversionOptions
from hypersdk.landing.convert import convert_guest
from hypersdk.landing.fence import needs_fence
from hypersdk.landing.guests import guest_of, open_manifest
from hypersdk.landing.land import (
    Landed,
    check_addresses,
    check_disks_gone,
    land,
    landed_addresses,
    not_undone,
    start_landed,
    undo_landing,
    warnings,
)
from hypersdk.landing.landed import check_not_landed
from hypersdk.landing.planning import assumed_drivers, plan_guest
from hypersdk.landing.prove import prove_landed
from hypersdk.landing.record import CONVERT, LAND, PROVE, START, LandingFile, StepRecord, StepState, read_landing
from hypersdk.landing.request import LandingRequest
from hypersdk.migration.hold import check_not_held, check_off_network, held_run, restore_held, taking_over
from hypersdk.migration.runfile import Change, RunFile, held_folder
from hypersdk.migration.settings import RunSettings
from hypersdk.model import Phase
from hypersdk.model.guestplan import BootProof, GuestDrivers, GuestPlan, SourceGuest
from hypersdk.remedies import Notice, RestoreSource
from hypersdk.text import clean
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.folder import OutputFolder
from hypersdk.transfer.space import SpaceLedger
from hypersdk.transfer.turns import Turns
from hypersdk.vsphere.session import Session

LANDED_UNCONVERTED: Final = register(
    "landed_unconverted",
    "The machine was landed before without a guest conversion, and its domain uses the images now.",
    "Undefine that domain, then run the command again.",
    NOT_CONVERTED,
)
LANDED_WITH_ADDRESSES: Final = register(
    "landed_with_addresses",
    "The machine was landed before with the MAC addresses of its source, and new ones are asked for. A domain is not"
    " changed once it is landed.",
    "Undefine that domain, then run the command again.",
)
LANDED_UNDER_NAME: Final = register(
    "landed_under_name",
    "The machine was landed before under another name than the one that is asked for now. A domain is not renamed.",
    "Leave the name out. Or undefine that domain, then run the command again.",
)
Notify = Callable[[Phase, str], None]
"""Called with the phase and one line for users."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the machine came from: ``text`` for users. ``session`` is None where nobody is logged in to it: then the
    user has said that it is off the network. ``changes`` gets those that were held, for a report."""

    text: str
    session: Session | None = None
    moref: str = ""
    changes: list[Change] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of one machine. ``named`` is its path for users and for programs, where ``folder`` is an open
    descriptor; ``job`` the daemon's job that works there, empty for a command."""

    folder: Path
    named: Path | None = None
    job: str = ""

    def held(self, settings: RunSettings) -> AbstractContextManager[OutputFolder]:
        """The folder, locked. Raises TargetError ``run_active``."""
        return held_folder(self.folder, settings.locate, self.named, self.job)


class GuestTurn(Turns):
    """How many guests are converted or proved at a time: that takes a processor, and memory. ``space`` are the
    reservations that they share."""

    def __init__(self, tools: GuestTools, at_once: int = 1, space: SpaceLedger | None = None) -> None:
        super().__init__(at_once)
        self.tools: Final = tools
        self.space: Final = space or SpaceLedger()


@dataclass(frozen=True, slots=True)
class Migrated:
    """A landed machine. ``started`` says whether this run, or one before it, started it; ``converted`` whether its
    guest was converted, and by that says what it can use."""

    landed: Landed
    domain: GuestPlan
    started: bool
    converted: bool
    proof: BootProof | None
    warnings: tuple[Notice, ...]


def land_folder(
    folder: Path,
    request: LandingRequest,
    facts: HypervisorFacts,
    source: Source,
    *,
    turn: GuestTurn,
    settings: RunSettings,
    cancel: CancelToken,
    notify: Notify,
) -> Migrated:
    """Does the steps that are not done. After a failure or a cancel nothing is left at the target, and the source is as
    it was before the migration; what an earlier, finished migration landed stays.

    Raises the error of the step; NotRestored where something is left at the target.
    """
    place = Place(folder)
    migrated = land_until(
        START, place, request, facts, source, turn=turn, settings=settings, cancel=cancel, notify=notify
    )
    assert migrated is not None, "all steps are done"
    return migrated


def land_until(
    last: str,
    place: Place,
    request: LandingRequest,
    facts: HypervisorFacts,
    source: Source,
    *,
    turn: GuestTurn,
    settings: RunSettings,
    cancel: CancelToken,
    notify: Notify,
) -> Migrated | None:
    """Does the steps up to ``last``, as ``land_folder`` does all of them; None before the machine is landed. Where a
    daemon's job is cancelled, what is done stays: its next attempt continues there, or undoes it."""
    with place.held(settings) as held, ExitStack() as stack:
        landing = LandingFile.opened(held, state=settings.state)
        run = held_run(held.path, settings.run_store)
        source.changes.extend(run.record.changes if run is not None else ())
        work = _Steps(landing, run, source, turn, settings.state, cancel, notify, place.job)
        try:
            connection = stack.enter_context(open_connection(request.address, cancel=cancel))
            return work.run(connection, request, facts, last)
        except BaseException as error:
            if not (place.job and isinstance(error, Cancelled)):
                work.undo(error)
            raise


def convert_images(
    place: Place,
    options: ConversionOptions,
    *,
    turn: GuestTurn,
    settings: RunSettings,
    cancel: CancelToken,
    notify: Notify,
) -> GuestDrivers:
    """Converts the guest, which is landed nowhere; one that is converted stays as it is. Raises what ``convert_guest``
    does, Refused ``images_landed``, TargetError ``run_active``."""
    with place.held(settings) as held:
        check_not_landed(held.path)
        landing = LandingFile.opened(held, state=settings.state)
        landing.record.steps.setdefault(CONVERT, StepRecord())
        landing.folder.check()  # from here on programs use its name
        guest = guest_of(open_manifest(held.path), held.named)
        work = _Steps(landing, None, Source(""), turn, settings.state, cancel, notify, place.job)
        return work.converted(guest, options, as_written=False)


def undo_job(place: Place, address: Callable[[], LibvirtAddress], *, settings: RunSettings) -> tuple[str, ...]:
    """Undoes what the daemon's job landed, unless it is started: that is final. ``address`` is called where there is
    something to undo. Returns the kinds of changes.

    Raises NotRestored for what cannot be undone, ConnectError, TargetError ``run_active``, IntegrityError.
    """
    landing = read_landing(place.folder)
    if landing is None or landing.job != place.job or START in landing.done_steps:
        return ()
    lands = landing.steps.get(LAND)
    if not landing.open_changes and (lands is None or lands.state is not StepState.RUNNING):
        return ()
    cancel = CancelToken()
    with place.held(settings) as held, open_connection(address(), cancel=cancel) as connection:
        file = LandingFile.opened(held, state=settings.state)
        left = file.record.open_changes
        if problems := undo_landing(connection, file, cancel=cancel):
            raise not_undone(file, problems)
        return tuple(change.kind for change in left)


class _Steps:
    """One run of the steps. ``held`` is the run of the export, which holds the source; None where nothing is held."""

    def __init__(
        self,
        landing: LandingFile,
        held: RunFile | None,
        source: Source,
        turn: GuestTurn,
        state: Path,
        cancel: CancelToken,
        notify: Notify,
        job: str,
    ) -> None:
        self._state = state
        self._landing = landing
        self._job = job
        self._turn = turn
        self._held = held
        self._source = source
        self._cancel = cancel
        self._notify = notify
        self._connection: Connection | None = None
        self._stays = self._stays_whatever_happens()

    def _stays_whatever_happens(self) -> bool:
        """Whether an earlier, finished migration landed it, or another job."""
        landing = self._landing
        if self._job:
            return landing.done(LAND) is not None and landing.record.job != self._job
        # What was defined for a source that is still held belongs to a migration that was killed, until it is started.
        return landing.record.finished and (self._held is None or landing.done(START) is not None)

    def run(
        self, connection: Connection, request: LandingRequest, facts: HypervisorFacts, last: str
    ) -> Migrated | None:
        self._connection = connection
        self._forget_gone(connection)
        for name in request.steps:  # a landing is finished when all that was asked for is done
            self._landing.record.steps.setdefault(name, StepRecord())
        self._landing.folder.check()  # from here on programs use its name
        guest = guest_of(open_manifest(self._landing.folder.path), self._landing.folder.named)
        drivers = self.converted(guest, request.conversion, as_written=request.exported)
        self._landing.forget_failed(request.steps)
        if last == CONVERT:
            return None
        before = self._landing.done(LAND)
        if before is not None and request.options.name not in (None, before["name"]):
            raise Refused(f"'{guest.name}' was landed as '{clean(str(before['name']), 80)}'", code=LANDED_UNDER_NAME)
        domain = plan_guest(guest, drivers, request.options, facts)
        self._notify(Phase.LANDING, "")
        if self._landing.done(LAND) is None:
            self._landing.record.job = self._job
        landed = land(
            connection,
            domain,
            facts,
            self._landing,
            request.options,
            source=self._source.text,
            report=lambda text, _done, _total: self._notify(Phase.LANDING, text),
            cancel=self._cancel,
        )
        proof = self._proved(connection, landed, request.proof) if last != LAND else None
        if needs_fence(request.options) and last in (START, request.steps[-1]):
            self._take_over(connection, landed, guest, request)
        return Migrated(
            landed,
            domain,
            started=self._landing.done(START) is not None,
            converted=self._landing.done(CONVERT) is not None,
            proof=proof,
            warnings=tuple(warnings(domain)),
        )

    def converted(self, guest: SourceGuest, options: ConversionOptions | None, *, as_written: bool) -> GuestDrivers:
        """What the guest can use. Without a conversion, now or before, what guests of its kind have drivers for."""
        if options is None:
            drivers = settle_conversion(self._landing, self._turn.tools, cancel=self._cancel)
            return assumed_drivers(guest) if drivers is None else drivers
        known = converted_drivers(open_manifest(self._landing.folder.path))
        if known is not None and self._landing.done(CONVERT) is not None:
            return known
        if self._landing.done(LAND) is not None:
            raise Refused(f"'{guest.name}' was landed without a guest conversion", code=LANDED_UNCONVERTED)
        with self._turn.taken(self._cancel, self._waits):
            self._notify(Phase.CONVERTING, "starting")
            return convert_guest(
                self._landing,
                options.request_for(guest),
                self._turn.tools,
                cancel=self._cancel,
                on_event=stages(lambda stage: self._notify(Phase.CONVERTING, stage)),
                space=self._turn.space,
                as_written=as_written,
            )

    def _waits(self) -> None:
        self._notify(Phase.WAITING, "waits until another guest is converted or proved")

    def _proved(self, connection: Connection, landed: Landed, options: ProofOptions | None) -> BootProof | None:
        """The proof that the landed machine boots, if one is wanted and the machine was not started yet."""
        if options is None or (self._landing.done(START) is not None and self._landing.done(PROVE) is None):
            return None
        with self._turn.taken(self._cancel, self._waits):
            self._notify(Phase.PROVING, "booting it without network, on a temporary overlay")
            return prove_landed(
                connection,
                self._landing,
                landed.uuid,
                options,
                cancel=self._cancel,
                report=lambda text: self._notify(Phase.PROVING, text),
            )

    def _forget_gone(self, connection: Connection) -> None:
        """A domain that somebody undefined since it was landed is landed again, unless disks of it are left."""
        done = self._landing.done(LAND)
        if done is not None and not is_ours(connection, str(done["uuid"]), self._landing.record.landing_id):
            self._stays = True
            check_disks_gone(connection, self._landing)
            self._stays = False
            self._undo_target(connection, None)

    def _undo_target(self, connection: Connection, error: BaseException | None) -> None:
        if problems := undo_landing(connection, self._landing, cancel=CancelToken()):
            raise not_undone(self._landing, problems) from error

    def _take_over(self, connection: Connection, landed: Landed, guest: SourceGuest, request: LandingRequest) -> None:
        """Starts the landed machine, now or with its host, as is asked for, once its source is off the network for
        good."""
        started = self._landing.done(START) is not None
        if not started:
            self._cancel.check()
            check_addresses(connection, landed.uuid)
            self._check_source(landed_addresses(connection, landed.uuid), guest, request)
        with taking_over(self._held):
            if request.options.autostart:
                set_autostart(connection, landed.uuid)
            if request.options.start and not started:
                self._notify(Phase.LANDING, f"starting {landed.name}")
                with self._landing.step(START):
                    start_landed(connection, self._landing, landed)

    def _check_source(self, addresses: Collection[str], guest: SourceGuest, request: LandingRequest) -> None:
        """``addresses`` are those of the landed domain, which may be an earlier run's."""
        if not any(nic.mac and nic.mac.lower() in addresses for nic in guest.nics):
            return
        if request.options.new_macs:
            raise Refused(f"'{guest.name}' was landed with its MAC addresses", code=LANDED_WITH_ADDRESSES)
        if (session := self._source.session) is not None:
            check_not_held(self._state, session, self._source.moref, guest.name, self._landing.folder.named)
            check_off_network(session, self._source.moref, guest.name, cancel=self._cancel)

    def undo(self, error: BaseException) -> None:
        """Undoes what is open at the target, then at the source. Raises NotRestored where something is left at the
        target, which keeps the source as it is; what is left at the source is added to ``error``. A machine that was
        landed, and maybe started, before this run stays, and its source off the network."""
        if self._stays:
            return
        self._notify(Phase.LANDING, "undoing what was changed")
        if self._landing.record.open_changes:
            if self._connection is None:
                return  # it cannot be reached: the next run continues
            self._undo_target(self._connection, error)
        if self._held is None or self._source.session is None:
            return
        try:
            restore_held(self._source.session, self._held, note=lambda text: self._notify(Phase.LANDING, text))
        except HyperSDKError as left:
            add_left(error, left)


def add_left(error: BaseException, left: HyperSDKError) -> None:
    """Adds what could not be undone at the source."""
    if not isinstance(error, HyperSDKError):
        error.add_note(left.message)
        return
    remedies = left.remedies if isinstance(left, NotRestored) else (RestoreSource(),)
    error.remedies = tuple(dict.fromkeys((*error.remedies, *remedies)))
    error.fields["not_undone"] = [left.message]
