"""Image conversion: a local image or package into any output format, by the code that copies an export.

The guest system is not changed; that would be guest conversion. Reading a local file again costs little, so an
interrupted conversion starts again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from hypersdk.errors import Refused, UsageError, register
from hypersdk.formats.ovf import OvfDisk
from hypersdk.migration.disks import DiskSet
from hypersdk.migration.formats import FORMATS, Format, outputs_for
from hypersdk.migration.heldfile import remove_half_published, remove_unfinished
from hypersdk.migration.local import FileStreamSource, LocalDisk, LocalMachine, open_local
from hypersdk.migration.machineprogress import MachineProgress
from hypersdk.migration.naming import disk_file_name, foreign_files, refuse_foreign, stem_of
from hypersdk.migration.outputs import Outputs
from hypersdk.migration.package import UNPROVED_LOCAL, PackageVerdict
from hypersdk.migration.plan import PlannedDisk
from hypersdk.migration.preflight import COMPRESS_UNFIT, NO_DISKS
from hypersdk.migration.proof import with_checks
from hypersdk.migration.publish import ExportResult, Publishing
from hypersdk.migration.runfile import DiskRecord, RunFile, RunStore, held_folder
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
    "An image alone has no description of its machine, which an OVF or OVA needs.",
    SetOption("format", "vmdk"),
    SetOption("format", "qcow2"),
    SetOption("format", "raw"),
    "Or convert the .ovf that describes the machine.",
)
LOCAL_ENDPOINT: Final = "local"


def convert_file(
    path: Path,
    spec: ExportSpec,
    *,
    cancel: CancelToken,
    observer: Callable[[ExportProgress], None],
    settings: RunSettings | None = None,
    follow: bool = True,
) -> ExportResult:
    """Converts ``path`` into ``spec.output_dir``. ``spec.machine`` is not used. Without ``follow``, a symbolic link is
    refused.

    Raises UsageError, Refused, TargetError, or IntegrityError when the input is damaged; then nothing is published.
    """
    settings = settings or RunSettings()
    folder = spec.output_dir.absolute()
    with open_local(path, cancel, follow=follow) as machine:
        _check(machine, spec)
        with target_errors(f"creating {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
        with held_folder(folder, settings.locate, spec.shown_dir.absolute(), spec.job_id or "") as held:
            return _convert(machine, spec, held, settings, cancel, observer)


def drop_conversion(spec: ExportSpec, settings: RunSettings) -> None:
    """Removes what an interrupted conversion into ``spec.output_dir`` left. Raises TargetError ``run_active``,
    IntegrityError."""
    folder, named = spec.output_dir.absolute(), spec.shown_dir.absolute()
    with held_folder(folder, settings.locate, named, spec.job_id or "") as held:
        _drop(RunFile.load(held.path, settings.run_store), spec)


def _drop(run: RunFile | None, spec: ExportSpec) -> None:
    if run is not None and run.record.endpoint == LOCAL_ENDPOINT:
        outputs_for(run.record, spec).forget_all()
        remove_half_published(run.record)
        run.remove()


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
    plans = _planned_all(machine, copied, output)
    progress = MachineProgress(machine.machine.name, plans)
    disk_ids = [disk.envelope.id if disk.envelope else None for disk in copied]
    records = [
        DiskRecord(plan.key, plan.label, plan.file_name, plan.capacity_bytes, ovf_disk_id=disk_id)
        for plan, disk_id in zip(plans, disk_ids, strict=True)
    ]
    run = _begin(machine, spec, held.path, settings.run_store, records)
    run.held_in(held)
    outputs = outputs_for(run.record, spec, held.check_lock)
    resources = RunResources(settings)
    cancel = cancel.child()
    with (
        closing(outputs),
        _removed_on_failure(run, outputs, held),
        ticking([progress.snapshot], lambda rows: observer(rows[0]), settings.progress_interval_s),
        progress.ended_by_errors(),
        ThreadPoolExecutor(max_workers=1, thread_name_prefix="verify") as verifier,
        _cancelled_on_failure(cancel),
    ):
        warnings: list[str] = []
        disks = DiskSet(spec, run, outputs, held, progress, resources, verifier, warnings.append)
        sources = {disk.key: disk.source for disk in machine.disks}
        disks.copy(
            [(record, sources[record.key]) for record in run.record.disks],
            lambda key: f"{run.record.run_id}/{key}",
            cancel,
        )
        progress.phase(Phase.VERIFYING)
        verdict = _verdict(machine, copied, run, progress, cancel, warnings.append)
        disks.wait()
        progress.phase(Phase.PUBLISHING)
        result = Publishing(
            spec=spec,
            machine=machine.machine,
            run=run.record,
            outputs=outputs,
            folder=held,
            cancel=cancel,
            warnings=(*machine.warnings, *warnings, *verdict.warnings),
            restored=True,
            elapsed_s=time.monotonic() - started,
            described=machine.descriptor is not None,
            provider="file",
            empty_disks=empty,
        ).publish()
        run.remove()
        progress.phase(Phase.DONE)
    return result


def planned_disks(machine: LocalMachine, spec: ExportSpec) -> list[PlannedDisk]:
    """The images that ``convert_file`` will make of ``machine``."""
    output = FORMATS[spec.format]
    return _planned_all(machine, _split(machine.disks, output)[0], output)


def _planned_all(machine: LocalMachine, disks: Sequence[LocalDisk], output: Format) -> list[PlannedDisk]:
    stem = stem_of(machine.machine.name)
    return [
        _planned(disk, disk_file_name(stem, number, output.image.suffix)) for number, disk in enumerate(disks, start=1)
    ]


def _planned(disk: LocalDisk, file_name: str) -> PlannedDisk:
    source = disk.source
    to_read = source.size_bytes if isinstance(source, FileStreamSource) else source.capacity_bytes
    return PlannedDisk(disk.key, disk.label, file_name, source.capacity_bytes, to_read)


def _verdict(
    machine: LocalMachine,
    copied: Sequence[LocalDisk],
    run: RunFile,
    progress: MachineProgress,
    cancel: CancelToken,
    warn: Callable[[str], None],
) -> PackageVerdict:
    """Compares the read data with the package's ``.mf``, and records the proof. Nothing is published yet."""
    for record, disk in zip(run.record.disks, copied, strict=True):
        stream = record.receipt.stream if record.receipt else None
        if not isinstance(disk.source, FileStreamSource) or disk.source.stored is None or stream is None:
            continue
        made = {"SHA256": stream.sha256, "SHA1": stream.sha1}
        if stream.length_bytes == disk.source.stored.size():
            machine.package.received(disk.source.stored, {name: digest for name, digest in made.items() if digest})
    verdict = machine.package.verdict(cancel, progress.note)
    with run.changing() as record_of_run:
        record_of_run.proof = with_checks(verdict.proof, record_of_run.disks, warn)
    return verdict


def _split(disks: Sequence[LocalDisk], output: Format) -> tuple[list[LocalDisk], list[OvfDisk]]:
    """The disks that get an image, and those that an OVF package describes as empty, without a file. An OVA has at
    least one image."""
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
    """Cancels the remaining checksums when the block fails."""
    try:
        yield
    except BaseException:
        cancel.cancel("the conversion ended")
        raise


@contextmanager
def _removed_on_failure(run: RunFile, outputs: Outputs, held: OutputFolder) -> Iterator[None]:
    """Removes the files of the run when the block fails. Without the lock they may be those of another run, and
    stay."""
    try:
        yield
    except BaseException:
        if held.has_lock:
            outputs.forget_all()
        run.remove()
        raise


def _begin(machine: LocalMachine, spec: ExportSpec, folder: Path, store: RunStore, disks: list[DiskRecord]) -> RunFile:
    """Starts a new run; files of an interrupted conversion are removed, those of an export are not."""
    old, unreadable = RunFile.load_to_discard(folder, store) if spec.force else (RunFile.load(folder, store), "")
    if unreadable:
        remove_unfinished(folder, stem_of(machine.machine.name))
    _drop(old, spec)
    if not spec.force:
        refuse_foreign(folder, foreign_files(folder))
    return RunFile.create(
        folder,
        store,
        endpoint=LOCAL_ENDPOINT,
        moref="",
        machine=machine.machine.name,
        format=spec.format,
        compress=spec.compress,
        method="local",
        proof=UNPROVED_LOCAL,
        descriptor=machine.descriptor.decode(errors="replace") if machine.descriptor else None,
        disks=disks,
    )
