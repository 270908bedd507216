"""Local conversion: a VMDK, OVF or OVA on disk into any output format, through the same engine as an export.

Reading a local file again costs little, so a conversion that was interrupted begins anew; nothing is taken over.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypersdk.errors import Refused, UsageError, register
from hypersdk.migration.board import Board
from hypersdk.migration.disks import DiskSet
from hypersdk.migration.local import FileStreamSource, LocalMachine, open_local
from hypersdk.migration.naming import disk_file_name, foreign_files, refuse_foreign, stem_of
from hypersdk.migration.outputs import Outputs, outputs_for
from hypersdk.migration.preflight import COMPRESS_UNFIT
from hypersdk.migration.publish import ExportResult, Finished, Publishing
from hypersdk.migration.runfile import DiskRecord, RunFile, RunStore, locked_folder
from hypersdk.migration.settings import RunSettings, Shared
from hypersdk.migration.spec import ExportSpec, OutputFormat, compression_misfit
from hypersdk.migration.ticking import ticking
from hypersdk.model import ExportProgress, Phase
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import target_errors
from hypersdk.transfer.folder import OutputFolder

NO_DESCRIPTION: Final = register(
    "no_description",
    "A lone VMDK does not say what machine it belongs to, and an OVF or OVA must.",
    "Use --format vmdk, qcow2 or raw, or convert the .ovf that describes the machine.",
)
LOCAL_ENDPOINT: Final = "local"
UNPROVED_LOCAL: Final = "unproved: converted from a local file, which no server vouches for"


@dataclass(frozen=True, slots=True)
class _LocalDiskPlan:
    """See board.BoardDisk. ``expected_bytes`` is what there is to read, for the weight of the disk in the progress."""

    key: int
    label: str
    file_name: str
    capacity_bytes: int
    expected_bytes: int


def convert_file(
    path: Path,
    spec: ExportSpec,
    *,
    cancel: CancelToken,
    observer: Callable[[ExportProgress], None],
    settings: RunSettings | None = None,
) -> ExportResult:
    """Converts ``path`` into ``spec.output_dir``. ``spec.machine`` is not looked at.

    Raises UsageError, Refused, TargetError, or IntegrityError when the input is damaged; then nothing has its final name.
    """
    settings = settings or RunSettings()
    folder = spec.output_dir.absolute()
    with open_local(path) as machine:
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
    if machine.descriptor is None and spec.format in (OutputFormat.OVF, OutputFormat.OVA):
        raise UsageError(f"there is no description for a .{spec.format}", code=NO_DESCRIPTION)
    if reason := compression_misfit(spec.format, spec.compress):
        raise Refused(reason, code=COMPRESS_UNFIT)


def _convert(
    machine: LocalMachine,
    spec: ExportSpec,
    held: OutputFolder,
    settings: RunSettings,
    cancel: CancelToken,
    observer: Callable[[ExportProgress], None],
) -> ExportResult:
    started = time.monotonic()
    stem = stem_of(machine.machine.name)
    plans = [
        _LocalDiskPlan(
            disk.key,
            disk.label,
            disk_file_name(stem, number, spec.format),
            disk.source.capacity_bytes,
            disk.source.size_bytes if isinstance(disk.source, FileStreamSource) else disk.source.capacity_bytes,
        )
        for number, disk in enumerate(machine.disks, start=1)
    ]
    board = Board(machine.machine.name, plans)
    run = _begin(machine, spec, held.path, settings.run_store, plans)
    run.held_in(held)
    outputs = outputs_for(spec, held.path, stem, run.record)
    shared = Shared(settings)
    with (
        closing(outputs),
        _removed_on_failure(run, outputs),
        ticking([board.snapshot], lambda rows: observer(rows[0]), settings.progress_interval_s),
        ThreadPoolExecutor(max_workers=1, thread_name_prefix="verify") as verifier,
    ):
        disks = DiskSet(spec, run, outputs, held, board, shared, verifier)
        sources = {disk.key: disk.source for disk in machine.disks}
        disks.copy(
            [(record, sources[record.key]) for record in run.record.disks],
            lambda key: f"{run.record.run_id}/{key}",
            cancel,
        )
        board.phase(Phase.VERIFYING)
        finished = Finished(disks.hashes(), (), restored=True, elapsed_s=time.monotonic() - started)
        board.phase(Phase.PUBLISHING)
        described = machine.descriptor is not None
        result = Publishing(
            spec,
            machine.machine,
            stem,
            run.record,
            outputs,
            held,
            finished,
            cancel,
            described=described,
            provider="file",
        ).publish()
        run.remove()
        board.phase(Phase.DONE)
    return result


@contextmanager
def _removed_on_failure(run: RunFile, outputs: Outputs) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for record in reversed(run.record.disks):
            outputs.forget(record)
        run.remove()
        raise


def _begin(
    machine: LocalMachine, spec: ExportSpec, folder: Path, store: RunStore, plans: list[_LocalDiskPlan]
) -> RunFile:
    """A new run; what an interrupted conversion left is removed, what an export left is not."""
    old = RunFile.load(folder, store)
    if old is not None and old.record.endpoint == LOCAL_ENDPOINT:
        outputs = outputs_for(old.record.begun_as(spec), folder, stem_of(old.record.machine), old.record)
        for record in reversed(old.record.disks):
            outputs.forget(record)
        old.remove()
    if not spec.force:
        refuse_foreign(folder, foreign_files(folder))
    return RunFile.create(
        folder, store, endpoint=LOCAL_ENDPOINT, moref="", machine=machine.machine.name, format=spec.format.value,
        compress=spec.compress.value, method="local", proof=UNPROVED_LOCAL,
        descriptor=machine.descriptor.decode(errors="replace") if machine.descriptor else None,
        disks=[DiskRecord(plan.key, plan.label, plan.file_name, plan.capacity_bytes) for plan in plans],
    )  # fmt: skip
