"""The export of machines: prepare the source, copy, restore the source, publish.

::

    open run ─> prepare source ─> copy (lease or ranges) ─> undo at the source ─> file hashes ─> publish, manifest last
       │             │ journal: written before each change        ▲
       └ run file    └───────── also after errors ────────────────┘

Once all is copied, the machine is not read any more: a run that was interrupted after that point continues from there.
A run that has published its files only restores the source.

Success and failure undo everything. A cancelled run (Ctrl-C, SIGTERM) keeps its temporary snapshot, so that --resume
continues at the same point in time; `hyper2kvm status` shows it. After a kill, the next command in the folder does the
rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypersdk.errors import Cancelled, HyperSDKError, NotRestored, TargetError
from hypersdk.migration.copying import MachineCopy
from hypersdk.migration.disks import DiskSet
from hypersdk.migration.formats import outputs_for
from hypersdk.migration.heldfile import remove_half_published, remove_other_attempts, remove_unfinished
from hypersdk.migration.journal import SourceJournal, UndoProblem, not_restored
from hypersdk.migration.machineprogress import MachineProgress
from hypersdk.migration.naming import foreign_files, refuse_foreign, stem_of
from hypersdk.migration.plan import Plan, check_no_migration
from hypersdk.migration.point import snapshot_gone
from hypersdk.migration.prepare import (
    SourceWork,
    add_problems,
    check_same_run,
    check_undone_here,
    endpoint_name,
    freeze_source,
    held_kinds,
    take_over,
    undo_after,
)
from hypersdk.migration.runfile import (
    HELD_KINDS,
    RUN_ACTIVE,
    RUN_FILE,
    SNAPSHOT_PREFIX,
    ChangeKind,
    DiskRecord,
    RunFile,
    lock_owner,
    locked_folder,
    owner_text,
)
from hypersdk.migration.settings import RunResources, RunSettings
from hypersdk.migration.spec import ResumeMode
from hypersdk.migration.ticking import repeated, ticking
from hypersdk.migration.watch import SnapshotWatch
from hypersdk.model import ExportProgress, Phase
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import shown_path, target_errors
from hypersdk.transfer.folder import OutputFolder
from hypersdk.transfer.space import Reservation
from hypersdk.vsphere.cdrom import name_inserted_iso
from hypersdk.vsphere.session import Session

if TYPE_CHECKING:
    from hypersdk.migration.publish import ExportResult, Publishing

Observer = Callable[[Sequence[ExportProgress]], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome for one of several machines: a result, an error, or both (copied, but the source could not be
    restored)."""

    plan: Plan
    result: ExportResult | None
    error: HyperSDKError | None


def export_machines(
    session: Session,
    plans: Sequence[Plan],
    *,
    cancel: CancelToken,
    observer: Observer,
    settings: RunSettings,
) -> list[Outcome]:
    """Exports several machines, at most ``settings.max_machines`` at a time; one that fails does not stop the others.

    ``observer`` is called at a bounded rate from a thread of its own, and once more at the end.
    """
    resources = RunResources(settings)
    exports = [MachineExport(session, plan, resources, cancel) for plan in plans]
    with (
        ticking([export.progress for export in exports], observer, settings.progress_interval_s),
        ThreadPoolExecutor(max_workers=settings.max_machines, thread_name_prefix="machine") as pool,
    ):
        return list(pool.map(MachineExport.outcome, exports))


@contextmanager
def machine_export(
    session: Session,
    plan: Plan,
    *,
    cancel: CancelToken,
    observer: Observer,
    settings: RunSettings,
    resources: RunResources,
) -> Iterator[MachineExport]:
    """The opened export of one machine, whose steps the caller runs; see ``export_machines``."""
    export = MachineExport(session, plan, resources.with_settings(settings), cancel)
    with ticking([export.progress], observer, settings.progress_interval_s), export.opened():
        yield export


class MachineExport:
    """One machine's export, from its plan to its published files."""

    def __init__(self, session: Session, plan: Plan, resources: RunResources, cancel: CancelToken) -> None:
        self._session = session
        self._plan = plan
        self._progress = MachineProgress(plan.machine.name, plan.disks, snapshots_on=plan.snapshots_on)
        self._resources = resources
        self._cancel = cancel.child()
        self._named = plan.spec.shown_dir.absolute()
        self._warnings = [warning.text for warning in plan.warnings]
        self._started = time.monotonic()
        self._reservation: Reservation | None = None
        self._not_undone: list[UndoProblem] = []
        self._unreadable = ""

    def progress(self) -> ExportProgress:
        """The progress; space reserved for data that was written since the last call is released."""
        now = self._progress.snapshot()
        if (reservation := self._reservation) is not None:
            self._resources.space.wrote(reservation, sum(disk.written_bytes for disk in now.disks))
        return now

    def outcome(self) -> Outcome:
        """Runs the export; every expected error becomes part of the outcome."""
        try:
            with self.opened(), self._giving_back():
                self.copy()
                result, problem = self.publish()
        except HyperSDKError as error:
            return Outcome(self._plan, None, error)
        return Outcome(self._plan, result, problem)

    @contextmanager
    def _giving_back(self) -> Iterator[None]:
        """Gives a source back that is held for its migration, where that ends before the files are published. What was
        copied is discarded then: it has nothing of what the source writes from now on, and a full disk may keep the
        record from saying so."""
        try:
            yield
        except BaseException as error:
            work = self._work
            if self._plan.spec.hold and work.run.record.holds_source:
                undo_after(work, error)
                if not work.run.record.open_changes:
                    with suppress(TargetError):  # the first error is the one to tell
                        _discard(work)
            raise

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Holds the folder and a new or resumed run, for ``copy`` and ``publish``."""
        self._cancel.check()
        self._started = time.monotonic()
        self._progress.phase(Phase.PREPARING)
        place = self._plan.spec.output_dir.absolute()
        with self._progress.ended_by_errors(), ExitStack() as stack:
            with target_errors(f"creating {self._named}"):
                place.mkdir(parents=True, exist_ok=True)
            held = stack.enter_context(OutputFolder.opened(place, self._named, self._resources.settings.locate))
            self._held, self._folder = held, held.path
            run = self._locked(stack)
            with held.explaining():
                self._work = self._open(run, stack)
                stack.enter_context(self._work.run.registered())
                try:
                    stack.enter_context(self._room(self._work))
                except HyperSDKError as error:
                    undo_after(self._work, error, copied=False)
                    raise
            yield

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Adds to an error what is wrong with the folder and what could not be undone at the source."""
        with self._progress.ended_by_errors(), self._held.explaining():
            try:
                yield
            except BaseException as error:
                add_problems(self._work, error, self._not_undone)
                raise

    def copy(self) -> None:
        """Copies all disks, restores the source, and waits for the checksums of the files. Does nothing for a run whose
        files are published."""
        with self._explained():
            if not self._work.run.record.published:
                self._copy_and_verify(self._work)

    def publish(self) -> tuple[ExportResult, NotRestored | None]:
        """Publishes the copied files. The second value is set where changes to the source could not be undone although
        the files are published."""
        with self._explained():
            work = self._work
            if work.run.record.published:
                result = self._only_restore(work)
            else:
                self._progress.phase(Phase.PUBLISHING)
                work.run.check()
                result = self._publishing(work).publish()
                if suffix := work.run.record.attempt_suffix:
                    remove_other_attempts(self._folder, [file.name for file in result.files], suffix)
            problem = self._ended(work)
            self._progress.phase(Phase.DONE)
            return result, problem

    @contextmanager
    def _room(self, work: SourceWork) -> Iterator[None]:
        """Reserves the space that this export may still need. Raises TargetError ``no_space`` where there is too
        little."""
        begun = {record.key for record in work.records if record.done or work.outputs.has_data(record)}
        needed = sum(disk.expected_bytes for disk in self._plan.disks if disk.key not in begun)
        space = self._resources.space
        self._reservation = space.reserve(self._folder, needed)
        try:
            yield
        finally:
            reservation, self._reservation = self._reservation, None
            space.release(reservation)

    def _locked(self, stack: ExitStack) -> RunFile | None:
        """Locks the folder and returns its unfinished run. Raises TargetError ``run_active`` where another process has
        locked it."""
        settings = self._resources.settings
        run = self._load()
        attempt_suffix = run.record.attempt_suffix if run else ""
        with target_errors(f"locking {shown_path(self._folder)}"):
            try:
                self._lock(stack, attempt_suffix)
            except TargetError as error:
                # An earlier process of this job may be suspended while it holds the lock. Without a run there was none:
                # the lock is another export's.
                if error.code != RUN_ACTIVE or settings.attempt_suffix is None or run is None:
                    raise
                if lock_owner(self._folder, attempt_suffix) not in ("", self._owner):
                    raise
                self._warnings.append(
                    "an earlier process still holds the folder: every disk is copied again, into new files"
                )
                self._lock(stack, settings.attempt_suffix)
                return self._change_suffix(run, settings.attempt_suffix)
        return self._load()

    def _load(self) -> RunFile | None:
        store = self._resources.settings.run_store
        if self._plan.spec.resume is not ResumeMode.DISCARD:
            return RunFile.load(self._folder, store)
        run, self._unreadable = RunFile.load_to_discard(self._folder, store)
        return run

    def _lock(self, stack: ExitStack, attempt_suffix: str) -> None:
        stack.enter_context(
            self._held.locked_by(*stack.enter_context(locked_folder(self._folder, attempt_suffix, self._owner)))
        )

    @property
    def _owner(self) -> str:
        """The owner of the lock: the same in each attempt of a job, else different in each process."""
        return owner_text((self._resources.settings.attempt_suffix and self._plan.spec.job_id) or "")

    def _change_suffix(self, run: RunFile, attempt_suffix: str) -> RunFile:
        """Gives the run new partial files and keeps its journal. Published files keep their names."""
        with run.changing() as record:
            record.attempt_suffix = attempt_suffix
            if not record.published:
                record.proof = record.descriptor = None
                for disk in record.disks:
                    disk.reset()
        return run

    def _open(self, run: RunFile | None, stack: ExitStack) -> SourceWork:
        """Resumes the run of this folder, or starts a new one."""
        if run is not None:
            check_no_migration(self._plan.spec, run.record)  # again, now that the folder is locked
            if self._plan.spec.resume is ResumeMode.DISCARD:
                check_undone_here(self._session, run)
            else:
                check_same_run(self._session, self._plan, run)
            work = self._work_on(run, stack)
            take_over(work, self._cancel)
            if self._plan.spec.resume is not ResumeMode.DISCARD:
                run.make_known()
                return work
            _discard(work)
        if self._unreadable:
            self._discard_unreadable()
        elif run is None and not self._plan.spec.force:
            refuse_foreign(self._folder, foreign_files(self._folder))  # again, now that the folder is locked
        return self._work_on(self._new_run(), stack)

    def _discard_unreadable(self) -> None:
        """Discards a run whose record cannot be read. The record lists the changes to the source, so the user is told
        to check it."""
        remove_unfinished(self._folder, stem_of(self._plan.machine.name))
        if not self._plan.spec.force:
            refuse_foreign(self._folder, [name for name in foreign_files(self._folder) if name != RUN_FILE])
        self._warnings.append(
            f"{self._unreadable}; it was discarded. What that run left at the source is not known: check it for"
            f" snapshots named {SNAPSHOT_PREFIX}*, ejected ISO images and a machine that is powered off"
        )

    def _new_run(self) -> RunFile:
        spec, machine = self._plan.spec, self._plan.machine
        return RunFile.create(
            self._folder,
            self._resources.settings.run_store,
            endpoint=endpoint_name(self._session),
            moref=machine.moref,
            machine=machine.name,
            format=spec.format,
            compress=spec.compress,
            disks=[DiskRecord(disk.key, disk.label, disk.file_name, disk.capacity_bytes) for disk in self._plan.disks],
            source=spec.method.value,
            exclude_disks=list(spec.exclude_disks),
            state=spec.state.value,
            from_snapshot=spec.snapshot,
            remove_cdrom=spec.remove_cdrom,
            quiesce=spec.quiesce,
            file_hash=spec.file_hash,
            hold=spec.hold,
            disconnect=spec.disconnect,
        )

    def _work_on(self, run: RunFile, stack: ExitStack) -> SourceWork:
        if self._resources.settings.runs is None:
            run.held_in(self._held)
        journal = SourceJournal(self._session, run, note=self._progress.note)
        outputs = outputs_for(run.record, self._plan.spec, self._held.check_lock)
        stack.callback(outputs.close)
        return SourceWork(self._session, self._plan, run, journal, outputs, self._warnings.append)

    def _copy_and_verify(self, work: SourceWork) -> None:
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="verify") as verifier:
            disks = DiskSet(
                self._plan.spec,
                work.run,
                work.outputs,
                self._held,
                self._progress,
                self._resources,
                verifier,
                work.warn,
            )
            copied_before = work.run.record.copied
            try:
                self._copy(work, MachineCopy(work, self._progress, disks))
            except BaseException as error:
                self._cancel.cancel("the export ended")
                if isinstance(error, HyperSDKError):
                    name_inserted_iso(error, self._plan.machine)
                undo_after(work, error)
                raise
            self._restore_source(work)
            if work.journal.snapshot_was_gone and not copied_before:
                self._reject_proof(work)
            self._progress.phase(Phase.VERIFYING)
            disks.wait()

    def _reject_proof(self, work: SourceWork) -> None:
        """Rejects the proof of a copy whose snapshot was already gone when it was to be removed: the removal may have
        started while the last data was read.

        Raises SourceError ``snapshot_gone``.
        """
        self._cancel.cancel("the export ended")
        with work.run.changing() as record:
            record.proof = record.descriptor = None
        raise snapshot_gone(self._plan.machine.name, work.run.record.snapshot_name)

    def _only_restore(self, work: SourceWork) -> ExportResult:
        """Ends a run whose files are published: undoes what an earlier attempt could not undo at the source."""
        self._restore_source(work)
        for meter in self._progress.meters.values():
            meter.enter(Phase.DONE)
        return self._publishing(work).published()

    def _restore_source(self, work: SourceWork) -> None:
        """Undoes all open changes to the source but those that are held, also where the run is cancelled by now.
        Failures become warnings."""
        self._progress.phase(Phase.PUBLISHING, "restoring the source")
        self._not_undone = work.journal.undo(keep=held_kinds(self._plan.spec), cancel=CancelToken())
        if self._not_undone and self._plan.spec.hold:  # the migration ends here, so nothing is held
            others = tuple(kind for kind in ChangeKind if kind not in HELD_KINDS)
            self._not_undone += work.journal.undo(keep=others, cancel=CancelToken())
        self._warnings += [
            f"not undone at the source: {problem.change}: {problem.error.message}" for problem in self._not_undone
        ]

    def _publishing(self, work: SourceWork) -> Publishing:
        from hypersdk.migration.publish import Publishing

        return Publishing(
            spec=self._plan.spec,
            machine=self._plan.machine,
            run=work.run.record,
            outputs=work.outputs,
            folder=self._held,
            cancel=self._cancel,
            warnings=self._warnings,
            restored=not self._not_undone,
            elapsed_s=time.monotonic() - self._started,
        )

    def _ended(self, work: SourceWork) -> NotRestored | None:
        """Removes the run, unless changes to the source are still to be undone; returns those that failed as an error.
        Held changes are undone or kept later."""
        if not work.run.record.open_changes:
            work.run.remove()
            return None
        with work.run.changing() as record:
            record.published = True
        return not_restored(self._plan.machine.name, self._not_undone) if self._not_undone else None

    def _copy(self, work: SourceWork, copy: MachineCopy) -> None:
        """Prepares the source and copies it; a temporary snapshot is watched meanwhile. Where all is copied the machine
        is not touched."""
        if work.run.record.copied:
            copy.run(self._cancel)
            return
        settings = self._resources.settings
        with ExitStack() as stack:
            watch = None
            if self._plan.temporary_snapshot:
                with self._progress.waiting_for_turn():
                    stack.enter_context(
                        self._resources.snapshot_slots(self._plan.snapshots_on, self._cancel, self._progress.note)
                    )
                watch = SnapshotWatch(
                    self._session,
                    work.run.record.moref,
                    settings.min_free,
                    self._cancel,
                    self._progress.note,
                    copy.check_snapshot,
                )
            freeze_source(work, shutdown_timeout_s=settings.shutdown_timeout_s, cancel=self._cancel)
            if watch is not None:
                stack.enter_context(repeated(watch.look, settings.snapshot_watch_s, "snapshot-watch"))
            try:
                copy.run(self._cancel)
            except Cancelled as cancelled:
                if watch is not None and watch.error is not None:
                    raise watch.error from cancelled
                raise


def _discard(work: SourceWork) -> None:
    """Removes what was written, and the run. Raises TargetError."""
    work.outputs.forget_all()
    remove_half_published(work.run.record)
    work.run.remove()
