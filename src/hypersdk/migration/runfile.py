"""What a run remembers, in the output folder, so that the next command can go on or clean up.

::

    DIR/.hypersdk-run.lock     held (flock) by the process that works here; a killed one frees it
    DIR/.hypersdk-run.json     this file: who, what, which point in time, which disks are done, changes at the source
    DIR/NAME.partial[.blocks]  data, and the ledger of its blocks (hypersdk.transfer.ledger)
    STATE/runs/ID.json         a pointer to DIR, so that `status` and `cleanup` find runs without being told where
    STATE/register/ID.json     who works on it, or left something at its source (hypersdk.migration.register)

Every change is a whole new file: written beside, synced, renamed. It is small (some hundred bytes for a disk).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
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
from hypersdk.migration.point import PointInTime
from hypersdk.migration.register import RUN_ID, Register, RunEntry, entry_of
from hypersdk.migration.spec import Compression, ExportSpec, OutputFormat
from hypersdk.remedies import Advice, ChooseFolder, Discard, First, ReplaceFiles, Retry
from hypersdk.transfer.files import (
    NotRegularError,
    has_name,
    new_path,
    open_regular,
    remove_own,
    shown_path,
    target_error,
    target_errors,
    write_atomic,
    write_held,
)
from hypersdk.transfer.folder import OutputFolder
from hypersdk.transfer.receipt import Receipt
from hypersdk.transfer.source import StreamDigests
from hypersdk.units import MiB

RUN_FILE: Final = ".hypersdk-run.json"
LOCK_FILE: Final = ".hypersdk-run.lock"
_VERSION: Final = 1
_CHECKSUM: Final = "checksum"
MAX_RECORD_BYTES: Final = 16 * MiB
_MAX_OWNER_BYTES: Final = 1024

RUN_ACTIVE: Final = register(
    "run_active",
    "Another process is exporting into this folder.",
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


class ChangeKind(StrEnum):
    """What was changed at the source; each has one undo (migration.journal)."""

    POWER = "power"
    CDROM = "cdrom"
    SNAPSHOT = "snapshot"
    LEASE = "lease"


@dataclass(slots=True)
class Change:
    """One change at the source: written down before it is made (``made`` False), again after, and when it is undone."""

    kind: ChangeKind
    data: dict[str, Any]
    made: bool = False
    undone: bool = False


@dataclass(slots=True)
class DiskRecord:
    """One disk of the run. ``receipt`` is set once it is finished, ``sha256`` and ``size_bytes`` are those of its file.

    ``start`` is its offset inside the ``.ova``, where that is the format; ``lease_key`` its key in the export lease,
    ``ovf_disk_id`` its id in the descriptor that is converted.
    """

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

    @property
    def done(self) -> bool:
        """Whether all its data is on disk."""
        return self.receipt is not None

    def begin_again(self) -> None:
        """Nothing of it counts as copied."""
        self.receipt = self.sha256 = self.size_bytes = self.start = None


@dataclass(slots=True)
class RunRecord:
    """The record of one run. ``endpoint`` is ``user@host`` for people; no secret is in here. ``method``, ``proof`` and
    ``descriptor`` are set by the copy; ``published`` says that only the source is still to be restored.
    ``attempt_suffix`` ends the names of lock and partial files, where an earlier process that was declared dead still
    holds those without it. ``source`` and the fields after it are the options of the export, which a resume uses again;
    records of earlier releases do not have them."""

    run_id: str
    endpoint: str
    moref: str
    machine: str
    folder: Path
    format: str
    compress: str
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
    file_hash: bool = True

    @property
    def copied(self) -> bool:
        """Whether all data is on disk and the proof of it written down: nothing of the machine is read any more,
        whatever becomes of it."""
        return self.proof is not None and all(disk.done for disk in self.disks)

    @property
    def open_changes(self) -> list[Change]:
        """Changes that are not undone yet, oldest first."""
        return [change for change in self.changes if not change.undone]

    def begun_as(self, spec: ExportSpec) -> ExportSpec:
        """``spec`` with what the names and the layout of this run's files depend on, whatever is asked for by now."""
        return replace(spec, format=OutputFormat(self.format), compress=Compression(self.compress))

    @property
    def snapshot_name(self) -> str:
        """Name of the temporary snapshot, if one is made: ours are found by it also without this record."""
        return f"{SNAPSHOT_PREFIX}{self.run_id}"


SNAPSHOT_PREFIX: Final = "hypersdk-"


class RunStore(Protocol):
    """Where the record of a run is kept: in the output folder (``FolderRuns``), or in a daemon's database.

    ``program`` and ``job`` (empty without one) say in ``register`` whose the run is.
    """

    program: ClassVar[str]

    @property
    def job(self) -> str: ...
    @property
    def register(self) -> Register: ...

    def exists(self, folder: Path) -> bool:
        """Whether an unfinished run belongs to ``folder``."""
        ...

    def read(self, folder: Path) -> bytes | None:
        """Its record; None where there is none. At most ``MAX_RECORD_BYTES`` and one more byte."""
        ...

    def write(self, folder: Path, record: bytes, open_changes: int, check: Callable[[], None] | None = None) -> None:
        """Replaces the record as a whole, of which so many changes at the source are not undone; durable when this
        returns. ``check`` raises where nothing may be written in ``folder`` after all."""
        ...

    def make_known(self, folder: Path, run_id: str) -> None:
        """Has the run found again by those who do not know its folder."""
        ...

    def remove(self, folder: Path, run_id: str) -> None:
        """Forgets the run: it is finished or discarded."""
        ...

    def check(self) -> None:
        """Raises where this process may not act for the run any more. Asked before every undo and before publishing."""
        ...


@dataclass(frozen=True, slots=True)
class FolderRuns:
    """Runs that lie in their own output folder; ``state / "runs"`` has a pointer to each."""

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

    def make_known(self, folder: Path, run_id: str) -> None:
        """See RunStore: a pointer for `status` and `cleanup`."""
        pointer = self._pointer(run_id)
        with self._state_errors(f"writing {pointer}"):
            pointer.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(pointer, json.dumps({"folder": str(shown_path(folder))}).encode(), mode=0o600)

    def remove(self, folder: Path, run_id: str) -> None:
        """See RunStore. The record of another run, that took the folder from this one, stays."""
        self.remove_pointer(run_id)
        with target_errors(f"removing {shown_path(folder) / RUN_FILE}"):
            if _id_in(self.read(folder)) == run_id:
                (folder / RUN_FILE).unlink(missing_ok=True)

    def pointers(self) -> list[Path]:
        """Those of all runs, by name. Raises TargetError where the folder of them is there and cannot be read."""
        folder = self.state / "runs"
        with self._state_errors(f"reading {folder}"), suppress(FileNotFoundError):
            return sorted(path for path in folder.iterdir() if path.suffix == ".json")
        return []

    def remove_pointer(self, run_id: str) -> None:
        """The run is not found any more by those who do not know its folder."""
        pointer = self._pointer(run_id)
        with self._state_errors(f"removing {pointer}"):
            pointer.unlink(missing_ok=True)
            new_path(pointer).unlink(missing_ok=True)  # of a run that was killed while it was made known

    def check(self) -> None:
        """The folder's lock is held: nobody else acts for the run."""

    @contextmanager
    def _state_errors(self, doing: str) -> Iterator[None]:
        """Raises any OSError of the block as TargetError; the output folder, which such an error is about otherwise,
        has nothing to do with it."""
        try:
            with target_errors(doing):
                yield
        except TargetError as error:
            error.remedies = (
                Advice(f"Make {self.state} writable for your user, or set another state folder in $XDG_STATE_HOME."),
            )
            raise

    def _pointer(self, run_id: str) -> Path:
        return self.state / "runs" / f"{run_id}.json"


class RunFile:
    """The record of one run, kept in a store. Methods are thread-safe; each that changes something has saved it when it
    returns."""

    def __init__(self, record: RunRecord, store: RunStore) -> None:
        self.record = record
        self._store = store
        self._lock = threading.RLock()
        self._folder: OutputFolder | None = None

    def held_in(self, folder: OutputFolder) -> None:
        """From now on nothing is written where ``folder`` has lost this process's lock: for a record that lies in
        it."""
        self._folder = folder

    @classmethod
    def create(cls, folder: Path, store: RunStore, **facts: Any) -> RunFile:
        """A new run in ``folder``, which exists. ``facts`` are RunRecord's fields without id, folder and time."""
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
        """The run of ``folder``, or None where there is none. Raises IntegrityError ``run_unreadable``, TargetError."""
        text = store.read(folder)
        if text is None:
            return None
        try:
            record = _decode(json.loads(text[:MAX_RECORD_BYTES]), folder)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise IntegrityError(
                f"the record of the run in {shown_path(folder)} is damaged: {error}", code=RUN_UNREADABLE
            ) from error
        return cls(record, store)

    @classmethod
    def load_to_discard(cls, folder: Path, store: RunStore) -> tuple[RunFile | None, str]:
        """``load`` for who gives the run up: where its record cannot be read there is no run, and why is the second
        part."""
        try:
            return cls.load(folder, store), ""
        except IntegrityError as error:
            if error.code != RUN_UNREADABLE:
                raise
            return None, error.message

    def make_known(self) -> None:
        """Has the run found again by those who do not know its folder. A kill may have come before it, and a folder may
        be moved."""
        self._store.make_known(self.record.folder, self.record.run_id)

    def save(self) -> None:
        """Writes the record; it is durable when this returns."""
        with self._lock:
            check = self._folder.check_lock if self._folder is not None else None
            if check is not None:
                check()  # and once more just before the name is given: the data take a while to be durable
            text = json.dumps(_encode(self.record), indent=1)
            self._store.write(self.record.folder, text.encode(), len(self.record.open_changes), check)

    @contextmanager
    def changing(self) -> Iterator[RunRecord]:
        """The record, to be changed; saved at the end of the block."""
        with self._lock:
            yield self.record
            self.save()

    def remove(self) -> None:
        """Forgets the run: it is finished or discarded."""
        with self._lock:
            self._store.register.forget(self.record.run_id)
            self._store.remove(
                self.record.folder, self.record.run_id
            )  # last: as long as it is there, a resume ends what a kill broke off

    @property
    def entry(self) -> RunEntry:
        """What the host's register says of it."""
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
        """In the host's register for the time of the block, as a run that this process works on; afterwards as long as
        something is left at its source."""
        try:
            with self._store.register.holding(self.entry):
                yield
        finally:
            if not self.record.open_changes:
                self._store.register.forget(self.record.run_id)

    def check(self) -> None:
        """Raises where this process may not act for the run any more: another one has the folder and went on with the
        same run."""
        self._store.check()
        if self._folder is None or self._folder.has_lock or not is_locked(self.record.folder):
            return
        there = RunFile.load(self.record.folder, self._store)
        if there is not None and there.record.run_id == self.record.run_id:
            self._folder.check_lock()


@contextmanager
def locked_folder(folder: Path, attempt_suffix: str = "", owner: str = "") -> Iterator[tuple[Path, int]]:
    """Holds ``folder`` for this process, by the lock's file and its descriptor. Raises TargetError ``run_active`` when
    another one has it.

    ``owner`` is written into the file, for ``lock_owner``.
    """
    path = folder / f"{LOCK_FILE}{attempt_suffix}"
    while (descriptor := _locked(path)) is None:
        pass
    try:
        with suppress(OSError):  # a full disk: then nobody knows whose it is, as long as it is held
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, owner.encode(), 0)
        yield path, descriptor
    finally:
        # Removed while still held: whoever holds a file that is not there any more knows that it is the wrong one.
        with suppress(TargetError):
            remove_own(descriptor, path)
        os.close(descriptor)


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock; None when its file was removed between opening and locking, and would keep
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
            raise TargetError(
                f"another process is exporting into {shown_path(path.parent)}", code=RUN_ACTIVE
            ) from error
        raise
    os.close(descriptor)
    return None


def _lock_file(path: Path, flags: int) -> int:
    """A descriptor of the lock's file, which is a regular one: whoever may write in the folder can put a link in its
    place, that would have us make a file elsewhere, or a FIFO, that would have us wait. Raises TargetError, and
    FileNotFoundError without ``O_CREAT``."""
    try:
        return open_regular(path, flags, mode=0o600)
    except FileNotFoundError:
        raise
    except NotRegularError as error:
        raise _no_lock_file(path) from error
    except OSError as error:
        raise target_error(error, f"opening {shown_path(path)}") from error


def _no_lock_file(path: Path) -> TargetError:
    return TargetError(
        f"{shown_path(path)} is a symbolic link or no regular file",
        cause="Somebody else made it: a lock that leads elsewhere is not followed.",
        next_step="Remove it, or choose another folder.",
    )


def lock_owner(folder: Path, attempt_suffix: str = "") -> str:
    """What the process that holds ``folder`` wrote into its lock; empty where it wrote nothing. Raises TargetError."""
    path = folder / f"{LOCK_FILE}{attempt_suffix}"
    try:
        descriptor = _lock_file(path, os.O_RDONLY)
    except FileNotFoundError:
        return ""
    with open(descriptor, "rb") as file:
        return file.read(_MAX_OWNER_BYTES).decode(errors="replace")


def is_locked(folder: Path) -> bool:
    """Whether a process works in ``folder`` now. What is no lock file is held by nobody, and stops the next run
    there."""
    try:
        descriptor = _lock_file(folder / LOCK_FILE, os.O_RDONLY)
    except (FileNotFoundError, TargetError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _encode(record: RunRecord) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(
        json.dumps(asdict(record), default=str)
    )  # as it will be read: keys of tables become texts
    data["version"] = _VERSION
    del data["folder"]  # a folder may be moved
    data["lane"] = data.pop("attempt_suffix")  # the name that it has on disk
    data[_CHECKSUM] = _checksum_of(data)
    return data


def _id_in(record: bytes | None) -> Any:
    """Which run a record is of; None for none, and for one that is damaged."""
    try:
        data = json.loads(record or b"{}")
    except (ValueError, RecursionError):
        return None
    return data.get("run_id") if isinstance(data, dict) else None


def _checksum_of(data: Mapping[str, Any]) -> str:
    """Over the meaning and not the text, so that a record may be laid out anew."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _decode(data: Mapping[str, Any], folder: Path) -> RunRecord:
    """Others may write in the output folder, so what becomes part of a path, or is counted with, is looked at."""
    fields = dict(data)
    # One bit in a name makes two disks share a file, and one in a snapshot's id removes somebody else's. Earlier
    # releases wrote no checksum.
    checksum = fields.pop(_CHECKSUM, None)
    if checksum is not None and checksum != _checksum_of(fields):
        raise ValueError("its checksum is another")
    if fields.pop("version") != _VERSION:
        raise ValueError("made by another version")
    if not RUN_ID.fullmatch(fields["run_id"]):
        raise ValueError("an id that is not one of a run")
    if datetime.fromisoformat(fields["started_at"]).tzinfo is None:
        raise ValueError("a time without a zone")
    for known, name in ((OutputFormat, "format"), (Compression, "compress")):
        known(fields[name])  # a ValueError where there is none of that name
    fields["attempt_suffix"] = fields.pop("lane", "")
    fields["point"] = PointInTime.from_dict(fields["point"]) if fields["point"] else None
    fields["disks"] = [_decode_disk(disk) for disk in fields["disks"]]
    if len({disk.file_name for disk in fields["disks"]}) < len(fields["disks"]):
        raise ValueError("two disks in one file")
    fields["changes"] = [Change(**{**change, "kind": ChangeKind(change["kind"])}) for change in fields["changes"]]
    return RunRecord(folder=folder, **fields)


def _decode_disk(data: Mapping[str, Any]) -> DiskRecord:
    fields = dict(data)
    if receipt := fields["receipt"]:
        stream = StreamDigests(**receipt["stream"]) if receipt["stream"] else None
        fields["receipt"] = Receipt(**{**receipt, "stream": stream})
    if not is_bare_name(fields["file_name"]):
        raise ValueError("a file name that leads elsewhere")
    return DiskRecord(**fields)
