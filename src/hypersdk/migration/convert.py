"""Image conversion: a local VMDK, OVF or OVA into any output format, by the code that copies an export.

The guest inside is not changed; that would be guest conversion. Reading a local file again costs little, so an
interrupted conversion starts again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypersdk.errors import Refused, UsageError, register
from hypersdk.formats.ovf import OvfDisk
from hypersdk.migration.disks import DiskSet
from hypersdk.migration.formats import FORMATS, Format, outputs_for
from hypersdk.migration.heldfile import remove_half_published, remove_unfinished
from hypersdk.migration.local import FileStreamSource, LocalDisk, LocalMachine, open_local
from hypersdk.migration.machineprogress import MachineProgress
from hypersdk.migration.naming import disk_file_name, foreign_files, refuse_foreign, stem_of, stem_of_run
from hypersdk.migration.outputs import Outputs
from hypersdk.migration.package import UNPROVED_LOCAL, PackageVerdict
from hypersdk.migration.preflight import COMPRESS_UNFIT, NO_DISKS
from hypersdk.migration.publish import ExportResult, Finished, Publishing
from hypersdk.migration.runfile import DiskRecord, RunFile, RunStore, locked_folder
from hypersdk.migration.settings import RunResources, RunSettings
from hypersdk.migration.spec import ExportSpec
from hypersdk.migration.ticking import ticking
from hypersdk.model import ExportProgress, Phase
from hypersdk.remedies import SetOption
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import target_errors
from hypersdk.transfer.folder import OutputFolder

NO_DESCRIPTION: Final = register(
    "no_description",
    "A VMDK on its own does not describe its machine, as an OVF or OVA must.",
    SetOption("format", "vmdk"),
    SetOption("format", "qcow2"),
    SetOption("format", "raw"),
    "Or convert the .ovf that describes the machine.",
)
LOCAL_ENDPOINT: Final = "local"


@dataclass(frozen=True, slots=True)
class _LocalDiskPlan:
    """See ProgressDisk. ``expected_bytes`` is what there is to read, for the weight of the disk in the progress."""

    key: int
    label: str
    file_name: str
    capacity_bytes: int
    expected_bytes: int
    ovf_disk_id: str | None


def convert_file(
    path: Path,
    spec: ExportSpec,
    *,
    cancel: CancelToken,
    observer: Callable[[ExportProgress], None],
    settings: RunSettings | None = None,
) -> ExportResult:
    """Converts ``path`` into ``spec.output_dir``. ``spec.machine`` is not looked at.

    Raises UsageError, Refused, TargetError, or IntegrityError when the input is damaged; then nothing has its final
    name.
    """
    settings = settings or RunSettings()
    folder = spec.output_dir.absolute()
    with open_local(path, cancel) as machine:
        _check(machine, spec)
        with target_errors(f"creating {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
        with (
            OutputFolder.opened(folder, folder, settings.locate) as held,
            locked_folder(held.path, owner=f"process {os.getpid()}") as lock,
            held.locked_by(*lock),
            held.explaining(),
        ):
            return _convert(machine, spec, held, settings, cancel, observer)


def _check(machine: LocalMachine, spec: ExportSpec) -> None:
    output = FORMATS[spec.format]
    if machine.descriptor is None and output.package:
        raise UsageError(f"there is no description for a .{spec.format}", code=NO_DESCRIPTION)
    if reason := output.refusal(spec.compress):
        raise Refused(reason, code=COMPRESS_UNFIT)
    if not machine.disks and output.needs_disk:
        raise Refused(f"'{machine.machine.name}' has no disk to convert", code=NO_DISKS)


def _convert(
    machine: LocalMachine,
    spec: ExportSpec,
    held: OutputFolder,
    settings: RunSettings,
    cancel: CancelToken,
    observer: Callable[[ExportProgress], None],
) -> ExportResult:
    started = time.monotonic()
    output = FORMATS[spec.format]
    copied, empty = _split(machine.disks, output)
    stem = stem_of(machine.machine.name)
    plans = [
        _planned(disk, disk_file_name(stem, number, output.image.suffix)) for number, disk in enumerate(copied, start=1)
    ]
    board = MachineProgress(machine.machine.name, plans)
    run = _begin(machine, spec, held.path, settings.run_store, plans)
    run.held_in(held)
    outputs = outputs_for(spec, held.path, stem, run.record, held.check_lock)
    shared = RunResources(settings)
    cancel = cancel.child()
    with (
        closing(outputs),
        _removed_on_failure(run, outputs, held),
        ticking([board.snapshot], lambda rows: observer(rows[0]), settings.progress_interval_s),
        board.ended_by_errors(),
        ThreadPoolExecutor(max_workers=1, thread_name_prefix="verify") as verifier,
        _cancelled_on_failure(cancel),
    ):
        warnings: list[str] = []
        disks = DiskSet(spec, run, outputs, held, board, shared, verifier, warnings.append)
        sources = {disk.key: disk.source for disk in machine.disks}
        disks.copy(
            [(record, sources[record.key]) for record in run.record.disks],
            lambda key: f"{run.record.run_id}/{key}",
            cancel,
        )
        board.phase(Phase.VERIFYING)
        verdict = _verdict(machine, copied, run, board, cancel)
        told = (*machine.warnings, *warnings, *verdict.warnings)
        disks.wait()
        finished = Finished(told, restored=True, elapsed_s=time.monotonic() - started)
        board.phase(Phase.PUBLISHING)
        result = Publishing(
            spec,
            machine.machine,
            stem,
            run.record,
            outputs,
            held,
            finished,
            cancel,
            described=machine.descriptor is not None,
            provider="file",
            empty_disks=empty,
        ).publish()
        run.remove()
        board.phase(Phase.DONE)
    return result


def _planned(disk: LocalDisk, file_name: str) -> _LocalDiskPlan:
    source = disk.source
    to_read = source.size_bytes if isinstance(source, FileStreamSource) else source.capacity_bytes
    disk_id = disk.envelope.id if disk.envelope else None
    return _LocalDiskPlan(disk.key, disk.label, file_name, source.capacity_bytes, to_read, disk_id)


def _verdict(
    machine: LocalMachine, copied: Sequence[LocalDisk], run: RunFile, board: MachineProgress, cancel: CancelToken
) -> PackageVerdict:
    """Compares what was read with the package's own ``.mf``, and writes the proof down. Nothing has its final name
    yet."""
    for record, disk in zip(run.record.disks, copied, strict=True):
        stream = record.receipt.stream if record.receipt else None
        if not isinstance(disk.source, FileStreamSource) or disk.source.stored is None or stream is None:
            continue
        made = {"SHA256": stream.sha256, "SHA1": stream.sha1}
        if stream.length_bytes == disk.source.stored.size():
            machine.package.received(disk.source.stored, {name: digest for name, digest in made.items() if digest})
    verdict = machine.package.verdict(cancel, board.note)
    with run.changing() as record_of_run:
        record_of_run.proof = verdict.proof
    return verdict


def _split(disks: Sequence[LocalDisk], output: Format) -> tuple[list[LocalDisk], list[OvfDisk]]:
    """The disks that get an image, and those that a package describes as empty, as OVF does without a file. An archive
    has one image at least."""
    if not output.package or (output.needs_disk and all(disk.empty for disk in disks)):
        return list(disks), []
    empty = [
        OvfDisk(disk.key, None, 0, disk.source.capacity_bytes, None, "vmdk-stream", None, disk.envelope.id)
        for disk in disks
        if disk.envelope is not None and disk.empty
    ]
    return [disk for disk in disks if not disk.empty], empty


@contextmanager
def _cancelled_on_failure(cancel: CancelToken) -> Iterator[None]:
    """A run that ends does not wait for checksums that are not needed any more."""
    try:
        yield
    except BaseException:
        cancel.cancel("the conversion ended")
        raise


@contextmanager
def _removed_on_failure(run: RunFile, outputs: Outputs, held: OutputFolder) -> Iterator[None]:
    """Without the lock, files that have the names of this run's may be those of the next one, and stay."""
    try:
        yield
    except BaseException:
        if held.has_lock:
            for record in reversed(run.record.disks):
                outputs.forget(record)
        run.remove()
        raise


def _begin(
    machine: LocalMachine, spec: ExportSpec, folder: Path, store: RunStore, plans: list[_LocalDiskPlan]
) -> RunFile:
    """A new run; what an interrupted conversion left is removed, what an export left is not."""
    old, unreadable = RunFile.load_to_discard(folder, store) if spec.force else (RunFile.load(folder, store), "")
    if unreadable:
        remove_unfinished(folder, stem_of(machine.machine.name))
    if old is not None and old.record.endpoint == LOCAL_ENDPOINT:
        outputs = outputs_for(old.record.begun_as(spec), folder, stem_of_run(old.record), old.record)
        for record in reversed(old.record.disks):
            outputs.forget(record)
        remove_half_published(folder, old.record, stem_of_run(old.record))
        old.remove()
    if not spec.force:
        refuse_foreign(folder, foreign_files(folder))
    return RunFile.create(
        folder,
        store,
        endpoint=LOCAL_ENDPOINT,
        moref="",
        machine=machine.machine.name,
        format=spec.format.value,
        compress=spec.compress.value,
        method="local",
        proof=UNPROVED_LOCAL,
        descriptor=machine.descriptor.decode(errors="replace") if machine.descriptor else None,
        disks=[
            DiskRecord(plan.key, plan.label, plan.file_name, plan.capacity_bytes, ovf_disk_id=plan.ovf_disk_id)
            for plan in plans
        ],
    )
