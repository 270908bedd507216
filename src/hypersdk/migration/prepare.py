"""Before the copy: resume or start a run, freeze the source, record the point in time.

::

    run file in the folder?   --resume    same machine, same options: continue  else resume_mismatch
                              --discard   undo open changes to the source, remove the partial files, start;
                                          else run_elsewhere
                              neither     refused (resumable_state), unless nothing was copied: then start
    all copied, proof recorded?           the source is only restored, whatever its point in time is by now
    same point in time?                   finished disks stay finished, partial disks continue
                              else        every disk starts again, and the result says so
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from hypersdk.errors import Cancelled, HyperSDKError, Refused, SourceError, UsageError, register
from hypersdk.migration.journal import SourceJournal, UndoProblem, not_restored
from hypersdk.migration.outputs import Outputs
from hypersdk.migration.plan import Plan
from hypersdk.migration.point import SOURCE_CHANGED, PointKind, point_of
from hypersdk.migration.runfile import HELD_KINDS, ChangeKind, DiskRecord, RunFile
from hypersdk.migration.spec import ExportSpec, ResumeMode, SourceState
from hypersdk.model import Machine, Power
from hypersdk.remedies import Discard, First, RestoreSource, Retry
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.machine import read_machine
from hypersdk.vsphere.session import Session

RESUME_MISMATCH = register(
    "resume_mismatch",
    "The unfinished export in this folder is of another machine or was started with other options.",
    "It can only be resumed with the options that it was started with.",
    Discard(),
)
RUN_ELSEWHERE = register(
    "run_elsewhere",
    "The unfinished export in this folder is from another server, and its changes there are not undone. Machines of"
    " two servers may have the same id.",
    First("log in to the named server as the named user"),
    RestoreSource(snapshots=True),
    "Then export again.",
)


@dataclass(frozen=True, slots=True)
class SourceWork:
    """The context of the steps below: one machine's session, plan, run and journal. ``warn`` adds to the result's
    warnings."""

    session: Session
    plan: Plan
    run: RunFile
    journal: SourceJournal
    outputs: Outputs
    warn: Callable[[str], None]

    @property
    def records(self) -> list[DiskRecord]:
        """The disks of the run."""
        return self.run.record.disks


def endpoint_name(session: Session) -> str:
    """``user@host`` for the run file: for users, and so that `cleanup` knows where to log in. Contains no secret."""
    return f"{session.endpoint.username}@{session.endpoint.host}:{session.endpoint.port}"


def _server(name: str) -> str:
    """``host:port`` of an ``endpoint_name``."""
    return name.rpartition("@")[2]


def check_undone_here(session: Session, run: RunFile) -> None:
    """Raises Refused ``run_elsewhere`` where ``run`` left changes at another server than that of ``session``."""
    record = run.record
    if record.open_changes and _server(record.endpoint) != _server(endpoint_name(session)):
        left = sorted({change.kind.value for change in record.open_changes})
        raise Refused(
            f"the unfinished export of '{record.machine}' left changes at {record.endpoint} ({', '.join(left)}), not at"
            f" {session.endpoint.address}",
            code=RUN_ELSEWHERE,
            endpoint=record.endpoint,
            left=left,
        )


def check_same_run(session: Session, plan: Plan, run: RunFile) -> None:
    """Raises UsageError ``resume_mismatch`` where ``run`` is not of this machine, format and choice of disks."""
    record = run.record
    theirs = {
        "server": _server(record.endpoint),
        "machine": record.moref,
        "format": record.format,
        "compression": record.compress,
        "disks": [(disk.key, disk.capacity_bytes) for disk in record.disks],
    }
    ours = {
        "server": _server(endpoint_name(session)),
        "machine": plan.machine.moref,
        "format": plan.spec.format,
        "compression": plan.spec.compress,
        "disks": [(disk.key, disk.capacity_bytes) for disk in plan.disks],
    }
    different = [name for name in theirs if theirs[name] != ours[name]]
    if different:
        raise UsageError(
            f"the unfinished export has another {' and '.join(different)}", code=RESUME_MISMATCH, different=different
        )


def take_over(work: SourceWork, cancel: CancelToken) -> None:
    """Restores the source after a crash of the last process, except for the snapshot that a resume needs.

    Where all is copied already, a failure does not keep the files from being published: the end of the run retries it
    and reports it.
    """
    discard = work.plan.spec.resume is ResumeMode.DISCARD
    copied = work.run.record.copied and not discard
    keep: tuple[ChangeKind, ...] = () if discard else (ChangeKind.SNAPSHOT, *held_kinds(work.plan.spec))
    wants_off = work.plan.spec.state in (SourceState.POWER_OFF, SourceState.SHUTDOWN)
    if wants_off and work.journal.guest_may_go_down and not (discard or copied):
        # The machine is to be off anyway, and asking its guest again may take an hour.
        keep += (ChangeKind.POWER,)
    still = not copied and _still_at_point(work, cancel)
    problems = work.journal.undo(keep=keep, cancel=cancel)
    if problems and not copied:
        remedies = (First("wait until vSphere answers again"), _restore(work, keep))
        raise not_restored(work.plan.machine.name, problems, remedies)
    if still:
        _follow_own_changes(work)


def freeze_source(work: SourceWork, *, shutdown_timeout_s: float, cancel: CancelToken) -> None:
    """Freezes the source, with each change journalled, and records the point in time that is exported.

    Disks that were started at another point start again. Raises SourceError ``source_changed`` where the machine has
    other disks than planned.
    """
    spec = work.plan.spec
    proved = work.run.record.point is not None and _still_at_point(work, cancel)
    machine = read_machine(work.session, work.plan.machine.moref)
    goes_off = machine.power is Power.ON and spec.state in (SourceState.POWER_OFF, SourceState.SHUTDOWN)
    ejects = spec.remove_cdrom and any(cdrom.iso for cdrom in machine.cdroms)
    if goes_off:
        work.journal.shut_down(guest=spec.state is SourceState.SHUTDOWN, timeout_s=shutdown_timeout_s, cancel=cancel)
    if spec.disconnect:
        work.journal.disconnect(cancel)
    if ejects:
        work.journal.eject_isos(machine, cancel)
    snapshot = _snapshot(work, machine, cancel)
    if not proved:
        _start_again(work)
    untouched = snapshot is None and not (goes_off or spec.disconnect or ejects)
    at_point = machine if untouched else read_machine(work.session, machine.moref, snapshot=snapshot)
    _check_disks(work.plan, at_point)
    point = point_of(at_point, snapshot)
    with work.run.changing() as record:
        record.point = point


def held_kinds(spec: ExportSpec) -> tuple[ChangeKind, ...]:
    """The kinds of changes that outlast the export: those that keep the source off the network."""
    return HELD_KINDS if spec.hold else ()


def _check_disks(plan: Plan, now: Machine) -> None:
    """Raises SourceError ``source_changed`` where disks were added, removed or resized since the plan was made, as
    while a prompt waited: an added disk would be missing in the export."""
    planned = {(disk.key, disk.capacity_bytes) for disk in plan.machine.disks}
    there = {(disk.key, disk.capacity_bytes) for disk in now.disks}
    added = [disk.label for disk in now.disks if (disk.key, disk.capacity_bytes) not in planned]
    removed = [disk.label for disk in plan.disks if (disk.key, disk.capacity_bytes) not in there]
    different = list(dict.fromkeys(added + removed))
    if different:
        raise SourceError(
            f"'{now.name}' has other disks than were planned: {', '.join(different)}",
            code=SOURCE_CHANGED,
            disks=different,
            cause="A disk was added, removed or resized after the plan was made.",
            remedies=(Retry(),),
        )


def _snapshot(work: SourceWork, machine: Machine, cancel: CancelToken) -> str | None:
    """Moref of the snapshot to export: the named one, the temporary one of the run being resumed, or a new one. None
    where no snapshot is used."""
    if work.plan.snapshot is not None:
        return work.plan.snapshot
    if not work.plan.temporary_snapshot:
        return None
    for change in work.run.record.open_changes:
        if change.kind is ChangeKind.SNAPSHOT and any(
            node.moref == change.data.get("moref") for node in machine.snapshots
        ):
            return str(change.data["moref"])
    return work.journal.snapshot(quiesce=work.plan.spec.quiesce and machine.guest.tools_running, cancel=cancel)


def _start_again(work: SourceWork) -> None:
    begun = [record for record in work.records if record.done or work.outputs.has_data(record)]
    if begun:
        work.warn("the point in time of the earlier run is not provably the same: every disk was copied again")
    with work.run.changing() as record:
        record.proof = record.descriptor = None
        for disk in reversed(record.disks):
            work.outputs.forget(disk)
            disk.reset()


def _still_at_point(work: SourceWork, cancel: CancelToken) -> bool:
    """Whether the machine is provably at the point in time of the run."""
    cancel.check()
    point = work.run.record.point
    if point is None:
        return False
    try:
        return point.holds_of(read_machine(work.session, work.run.record.moref))
    except SourceError:  # the machine itself may be gone
        return False


def _follow_own_changes(work: SourceWork) -> None:
    """Updates the recorded point in time after an undo of ours reconfigured the machine, which does not change its
    data. To be called right after the undo, where the machine was still at its point before."""
    point = work.run.record.point
    if point is None or point.kind is not PointKind.OFF:
        return
    machine = read_machine(work.session, work.run.record.moref)
    with work.run.changing() as record:
        record.point = point_of(machine, None) if machine.power is Power.OFF else None


def undo_after(work: SourceWork, error: BaseException, *, copied: bool = True) -> None:
    """Undoes the changes to the source after ``error`` ended the run. Failures are added to the error (field
    ``not_undone``) and stay in the run file.

    A cancelled run keeps its snapshot, and so does one that ended before the copy: it can be resumed at that point in
    time; ``error`` names it (field ``kept_snapshot``). After a failure everything is undone. So it is where the network
    cards were disconnected: what others write to the machine from now on would be missing in that snapshot.
    """
    cancel = CancelToken()  # that of the run is cancelled
    resumable = (isinstance(error, Cancelled) or not copied) and not work.plan.spec.disconnect
    keep = (ChangeKind.SNAPSHOT,) if resumable else ()
    still = _may_resume(work, cancel)
    try:
        problems = work.journal.undo(keep=keep, cancel=cancel)
    except HyperSDKError as unreachable:
        _add(error, f"the source was not restored: {unreachable.message}", _restore(work, keep))
        return
    finally:
        _name_kept(work, error, keep)
    if still:
        with suppress(HyperSDKError):  # the next run then finds another point in time, and copies again
            _follow_own_changes(work)
    add_problems(work, error, problems, keep=keep)


def _name_kept(work: SourceWork, error: BaseException, keep: Collection[ChangeKind]) -> None:
    kept = [change.data["name"] for change in work.run.record.open_changes if change.kind in keep]
    if kept and isinstance(error, HyperSDKError):
        error.fields["kept_snapshot"] = kept[0]


def add_problems(
    work: SourceWork, error: BaseException, problems: Sequence[UndoProblem], *, keep: Collection[ChangeKind] = ()
) -> None:
    """Adds to ``error`` what could not be undone at the source, and the remedy."""
    for problem in problems:
        text = f"not undone at the source: {problem.change}: {problem.error.message}"
        _add(error, text, _restore(work, keep))


def _may_resume(work: SourceWork, cancel: CancelToken) -> bool:
    """Whether the run can be resumed after the undo. False where that cannot be determined; the undo is tried all the
    same."""
    try:
        return not work.run.record.copied and _still_at_point(work, cancel)
    except HyperSDKError:
        return False


def _restore(work: SourceWork, keep: Collection[ChangeKind]) -> RestoreSource:
    """The remedy that undoes all open changes, except for those kept."""
    kinds = {change.kind for change in work.run.record.open_changes}.difference(keep)
    return RestoreSource(snapshots=ChangeKind.SNAPSHOT in kinds)


def _add(error: BaseException, text: str, remedy: RestoreSource) -> None:
    """Adds to the fields of an expected error, to the traceback of any other."""
    if isinstance(error, HyperSDKError):
        error.remedies = tuple(dict.fromkeys((*error.remedies, remedy)))
        problems = error.fields.setdefault("not_undone", [])
        assert isinstance(problems, list)
        problems.append(text)
    else:
        error.add_note(text)
