"""The plan of an export, made before anything is changed. ``--dry-run`` prints it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from hypersdk.config.folders import state_folder
from hypersdk.errors import CODES, TARGET_DENIED, IntegrityError, LookupFailed, Refused, TargetError, register
from hypersdk.migration import preflight
from hypersdk.migration.formats import FORMATS, most_bytes, most_bytes_around
from hypersdk.migration.naming import disk_file_name, foreign_files, refuse_foreign, select_disks, stem_of
from hypersdk.migration.preflight import DEFAULT_MIN_FREE, MinFreeSpace
from hypersdk.migration.resumption import Resumption, resumption_of
from hypersdk.migration.runfile import RUN_FILE, FolderRuns, RunFile, RunRecord, RunStore
from hypersdk.migration.spec import ExportSpec, Method, ResumeMode, SourceState
from hypersdk.model import Disk, Machine, MachineSummary, Power
from hypersdk.remedies import ChooseFolder, Discard, FreeSpace, Look, Notice, RestoreSource, Resume, SetOption
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import shown_path, target_errors
from hypersdk.units import format_size
from hypersdk.vsphere.inventory import find_machine
from hypersdk.vsphere.lookup import look_up_one
from hypersdk.vsphere.machine import read_datastores, read_machine
from hypersdk.vsphere.session import Session

SNAPSHOT_NOT_FOUND = register(
    "snapshot_not_found",
    "The machine has no snapshot with that name.",
    Look("machine"),
)
RESUMABLE_STATE = register(
    "resumable_state",
    "An earlier export into this folder did not finish.",
    Resume(),
    Discard(),
)
MIGRATION_UNFINISHED: Final = register(
    "migration_unfinished",
    "A migration from this folder is not finished, and keeps its source off the network. An export would put the source"
    " back without a look at whether the landed machine runs.",
    "Run the migration again to finish it.",
    RestoreSource(),
    ChooseFolder(),
)
HELD: Final = "; undone only if the migration fails"
NOTHING_TO_RESUME = register(
    "nothing_to_resume", "There is no unfinished export in this folder.", SetOption("resume", False)
)


@dataclass(frozen=True, slots=True)
class PlannedDisk:
    """One disk that will be copied. ``expected_bytes`` is an upper estimate of its file's size; of a local image, the
    bytes to read."""

    key: int
    label: str
    file_name: str
    capacity_bytes: int
    expected_bytes: int
    allocated_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What an export of one machine will do. ``changes`` lists the changes to the source, undone at the end.

    ``snapshot`` is the moref of the existing snapshot to export; None with ``temporary_snapshot`` or a machine that is
    off. ``resumption`` is set where an unfinished run is resumed and something is still to be copied.
    """

    spec: ExportSpec
    machine: Machine
    disks: tuple[PlannedDisk, ...]
    snapshot: str | None
    temporary_snapshot: bool
    point: str
    method: Method
    changes: tuple[str, ...]
    warnings: tuple[Notice, ...]
    needs_bytes: int
    free_bytes: int
    route: str
    resumption: Resumption | None = None

    @property
    def snapshots_on(self) -> tuple[str, ...]:
        """Datastores on which the temporary snapshot takes up space; none without one."""
        stores = {disk.datastore for disk in self.machine.disks if disk.datastore}
        return tuple(sorted(stores)) if self.temporary_snapshot else ()

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "machine": self.machine.name,
            "moref": self.machine.moref,
            "path": self.machine.summary.path,
            "power": self.machine.power.value,
            "output_dir": str(self.spec.shown_dir),
            "format": self.spec.format.value,
            "compress": self.spec.compress.value,
            "method": self.method.value,
            "point": self.point,
            "route": self.route,
            "disks": [
                {
                    "label": disk.label,
                    "file": disk.file_name,
                    "capacity_bytes": disk.capacity_bytes,
                    "expected_bytes": disk.expected_bytes,
                }
                for disk in self.disks
            ],
            "changes": list(self.changes),
            "warnings": [warning.text for warning in self.warnings],
            "needs_bytes": self.needs_bytes,
            "free_bytes": self.free_bytes,
            "resume": None if self.resumption is None else self.resumption.as_dict(),
        }


def make_plan(
    session: Session,
    spec: ExportSpec,
    *,
    cancel: CancelToken,
    machines: Sequence[MachineSummary] | None = None,
    min_free: MinFreeSpace = DEFAULT_MIN_FREE,
    runs: RunStore | None = None,
) -> Plan:
    """Looks up the machine and runs all checks that change nothing.

    ``machines`` saves the lookup where the caller has the machine among them. ``runs`` are the unfinished runs, by
    default those recorded in their output folders. Raises LookupFailed, Refused (with every reason at once),
    TargetError.
    """
    if machines is None:
        row = look_up_one(session, spec.machine, cancel=cancel)
    else:
        row = find_machine(machines, spec.machine)
    machine = read_machine(session, row.moref)
    free = free_bytes(spec.output_dir)  # first access to the folder: its error names the reason
    found = _look(session, machine, spec, runs or FolderRuns(state_folder(os.environ)))
    spec, machine = found.spec, found.machine
    planned = tuple(_planned(machine, spec, number, disk) for number, disk in found.disks)
    needs = sum(disk.expected_bytes for disk in planned) + most_bytes_around(spec, len(planned))
    refusals = list(_source_refusals(session, found, min_free))
    if reason := FORMATS[spec.format].refusal(spec.compress):
        refusals.append(Refused(reason, code=preflight.COMPRESS_UNFIT))
    if not found.resuming and needs > free:
        refusals.append(_too_small(spec, needs, free))
    preflight.raise_if_any(machine.name, refusals)
    resumption = found.resumption()
    return Plan(
        spec=spec,
        machine=machine,
        disks=planned,
        snapshot=found.snapshot,
        temporary_snapshot=found.temporary,
        point=_point_text(spec, found.temporary),
        method=spec.method,
        changes=tuple(_changes(found, resumption)),
        warnings=tuple(preflight.warnings_for(machine, spec)),
        needs_bytes=needs,
        free_bytes=free,
        route=machine.summary.host or session.endpoint.host,
        resumption=resumption,
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """The machine at the point in time that is exported, and an unfinished run of it.

    ``disks`` have their numbers. ``only_publish``: all is copied, so the machine is no longer read or changed, whatever
    its state.
    """

    spec: ExportSpec
    machine: Machine
    disks: Sequence[tuple[int, Disk]]
    snapshot: str | None
    run: RunRecord | None
    resuming: bool
    only_publish: bool

    @property
    def temporary(self) -> bool:
        """Whether a temporary snapshot is made, or was made by the run."""
        return preflight.wants_snapshot(self.machine, self.spec)

    def resumption(self) -> Resumption | None:
        """How the run is resumed; None where nothing is left to copy."""
        if not self.resuming or self.run is None or self.only_publish:
            return None
        return resumption_of(self.machine, self.spec, self.run)


def _look(session: Session, machine: Machine, spec: ExportSpec, runs: RunStore) -> _Found:
    """Raises LookupFailed, Refused and TargetError."""
    if (begun := _begun(spec, runs)) is not None:
        check_no_migration(spec, begun)
    if spec.resume is ResumeMode.REFUSE and begun is not None and _nothing_done(spec, begun):
        spec = replace(spec, resume=ResumeMode.DISCARD)
    resuming = _check_folder(spec, unfinished=runs.exists(spec.output_dir))
    folder = spec.output_dir.absolute()
    run = RunFile.load_to_discard(folder, runs)[0] if spec.resume is ResumeMode.DISCARD else RunFile.load(folder, runs)
    record = run.record if run is not None and run.record.moref == machine.moref else None
    only_publish = resuming and record is not None and record.copied
    snapshot = _named_snapshot(machine, spec, may_be_gone=only_publish)
    if snapshot is not None:
        machine = read_machine(session, machine.moref, snapshot=snapshot)
    disks = select_disks(machine.name, machine.disks, spec.exclude_disks)
    preflight.raise_if_any(machine.name, list(preflight.capacity_refusals(machine, [disk for _, disk in disks])))
    return _Found(spec, machine, disks, snapshot, record, resuming, only_publish)


def _source_refusals(session: Session, found: _Found, min_free: MinFreeSpace) -> Iterator[Refused]:
    if found.only_publish:
        return
    machine, disks = found.machine, [disk for _, disk in found.disks]
    stores = read_datastores(session, machine.moref) if found.temporary else []
    held_by_us = found.run is not None and bool(found.run.open_changes)
    yield from preflight.machine_refusals(machine, found.spec, disks, held_by_us=held_by_us)
    yield from preflight.datastore_refusals(stores, min_free)


def _planned(machine: Machine, spec: ExportSpec, number: int, disk: Disk) -> PlannedDisk:
    name = disk_file_name(stem_of(machine.name), number, FORMATS[spec.format].image.suffix)
    expected = most_bytes(spec, disk.capacity_bytes, disk.used_bytes)
    return PlannedDisk(disk.key, disk.label, name, disk.capacity_bytes, expected, disk.used_bytes)


def free_bytes(folder: Path) -> int:
    """Bytes an ordinary user may still write on the file system that ``folder`` is (or will be) on."""
    existing = folder.absolute()
    with target_errors(f"checking {shown_path(existing)}"):
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        stat = os.statvfs(existing)
    return stat.f_bavail * stat.f_frsize


def _check_folder(spec: ExportSpec, *, unfinished: bool) -> bool:
    """Whether an unfinished run is being resumed."""
    folder = spec.output_dir
    with target_errors(f"checking {spec.shown_dir}"):
        if folder.exists() and not folder.is_dir():
            raise TargetError(f"{spec.shown_dir} is not a folder", code=TARGET_DENIED)
    if unfinished and spec.resume is ResumeMode.REFUSE:
        raise TargetError(f"there is an unfinished export in {spec.shown_dir}", code=RESUMABLE_STATE)
    if not unfinished and spec.resume is ResumeMode.RESUME:
        raise TargetError(f"nothing to resume in {spec.shown_dir}", code=NOTHING_TO_RESUME)
    if not unfinished and not spec.force:
        refuse_foreign(folder, foreign_files(folder))
    return unfinished and spec.resume is ResumeMode.RESUME


def check_no_migration(spec: ExportSpec, run: RunRecord) -> None:
    """Raises Refused ``migration_unfinished`` where ``run`` is that of a migration, and ``spec`` is no part of one."""
    if run.is_held_migration and not spec.hold:
        raise Refused(
            f"the migration of '{run.machine}' from {spec.shown_dir} is not finished", code=MIGRATION_UNFINISHED
        )


def _begun(spec: ExportSpec, runs: RunStore) -> RunRecord | None:
    """The unfinished run in the folder; None where there is none, or one that cannot be read."""
    folder = spec.output_dir.absolute()
    try:
        run = RunFile.load(folder, runs) if runs.exists(folder) else None
    except IntegrityError:
        return None
    return None if run is None else run.record


def _nothing_done(spec: ExportSpec, run: RunRecord) -> bool:
    """Whether nobody needs the unfinished run: it ended before its first byte and left nothing to undo at the source.
    Such a run is discarded without asking."""
    if run.open_changes or run.published:
        return False
    return not set(foreign_files(spec.output_dir.absolute())) - {RUN_FILE}


def _too_small(spec: ExportSpec, needs: int, free: int) -> Refused:
    return Refused(
        f"{spec.shown_dir} has {format_size(free)} free, the export may need {format_size(needs)}",
        code=preflight.TARGET_TOO_SMALL,
        remedies=(FreeSpace(needs - free, str(spec.shown_dir)), *CODES[preflight.TARGET_TOO_SMALL].remedies[1:]),
    )


def _named_snapshot(machine: Machine, spec: ExportSpec, *, may_be_gone: bool) -> str | None:
    if spec.state is not SourceState.SNAPSHOT or spec.snapshot == "new":
        return None
    hits = [node.moref for node in machine.snapshots if spec.snapshot in (node.name, node.moref)]
    if len(hits) != 1:
        if may_be_gone:
            return None
        reason = "no snapshot" if not hits else "more than one snapshot"
        raise LookupFailed(
            f"'{machine.name}' has {reason} '{spec.snapshot}'",
            code=SNAPSHOT_NOT_FOUND,
            snapshots=[{"name": node.name, "moref": node.moref} for node in machine.snapshots],
        )
    return hits[0]


def _point_text(spec: ExportSpec, temporary: bool) -> str:
    if spec.state is SourceState.SNAPSHOT and not temporary:
        return f"snapshot '{spec.snapshot}'"
    return "a temporary snapshot of the running machine" if temporary else "the powered-off machine"


def _changes(found: _Found, resumption: Resumption | None) -> Iterator[str]:
    """The changes to the source, for users."""
    if found.only_publish:
        if found.run is not None and found.run.open_changes:
            yield "restore the machine to its state before the earlier run"
        return
    machine, spec = found.machine, found.spec
    yield from _power_changes(machine, spec)
    if spec.remove_cdrom and any(cdrom.iso for cdrom in machine.cdroms):
        yield "eject ISO images; re-insert them at the end"
    if spec.disconnect and machine.nics:
        yield f"disconnect the network cards{HELD}"
    if found.temporary:
        held = resumption is not None and not resumption.from_start
        first = "continue from the temporary snapshot" if held else "make a temporary snapshot"
        yield f"{first}; remove it at the end"
    if spec.method is not Method.DATASTORE:
        yield "hold an export lease (no power-on and no migration meanwhile)"


def _power_changes(machine: Machine, spec: ExportSpec) -> Iterator[str]:
    if machine.power is not Power.ON:
        return
    end = HELD if spec.hold else "; power it on again at the end"
    if spec.state is SourceState.POWER_OFF:
        yield f"power the machine off{end}"
    if spec.state is SourceState.SHUTDOWN:
        yield f"shut the guest down{end.replace(' it ', ' the machine ')}"
