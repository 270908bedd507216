"""The record of a run in the output folder, from which the next command can resume or clean up.

::

    DIR/.hypersdk-run.lock     locked (flock) by the process that uses the folder; the kernel unlocks a killed one's
    DIR/.hypersdk-run.json     this record: machine, options, point in time, finished disks, changes to the source
    DIR/NAME.partial[.blocks]  data, and the ledger of its blocks (hypersdk.transfer.ledger)
    STATE/runs/ID.json         a pointer to DIR, with which `status` and `cleanup` find the run
    STATE/register/ID.json     the owner of an active run, or of one that left changes (hypersdk.migration.register)

Every change writes a new file, syncs it and renames it. The record is small (some hundred bytes for a disk).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

from hypersdk.errors import IntegrityError, TargetError, register
from hypersdk.formats.names import is_bare_name
from hypersdk.migration.checked import checksum_of, validated
from hypersdk.migration.point import PointInTime
from hypersdk.migration.pointers import RUNS, Pointers
from hypersdk.migration.register import RUN_ID, Register, RunEntry, entry_of, is_held
from hypersdk.migration.spec import Compression, ExportSpec, FileHash, OutputFormat
from hypersdk.remedies import ChooseFolder, Discard, First, ReplaceFiles, Retry
from hypersdk.transfer.files import (
    NotRegularError,
    has_name,
    open_regular,
    remove_own,
    shown_path,
    target_error,
    target_errors,
    write_held,
)
from hypersdk.transfer.folder import Locate, OutputFolder, locate
from hypersdk.transfer.receipt import Receipt
from hypersdk.units import MiB
from hypersdk.vsphere.cdrom import CdromChange
from hypersdk.vsphere.nic import NicChange
from hypersdk.vsphere.stale import LeaseRecord

RUN_FILE: Final = ".hypersdk-run.json"
LOCK_FILE: Final = ".hypersdk-run.lock"
_VERSION: Final = 1
_CHECKSUM: Final = "checksum"
MAX_RECORD_BYTES: Final = 16 * MiB
_MAX_OWNER_BYTES: Final = 1024
_ATTEMPT_SUFFIX: Final = re.compile(r"(?:\.[0-9]{1,19})?")
"""Empty, or a point and the number of a daemon's attempt: it ends the names of files."""

RUN_ACTIVE: Final = register(
    "run_active",
    "Another process is exporting into this folder, or landing the machine in it.",
    First("wait until it has finished"),
    Retry(),
    ChooseFolder(),
)
RUN_UNREADABLE: Final = register(
    "run_unreadable",
    "The record of an unfinished export cannot be read.",
    Discard(),
    ReplaceFiles(),
    "Then check what that run left at the source: snapshots named hypersdk-*, ejected ISO images, a machine that is"
    " powered off.",
)


_KNOWN_ONLY: Final = {"extra": "forbid", "allow_inf_nan": False}
"""For pydantic. A field that is not known here would be lost when the record is saved."""


class ChangeKind(StrEnum):
    """Kinds of changes to the source; each has one undo (migration.journal)."""

    POWER = "power"
    CDROM = "cdrom"
    SNAPSHOT = "snapshot"
    LEASE = "lease"
    NETWORK = "network"


HELD_KINDS: Final = (ChangeKind.POWER, ChangeKind.NETWORK)
"""Changes that keep a source off the network: they may outlast its export (``migration.hold``)."""


@dataclass(slots=True)
class Change:
    """A change to the source: recorded before it is made (``made`` False), again after that, and when it is undone.
    ``kept``: it is not undone any more, as the migrated machine runs in place of the source."""

    __pydantic_config__: ClassVar = _KNOWN_ONLY
    kind: ChangeKind
    data: dict[str, Any]
    made: bool = False
    undone: bool = False
    kept: bool = False


@dataclass(slots=True)
class DiskRecord:
    """One disk of the run. ``receipt`` is set once it is finished, ``size_bytes``, ``tree`` (``transfer.treehash``) and
    ``sha256`` are those of its file; a digest is None where it is not wanted or not known yet.

    ``start`` is its offset in an OVA, ``lease_key`` its key in the export lease, ``ovf_disk_id`` its id in the
    descriptor that is converted.
    """

    __pydantic_config__: ClassVar = _KNOWN_ONLY
    key: int
    label: str
    file_name: str
    capacity_bytes: int
    receipt: Receipt | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    start: int | None = None
    lease_key: str | None = None
    ovf_disk_id: str | None = None
    tree: str | None = None

    @property
    def done(self) -> bool:
        """Whether all its data is copied."""
        return self.receipt is not None

    def reset(self) -> None:
        """Resets it: nothing counts as copied."""
        self.receipt = self.tree = self.sha256 = self.size_bytes = self.start = None


@dataclass(slots=True)
class RunRecord:
    """The record of one run. ``endpoint`` is ``user@host`` for users; the record contains no secret. ``method``,
    ``proof`` and ``descriptor`` are set by the copy; ``published``: only the source is still to be restored.
    ``attempt_suffix`` ends the names of lock and partial files where an earlier process that was declared dead still
    holds those without it. ``source`` and the fields after it are the options of the export, for a resume; records of
    earlier releases do not have them. ``hold``, ``disconnect``: see ExportSpec."""

    __pydantic_config__: ClassVar = _KNOWN_ONLY
    run_id: str
    endpoint: str
    moref: str
    machine: str
    folder: Path
    format: OutputFormat
    compress: Compression
    started_at: str
    point: PointInTime | None = None
    disks: list[DiskRecord] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    method: str | None = None
    proof: str | None = None
    descriptor: str | None = None
    published: bool = False
    attempt_suffix: str = ""
    source: str = "auto"
    exclude_disks: list[str] = field(default_factory=list)
    state: str = "auto"
    from_snapshot: str | None = None
    remove_cdrom: bool = False
    quiesce: bool = True
    file_hash: FileHash = FileHash.TREE
    hold: bool = False
    disconnect: bool = False

    @property
    def copied(self) -> bool:
        """Whether all data is copied and its proof recorded: the machine is not read any more, whatever its state."""
        return self.proof is not None and all(disk.done for disk in self.disks)

    @property
    def open_changes(self) -> list[Change]:
        """Changes that are still to be undone, oldest first."""
        return [change for change in self.changes if not (change.undone or change.kept)]

    @property
    def holds_source(self) -> bool:
        """Whether the run keeps its source off the network: it changed that, and has not undone it."""
        return any(change.kind in HELD_KINDS and not change.undone for change in self.changes)

    @property
    def is_held_migration(self) -> bool:
        """Whether the export is finished and its source is held for the landed machine (``migration.hold``)."""
        return self.published and self.hold and self.holds_source

    def as_started(self, spec: ExportSpec) -> ExportSpec:
        """``spec`` with the format and compression of this run, on which the names and the layout of its files
        depend."""
        return replace(spec, format=self.format, compress=self.compress)

    @property
    def snapshot_name(self) -> str:
        """Name of the temporary snapshot. Its prefix identifies our snapshots without this record, too."""
        return f"{SNAPSHOT_PREFIX}{self.run_id}"


SNAPSHOT_PREFIX: Final = "hypersdk-"


class RunStore(Protocol):
    """Where the record of a run is stored: in the output folder (``FolderRuns``), or in a daemon's database.

    ``program`` and ``job`` (empty without one) name the owner of the run in ``register``.
    """

    program: ClassVar[str]

    @property
    def job(self) -> str: ...
    @property
    def register(self) -> Register: ...

    def exists(self, folder: Path) -> bool:
        """Whether ``folder`` has an unfinished run."""

    def read(self, folder: Path) -> bytes | None:
        """The record of the run; None where there is none. At most ``MAX_RECORD_BYTES`` + 1 bytes."""

    def write(self, folder: Path, record: bytes, open_changes: int, check: Callable[[], None] | None = None) -> None:
        """Replaces the record, which has so many open changes; durable when this returns. ``check`` raises where
        nothing may be written in ``folder`` after all."""

    def make_known(self, folder: Path, run_id: str) -> None:
        """Makes the run known to commands that do not know its folder."""

    def remove(self, folder: Path, run_id: str) -> None:
        """Forgets the run: it is finished or discarded."""

    def check(self) -> None:
        """Raises where this process may no longer act for the run. Called before every undo and before publishing."""


@dataclass(frozen=True, slots=True)
class FolderRuns:
    """Runs in their output folders; ``state / "runs"`` has a pointer to each."""

    state: Path
    program: ClassVar[str] = "hyper2kvm"
    job: ClassVar[str] = ""

    @property
    def register(self) -> Register:
        """See RunStore."""
        return Register.of(self.state)

    def exists(self, folder: Path) -> bool:
        """See RunStore."""
        return (folder / RUN_FILE).exists()

    def read(self, folder: Path) -> bytes | None:
        """See RunStore."""
        path = folder / RUN_FILE
        with target_errors(f"reading {shown_path(path)}"):
            try:
                descriptor = open_regular(path)
            except FileNotFoundError:
                return None
            with open(descriptor, "rb") as file:
                return file.read(MAX_RECORD_BYTES + 1)

    def write(
        self,
        folder: Path,
        record: bytes,
        open_changes: int,  # noqa: ARG002 - the record says it
        check: Callable[[], None] | None = None,
    ) -> None:
        """See RunStore."""
        os.close(write_held(folder / RUN_FILE, record, 0o600, check))

    @property
    def pointers(self) -> Pointers:
        """The pointers to all runs."""
        return Pointers(self.state, RUNS)

    def make_known(self, folder: Path, run_id: str) -> None:
        """See RunStore: writes a pointer for `status` and `cleanup`."""
        self.pointers.add(run_id, folder)

    def remove(self, folder: Path, run_id: str) -> None:
        """See RunStore. The record of another run that took over the folder stays."""
        self.pointers.remove(run_id)
        with target_errors(f"removing {shown_path(folder) / RUN_FILE}"):
            if _id_in(self.read(folder)) == run_id:
                (folder / RUN_FILE).unlink(missing_ok=True)

    def check(self) -> None:
        """See RunStore: the folder is locked, so nobody else acts for the run."""


class RunFile:
    """The record of one run in a store. Methods are thread-safe; each change is saved when the method returns."""

    def __init__(self, record: RunRecord, store: RunStore) -> None:
        self.record = record
        self._store = store
        self._lock = threading.RLock()
        self._folder: OutputFolder | None = None

    def held_in(self, folder: OutputFolder) -> None:
        """From now on nothing is written when this process has lost the lock of ``folder``. For a record in the folder
        itself."""
        self._folder = folder

    @classmethod
    def create(cls, folder: Path, store: RunStore, **facts: Any) -> RunFile:
        """Starts a new run in ``folder``, which exists. ``facts`` are the fields of RunRecord without id, folder and
        time."""
        run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        record = RunRecord(
            run_id=run_id, folder=folder, started_at=datetime.now(UTC).isoformat(timespec="seconds"), **facts
        )
        run = cls(record, store)
        run.save()
        run.make_known()
        return run

    @classmethod
    def load(cls, folder: Path, store: RunStore) -> RunFile | None:
        """The run of ``folder``; None where there is none. Raises IntegrityError ``run_unreadable``, TargetError."""
        text = store.read(folder)
        if text is None:
            return None
        try:
            record = _decode(json.loads(text[:MAX_RECORD_BYTES]), folder)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise IntegrityError(
                f"the record of the run in {shown_path(folder)} is damaged: {error}", code=RUN_UNREADABLE
            ) from error
        return cls(record, store)

    @classmethod
    def load_to_discard(cls, folder: Path, store: RunStore) -> tuple[RunFile | None, str]:
        """``load`` for a run that is discarded: where its record cannot be read, the run is None and the second value
        is the reason."""
        try:
            return cls.load(folder, store), ""
        except IntegrityError as error:
            if error.code != RUN_UNREADABLE:
                raise
            return None, error.message

    def make_known(self) -> None:
        """Makes the run known to commands that do not know its folder. A kill may have prevented it before, and a
        folder may be moved."""
        self._store.make_known(self.record.folder, self.record.run_id)

    def save(self) -> None:
        """Writes the record; durable when this returns."""
        with self._lock:
            check = self._folder.check_lock if self._folder is not None else None
            if check is not None:
                check()  # and again just before the rename: syncing the data takes a while
            text = json.dumps(_encode(self.record), indent=1)
            self._store.write(self.record.folder, text.encode(), len(self.record.open_changes), check)

    @contextmanager
    def changing(self) -> Iterator[RunRecord]:
        """The record, for changes; saved at the end of the block."""
        with self._lock:
            yield self.record
            self.save()

    def remove(self) -> None:
        """Forgets the run: it is finished or discarded."""
        with self._lock:
            self._store.register.forget(self.record.run_id)
            self._store.remove(
                self.record.folder, self.record.run_id
            )  # last: as long as the record exists, a resume completes what a kill interrupted

    @property
    def entry(self) -> RunEntry:
        """The entry of the run in the host's register."""
        record, store = self.record, self._store
        return entry_of(
            record.run_id,
            program=store.program,
            job=store.job,
            started_at=record.started_at,
            folder=str(shown_path(record.folder)),
            machine=record.machine,
            moref=record.moref,
            endpoint=record.endpoint,
            snapshot=record.snapshot_name,
        )

    @contextmanager
    def registered(self) -> Iterator[None]:
        """Registers the run as active for the block; afterwards the entry stays as long as changes are left at the
        source."""
        try:
            with self._store.register.holding(self.entry):
                yield
        finally:
            if not self.record.open_changes:
                self._store.register.forget(self.record.run_id)

    def check(self) -> None:
        """Raises where this process may no longer act for the run: another one has locked the folder and continued the
        same run."""
        self._store.check()
        if self._folder is None or self._folder.has_lock or not is_locked(self.record.folder):
            return
        there = RunFile.load(self.record.folder, self._store)
        if there is not None and there.record.run_id == self.record.run_id:
            self._folder.check_lock()


@contextmanager
def locked_folder(folder: Path, attempt_suffix: str = "", owner: str = "") -> Iterator[tuple[Path, int]]:
    """Locks ``folder`` for this process; yields the lock file and its descriptor. Raises TargetError ``run_active``
    when another process has locked it.

    ``owner`` is written into the file, for ``lock_owner``.
    """
    path = folder / f"{LOCK_FILE}{attempt_suffix}"
    while (descriptor := _locked(path)) is None:
        pass
    try:
        with suppress(OSError):  # a full disk: then the owner is unknown while it is locked
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, owner.encode(), 0)
        yield path, descriptor
    finally:
        # Removed while still locked: a process that locks a removed file notices it.
        with suppress(TargetError):
            remove_own(descriptor, path)
        os.close(descriptor)


@contextmanager
def held_folder(
    folder: Path, locate: Locate = locate, named: Path | None = None, job: str = ""
) -> Iterator[OutputFolder]:
    """Opens and locks the existing ``folder`` for this process, which works for the daemon's ``job``, if any; users
    know it as ``named``. Raises TargetError, ``run_active`` when another process has locked it."""
    with (
        OutputFolder.opened(folder, named or folder, locate) as held,
        locked_folder(held.path, owner=owner_text(job)) as lock,
        held.locked_by(*lock),
        held.explaining(),
    ):
        yield held


def owner_text(job: str) -> str:
    """The owner of a lock: a daemon's job, or this process."""
    return f"job {job}" if job else f"process {os.getpid()}"


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock; None when its file was removed between opening and locking, and would lock
    nobody out."""
    descriptor = _lock_file(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(FileNotFoundError):
            if has_name(descriptor, path):
                return descriptor
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise TargetError(f"another process is using {shown_path(path.parent)}", code=RUN_ACTIVE) from error
        raise
    os.close(descriptor)
    return None


def _lock_file(path: Path, flags: int) -> int:
    """Opens the lock file, which must be a regular file: whoever can write in the folder could put a link in its place,
    which would make us create a file elsewhere, or a FIFO, which would block us. Raises TargetError, and
    FileNotFoundError without ``O_CREAT``."""
    try:
        return open_regular(path, flags, mode=0o600)
    except FileNotFoundError:
        raise
    except NotRegularError as error:
        raise TargetError(
            f"{shown_path(path)} is not a regular file",
            cause="Another program created it; a lock file that is a link is not followed.",
            next_step="Remove it, or choose another folder.",
        ) from error
    except OSError as error:
        raise target_error(error, f"opening {shown_path(path)}") from error


def lock_owner(folder: Path, attempt_suffix: str = "") -> str:
    """What the process that locked ``folder`` wrote into its lock; empty where it wrote nothing. Raises TargetError."""
    path = folder / f"{LOCK_FILE}{attempt_suffix}"
    try:
        descriptor = _lock_file(path, os.O_RDONLY)
    except FileNotFoundError:
        return ""
    with open(descriptor, "rb") as file:
        return file.read(_MAX_OWNER_BYTES).decode(errors="replace")


def is_locked(folder: Path) -> bool:
    """Whether a process holds ``folder`` now."""
    try:
        descriptor = _lock_file(folder / LOCK_FILE, os.O_RDONLY)
    except (FileNotFoundError, TargetError):
        return False
    try:
        return is_held(descriptor)
    finally:
        os.close(descriptor)


def _encode(record: RunRecord) -> dict[str, Any]:
    """The record as JSON; its folder is left out, as a folder may be moved."""
    data = asdict(record)
    del data["folder"]
    data["version"] = _VERSION
    data["lane"] = data.pop("attempt_suffix")  # its name in the file
    data[_CHECKSUM] = checksum_of(data)
    return data


def _id_in(record: bytes | None) -> Any:
    """The id in a record; None where there is none, or the record is damaged."""
    try:
        data = json.loads(record or b"{}")
    except (ValueError, RecursionError):
        return None
    return data.get("run_id") if isinstance(data, dict) else None


def _decode(data: Any, folder: Path) -> RunRecord:
    """Reads a record. Others may write in the output folder, so values that become part of a path or that numbers are
    calculated from are checked. Raises ValueError, KeyError or TypeError."""
    fields = dict(data)
    # One wrong bit in a name would make two disks share a file, in a snapshot's id remove another snapshot. Earlier
    # releases wrote no checksum.
    checksum = fields.pop(_CHECKSUM, None)
    if checksum is not None and checksum != checksum_of(fields):
        raise ValueError("its checksum differs")
    if fields.pop("version") != _VERSION:
        raise ValueError("it was written by another version")
    fields["attempt_suffix"] = fields.pop("lane", "")
    if isinstance(hashed := fields.get("file_hash"), bool):  # of an earlier release
        fields["file_hash"] = FileHash.TREE if hashed else FileHash.NONE
    record: RunRecord = validated(RunRecord, {**fields, "folder": folder})
    for change in record.changes:
        _check_data(change)
    if not RUN_ID.fullmatch(record.run_id):
        raise ValueError("its id is not that of a run")
    if not _ATTEMPT_SUFFIX.fullmatch(record.attempt_suffix):
        raise ValueError("its attempt is not a number")
    if datetime.fromisoformat(record.started_at).tzinfo is None:
        raise ValueError("its time has no time zone")
    names = [disk.file_name for disk in record.disks]
    if not all(is_bare_name(name) for name in names):
        raise ValueError("a file name leads to another folder")
    if len(set(names)) < len(names):
        raise ValueError("two disks have the same file")
    in_archive = record.format is OutputFormat.OVA
    for disk in record.disks:
        if disk.done and (disk.size_bytes is None or (in_archive and disk.start is None)):
            raise ValueError("a finished disk has no size or place")
    return record


@dataclass(frozen=True, slots=True)
class _Power:
    __pydantic_config__: ClassVar = _KNOWN_ONLY
    connected: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _GuestAsked(_Power):
    asked: str
    timeout_s: float
    booted: str | None


@dataclass(frozen=True, slots=True)
class _Ejected:
    drives: list[CdromChange]


@dataclass(frozen=True, slots=True)
class _Disconnected:
    cards: list[NicChange]


@dataclass(frozen=True, slots=True)
class _Snapshot:
    name: str
    moref: str = ""


_DATA: Final[Mapping[ChangeKind, Any]] = {
    ChangeKind.POWER: _GuestAsked | _Power,
    ChangeKind.CDROM: _Ejected,
    ChangeKind.SNAPSHOT: _Snapshot,
    ChangeKind.LEASE: LeaseRecord,
    ChangeKind.NETWORK: _Disconnected,
}


def _check_data(change: Change) -> None:
    """Raises ValueError unless the data of the change is as the undo of its kind needs it."""
    data = asdict(validated(_DATA[change.kind], change.data))
    if not change.data.items() <= data.items():
        raise ValueError(f"a change of kind {change.kind} has other data than its undo needs")
    if "asked" in data and datetime.fromisoformat(data["asked"]).tzinfo is None:
        raise ValueError("the time has no time zone")
