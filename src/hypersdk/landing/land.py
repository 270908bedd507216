"""The step ``land``: the machine becomes a domain of libvirt.

::

    check_target     everything that is in the way, at once; nothing is changed
    land             disks get their places, the domain is defined        each recorded before it is made,
    start_landed     the domain is started                                 undone when the step fails
    undo_landing     all of it backwards, also after a kill

    change     recorded                      undo
    image      both names, inode number      the image gets its name in the export's folder back; a copy is removed
    volume     pool and name                 deleted
    domain     UUID                          undefined with its firmware variables, if it carries this landing's id
    started    UUID                          stopped

Who owns the images afterwards is in the step's result, as ``owner``, and in the manifest.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
import uuid as uuids
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from hypersdk import __version__
from hypersdk.errors import Cancelled, ConnectError, HyperSDKError, NotRestored, Refused, register
from hypersdk.kvm.capabilities import HypervisorFacts
from hypersdk.kvm.connection import Connection, open_connection
from hypersdk.kvm.define import (
    define_domain,
    is_ours,
    remove_domain,
    start_domain,
    stop_domain,
)
from hypersdk.kvm.domainxml import Origin, domain_xml
from hypersdk.kvm.preflight import (
    DomainFacts,
    TargetInventory,
    address_refusals,
    check_unused,
    domain_refusals,
    read_domains,
    read_inventory,
)
from hypersdk.landing.changes import DOMAIN_CHANGE, IMAGE_CHANGE, STARTED_CHANGE, VOLUME_CHANGE
from hypersdk.landing.disks import (
    DiskPlacer,
    Placing,
    Report,
    StoragePlan,
    change_data,
    plan_storage,
    storage_refusals,
)
from hypersdk.landing.options import LandOptions
from hypersdk.landing.owner import forget_owner, note_owner
from hypersdk.landing.record import (
    LAND,
    PROVE,
    START,
    LandingFile,
    LandingRecord,
    StepRecord,
    StepState,
    TargetChange,
)
from hypersdk.migration.manifest import LandedPart, timestamp
from hypersdk.migration.preflight import raise_if_any
from hypersdk.model.guestplan import GuestPlan
from hypersdk.remedies import First, Notice, Retry
from hypersdk.text import clean
from hypersdk.transfer.cancel import CancelToken

LOG: Final = logging.getLogger(__name__)

RECONNECT_S: Final = 10.0
"""How long an undo waits for a target that does not answer."""
_RECONNECT_EVERY_S: Final = 0.5

LANDED_GONE: Final = register(
    "landed_gone",
    "The machine was landed, and its domain does not exist any more: somebody undefined it.",
    "Run the migration or the import again: the machine is landed anew.",
)
DISKS_LEFT: Final = register(
    "landed_disks_left",
    "The domain of the landed machine does not exist any more, and its disks are still in the storage pool. What its"
    " guest wrote may be on them, so they are not deleted.",
    "Define a domain with these disks if they are needed. If not, delete each with `virsh vol-delete PATH`, then run"
    " the command again: the machine is landed anew.",
)
OTHER_TARGET: Final = register(
    "other_target",
    "A landing of this export at another target is not finished, or not undone.",
    "Finish it there, or export the machine into another folder.",
)
TARGET_NOT_RESTORED: Final = register(
    "target_not_restored",
    "A change at the target could not be undone.",
    First("wait until libvirt answers again"),
    Retry(),
)

_DESCRIPTIONS: Final = {
    IMAGE_CHANGE: "put an image back",
    VOLUME_CHANGE: "delete an uploaded volume",
    DOMAIN_CHANGE: "undefine the domain",
    STARTED_CHANGE: "stop the domain",
}
_OWNER_WORDS: Final = {
    Placing.IN_PLACE: "domain",
    Placing.MOVE: "pool",
    Placing.COPY: "export",
    Placing.UPLOAD: "export",
}
OWNERS: Final = {
    Placing.IN_PLACE: "the domain uses the images in the folder of the export: do not remove or convert them",
    Placing.MOVE: "the images belong to the storage pool",
    Placing.COPY: "the images in the storage pool are copies: the export is complete and may be removed",
    Placing.UPLOAD: "the images in the storage pool are copies: the export is complete and may be removed",
}


@dataclass(frozen=True, slots=True)
class Landed:
    """A landed machine. ``disks`` are paths at the hypervisor; ``owner`` says to whom the images belong now."""

    uuid: str
    name: str
    uri: str
    disks: tuple[Path, ...]
    owner: str


@dataclass(frozen=True, slots=True)
class UndoProblem:
    """A change at the target that could not be undone."""

    change: str
    error: HyperSDKError


def check_target(
    connection: Connection,
    plan: GuestPlan,
    facts: HypervisorFacts,
    options: LandOptions,
    inventory: TargetInventory,
    landing: LandingRecord | None = None,
) -> StoragePlan:
    """Looks for all that is in the way of ``plan``; images that do not exist yet count with their capacity.
    ``inventory`` is what the target has. ``landing`` is an earlier attempt, whose own changes are not in the way.
    Nothing is changed.

    Raises Refused with all reasons, LookupFailed ``no_such_pool``, and the errors of a connection.
    """
    changes = _ours(landing) if landing else []
    own = {change.data["landing"] for change in changes}
    placed = [change.data["name"] for change in changes if change.kind in (IMAGE_CHANGE, VOLUME_CHANGE)]
    storage, reasons = _storage(connection, plan, facts, options, placed)
    reasons += domain_refusals(plan, inventory, own=own)
    if connection.address.is_here:
        reasons += _in_use(plan, [domain for domain in inventory.domains if domain.landing not in own])
    raise_if_any(clean(plan.name, 200), reasons, "landed")
    assert storage is not None, "there is a reason then"
    return storage


def _storage(
    connection: Connection, plan: GuestPlan, facts: HypervisorFacts, options: LandOptions, placed: Sequence[str]
) -> tuple[StoragePlan | None, list[HyperSDKError]]:
    try:
        storage = plan_storage(connection, plan, options.pool)
    except HyperSDKError as error:
        return None, [error]
    return storage, storage_refusals(connection, storage, facts, placed=placed)


def _in_use(plan: GuestPlan, domains: Sequence[DomainFacts]) -> list[HyperSDKError]:
    try:
        check_unused(domains, {os.path.realpath(disk.file) for disk in plan.disks}, here=True)
    except Refused as error:
        return [error]
    return []


def warnings(plan: GuestPlan) -> list[Notice]:
    """What a user should know of a domain."""
    found = []
    if plan.virt_type == "qemu":
        found.append(Notice("the guest is emulated, not run by KVM, which is many times slower"))
    if plan.tpm:
        found.append(Notice("its TPM is new and empty: what the guest sealed with the old one needs its recovery key"))
    return found


def land(
    connection: Connection,
    plan: GuestPlan,
    facts: HypervisorFacts,
    landing: LandingFile,
    options: LandOptions,
    *,
    source: str,
    report: Report,
    cancel: CancelToken,
) -> Landed:
    """Lands the machine; one that was landed before is looked for and returned. ``source`` is where it came from, as a
    user reads it; ``report`` is called with what is done now, bytes done, and bytes of it.

    After a failure or a cancel all is undone. Raises what ``check_target`` does, TargetError, Cancelled, NotRestored
    ``target_not_restored``.
    """
    _same_target(connection, landing.record)
    if (done := landing.done(LAND)) is not None:
        return _still_there(connection, landing.record, Landed(**{**done, "disks": tuple(map(Path, done["disks"]))}))
    step_of = _Step(connection, landing, report, cancel)
    with landing.step(LAND) as step:
        landing.record.target = str(connection.address)
        try:
            step_of.undo_unfinished()
            inventory = read_inventory(connection, bridges={nic.target for nic in plan.nics if nic.bridge})
            storage = check_target(connection, plan, facts, options, inventory, landing.record)
            landed = step_of.run(plan, storage, source)
            _tell_owner(landing, landed, storage)
        except BaseException as error:
            _undo_after(error, connection, landing)
            raise
        step.result = {
            "uuid": landed.uuid,
            "name": landed.name,
            "uri": landed.uri,
            "disks": [str(path) for path in landed.disks],
            "owner": landed.owner,
        }
    return landed


def _tell_owner(landing: LandingFile, landed: Landed, storage: StoragePlan) -> None:
    note_owner(
        landing.folder.path,
        LandedPart(
            uri=landed.uri,
            uuid=landed.uuid,
            name=landed.name,
            owner=_OWNER_WORDS[storage.places[0].placing],
            disks=tuple(map(str, landed.disks)),
            landed_at=timestamp(),
        ),
    )


def _same_target(connection: Connection, record: LandingRecord) -> None:
    uri = str(connection.address)
    others = {change.data["uri"] for change in _ours(record)} - {uri}
    if others:
        raise Refused(f"the export was landed at {', '.join(sorted(others))}", code=OTHER_TARGET)


def _still_there(connection: Connection, record: LandingRecord, landed: Landed) -> Landed:
    if not is_ours(connection, landed.uuid, record.landing_id):
        raise Refused(f"the domain '{clean(landed.name, 80)}' does not exist any more", code=LANDED_GONE)
    return landed


class _Step:
    """One run of the step."""

    def __init__(self, connection: Connection, landing: LandingFile, report: Report, cancel: CancelToken) -> None:
        self._connection = connection
        self._landing = landing
        self._placer = DiskPlacer(connection, landing)
        self._report = report
        self._cancel = cancel

    def undo_unfinished(self) -> None:
        """What a killed run began and did not finish is undone, and what it did for an earlier export; what it finished
        is used."""
        for change in reversed(_ours(self._landing.record)):
            if not self._is_made(change):
                _undo(change, self._connection, self._landing)
                self._landing.note_undone(change)

    def _is_made(self, change: TargetChange) -> bool:
        """Whether it was made for this landing of this export; the process may have died before it noted that the
        domain is defined."""
        if change.data["landing"] != self._landing.record.landing_id:
            return False
        return change.made or (
            change.kind == DOMAIN_CHANGE and is_ours(self._connection, change.data["uuid"], change.data["landing"])
        )

    def run(self, plan: GuestPlan, storage: StoragePlan, source: str) -> Landed:
        placed = self._placer.placed()
        disks = []
        for place in storage.places:
            self._cancel.check()
            path = placed.get(place.name) or self._placer.place(
                place, storage.pool, report=self._report, cancel=self._cancel
            )
            disks.append(replace(place.disk, file=path))
        self._cancel.check()
        in_place = [str(disk.file) for disk in disks] if storage.pool is None else []
        uuid = self._define(replace(plan, disks=tuple(disks)), source, in_place)
        check_addresses(self._connection, uuid)
        return Landed(
            uuid=uuid,
            name=plan.name,
            uri=str(self._connection.address),
            disks=tuple(disk.file for disk in disks),
            owner=OWNERS[storage.places[0].placing],
        )

    def _define(self, plan: GuestPlan, source: str, in_place: list[str]) -> str:
        origin = Origin(self._landing.record.landing_id, source, __version__)
        digest = hashlib.sha256(domain_xml(plan, uuid="", origin=origin).encode()).hexdigest()
        if (defined := self._defined(digest)) is not None:
            return defined
        self._report(f"defining {plan.name}", 0, 0)
        uuid = str(uuids.uuid4())
        xml = domain_xml(plan, uuid=uuid, origin=origin)
        data = change_data(self._connection, self._landing, uuid=uuid, in_place=in_place, definition=digest)
        with self._landing.change(DOMAIN_CHANGE, data):
            define_domain(self._connection, xml)
        return uuid

    def _defined(self, digest: str) -> str | None:
        """The domain of a killed run, if it would be defined the same now. Another one, for which something else was
        asked, is removed."""
        for change in _ours(self._landing.record):
            if change.kind == DOMAIN_CHANGE:
                if change.data.get("definition") == digest:
                    return str(change.data["uuid"])
                _undo(change, self._connection, self._landing)
                self._landing.note_undone(change)
        return None


def start_landed(connection: Connection, landing: LandingFile, landed: Landed) -> None:
    """Starts the landed domain; it is stopped again when the landing is undone. Raises TargetError and the errors of a
    connection: it is off then."""
    if any(change.kind == STARTED_CHANGE and change.made for change in _ours(landing.record)):
        start_domain(connection, landed.uuid)
        return
    with landing.change(STARTED_CHANGE, change_data(connection, landing, uuid=landed.uuid)) as change:
        try:
            start_domain(connection, landed.uuid)
        except HyperSDKError:
            with suppress(HyperSDKError):  # its undo is repeated, and the first error is the one to tell
                stop_domain(connection, landed.uuid)  # where the answer came too late
                landing.note_undone(change)
            raise


def landed_addresses(connection: Connection, uuid: str) -> frozenset[str]:
    """The MAC addresses of the domain with this UUID."""
    return next((domain.macs for domain in read_domains(connection) if domain.uuid == uuid), frozenset())


def check_addresses(connection: Connection, uuid: str) -> None:
    """Raises Refused ``mac_taken`` where another domain has a MAC address of this one. ``check_target`` looks before it
    is defined, and somebody may have defined another one since. Of two that look at once, each sees the other."""
    domains = read_domains(connection)
    macs = frozenset[str]().union(*(domain.macs for domain in domains if domain.uuid == uuid))
    for reason in address_refusals(macs, [domain for domain in domains if domain.uuid != uuid]):
        raise reason


def check_disks_gone(connection: Connection, landing: LandingFile) -> None:
    """For a landed machine whose domain is gone. Raises Refused ``landed_disks_left`` where disks of it are in a pool
    that an undo would delete: copies, of which the export has only what was there before the first start."""
    left = DiskPlacer(connection, landing).copies()
    if left:
        names = ", ".join(clean(str(path), 200) for path in left)
        raise Refused(f"the domain is gone, and left {names}", code=DISKS_LEFT, disks=[str(path) for path in left])


def undo_landing(connection: Connection, landing: LandingFile, *, cancel: CancelToken) -> list[UndoProblem]:
    """Undoes all changes of this step that are open, newest first, and goes on after a failure; returns the failures.
    An image that another domain uses by then stays with it. From the begin of it on the machine is not landed any more:
    what is not undone, or not noted when the process is killed, is left to the next run or a clean-up.

    Raises Cancelled, Refused ``other_target`` where the machine was landed at another target.
    """
    _same_target(connection, landing.record)
    if landing.done(LAND) is not None:
        landing.record.steps[LAND].state = StepState.RUNNING
        landing.save_anyway()
    problems = _undo_all(connection, landing, cancel)
    if any(isinstance(problem.error, ConnectError) for problem in problems):
        with _reconnected(connection) as again:
            problems = _undo_all(again, landing, cancel)
    if not problems:
        note_steps_undone(landing)
    return problems


@contextmanager
def _reconnected(connection: Connection) -> Iterator[Connection]:
    """A new connection in place of one that broke, as soon as the target can be reached: a libvirtd that is restarted
    answers after seconds. The broken one where it cannot: then each change tells so."""
    until = time.monotonic() + RECONNECT_S
    again = connection
    while again is connection and time.monotonic() < until:
        try:
            again = open_connection(connection.address, cancel=CancelToken())
        except HyperSDKError as error:
            LOG.info("libvirt cannot be reached to undo what was changed there: %s", error.message)
            time.sleep(_RECONNECT_EVERY_S)
    try:
        yield again
    finally:
        if again is not connection:
            again.close()


def _undo_all(connection: Connection, landing: LandingFile, cancel: CancelToken) -> list[UndoProblem]:
    problems = []
    for change in reversed(_ours(landing.record)):
        cancel.check()
        try:
            _undo(change, connection, landing)
        except Cancelled:
            raise
        except HyperSDKError as error:
            problems.append(UndoProblem(_DESCRIPTIONS[change.kind], error))
            if change.kind in (STARTED_CHANGE, DOMAIN_CHANGE):
                break  # a domain that is left needs its disks
        else:
            landing.note_undone(change)
    return problems


def note_steps_undone(landing: LandingFile) -> None:
    """Nothing is at the target, and no process works on it. A proof that was made stays one, of a domain that is gone.
    Whatever cannot be written then, the undo has done its work, and the source is given back after it."""
    forget_owner(landing.folder.path)
    if undone := [step for name, step in landing.record.steps.items() if _is_void(name, step, landing.record)]:
        for step in undone:
            step.state = StepState.UNDONE
        landing.save_anyway()


def _is_void(name: str, step: StepRecord, record: LandingRecord) -> bool:
    if name in (LAND, START):
        return step.state is not StepState.WAITING
    return step.state is StepState.RUNNING and (name == PROVE or record.conversion is None)


def not_undone(landing: LandingFile, problems: Sequence[UndoProblem]) -> NotRestored:
    """The error that lists what was not undone at the target."""
    left = "; ".join(f"{problem.change}: {problem.error.message}" for problem in problems)
    return NotRestored(
        f"'{clean(landing.record.machine, 200)}' left something at {landing.record.target}: {left}",
        code=TARGET_NOT_RESTORED,
        left=[problem.change for problem in problems],
    )


def _undo_after(error: BaseException, connection: Connection, landing: LandingFile) -> None:
    """The undo of a step that failed, with a token of its own: the run's may be cancelled."""
    problems = undo_landing(connection, landing, cancel=CancelToken())
    if problems:
        raise not_undone(landing, problems) from error


def _ours(record: LandingRecord) -> list[TargetChange]:
    return [change for change in record.open_changes if change.kind in _DESCRIPTIONS]


def _undo(change: TargetChange, connection: Connection, landing: LandingFile) -> None:
    if change.kind == STARTED_CHANGE:
        if is_ours(connection, change.data["uuid"], change.data["landing"]):
            stop_domain(connection, change.data["uuid"])
    elif change.kind == DOMAIN_CHANGE:
        remove_domain(connection, change.data["uuid"], change.data["landing"])
    else:
        DiskPlacer(connection, landing).undo(change)
