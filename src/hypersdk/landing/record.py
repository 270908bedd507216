"""The record of a landing in the export's folder, from which a later run continues, undoes or cleans up.

::

    DIR/artifact-manifest.json     the export; what a finished conversion changed is in its ``pipeline``
    DIR/.hypersdk-landing.json     this record: steps, state of the conversion, changes at the target
    STATE/landings/ID.json         a pointer to DIR while something is half done, for `status` and `cleanup`
    DIR/.hypersdk-run.lock         locked while the record is written (``migration.runfile.held_folder``)

Every change writes a new file, syncs it and renames it. Whatever is done outside of the record is recorded before it
begins, so a record that was written last before a kill names everything that may be half done.

A record belongs to one export, by the digest of its manifest: images that a later export put in its place are not
converted and not landed, whatever an earlier record says.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Final

from hypersdk.errors import HyperSDKError, IntegrityError, Refused, TargetError, register
from hypersdk.formats.names import is_bare_name
from hypersdk.landing.changes import check_change, check_landed
from hypersdk.landing.guests import export_id, open_manifest
from hypersdk.migration.checked import checksum_of, validated
from hypersdk.migration.manifest import ConvertPart, timestamp
from hypersdk.migration.naming import LANDING_FILE, MANIFEST_NAME
from hypersdk.migration.pointers import LANDINGS, Pointers
from hypersdk.migration.readback import opened
from hypersdk.transfer.files import new_path, shown_path, target_errors, write_held
from hypersdk.transfer.folder import OutputFolder
from hypersdk.units import MiB

LOG: Final = logging.getLogger(__name__)

MAX_RECORD_BYTES: Final = 4 * MiB
_VERSION: Final = 1
_CHECKSUM: Final = "checksum"
_ID: Final = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
_KNOWN_ONLY: Final = {"extra": "forbid", "allow_inf_nan": False}
"""For pydantic. A field that is not known here would be lost when the record is saved."""

LANDING_UNREADABLE: Final = register(
    "landing_unreadable",
    "The record of a landing cannot be read.",
    "Check the hypervisor for a domain and volumes that an interrupted landing left, then remove"
    " .hypersdk-landing.json from the folder of the export.",
    "A guest conversion may have been interrupted: verify the export before its images are used.",
)


CONVERT: Final = "convert"
LAND: Final = "land"
PROVE: Final = "prove"
START: Final = "start"
"""The steps, in their order."""


LANDING_FOREIGN: Final = register(
    "landing_foreign",
    "The record of the landing was written by another user, who could have volumes and domains removed by what it"
    " says.",
    "Run the command as that user. Or, if nothing is left at the target, remove .hypersdk-landing.json from the folder"
    " of the export.",
)


def overlay_name(image: str) -> str:
    """The file beside ``image`` into which its guest is converted."""
    return f".{image}.overlay"


class StepState(StrEnum):
    """State of a step: ``waiting -> running -> done | failed``; ``done`` and ``failed`` become ``undone`` when what the
    step did was undone, and ``running`` again when it is repeated. ``running`` without a process that holds the folder
    means that the process was killed."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    UNDONE = "undone"


class ConversionState(StrEnum):
    """How far the guest conversion is; each is recorded before it begins. A record without one: not begun, or its
    overlays were dropped."""

    CONVERTING = "converting"  # into overlays; the images are as exported. After a kill: drop the overlays
    COMMITTING = "committing"  # the overlays are written into the images. After a kill: commit them again
    CONVERTED = "converted"  # the images are committed and the manifest is written anew


@dataclass(slots=True)
class StepRecord:
    """One step. ``result`` is the step's own (JSON), of its last success; ``error`` the code and the message of its
    last failure."""

    __pydantic_config__: ClassVar = _KNOWN_ONLY
    state: StepState = StepState.WAITING
    started_at: str | None = None
    ended_at: str | None = None
    result: dict[str, Any] = field(default_factory=dict)
    error: dict[str, str] | None = None


@dataclass(slots=True)
class Conversion:
    """The guest conversion. ``overlays`` maps the file of each image to that of its overlay; ``report`` is what goes
    into the manifest, complete when ``state`` is ``committing``."""

    __pydantic_config__: ClassVar = _KNOWN_ONLY
    state: ConversionState
    overlays: dict[str, str] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class TargetChange:
    """A change at the target: recorded before it is made (``made`` False), again after that, and when it is undone.
    ``kind`` and ``data`` are of the step that made it and knows the undo."""

    __pydantic_config__: ClassVar = _KNOWN_ONLY
    kind: str
    data: dict[str, Any]
    made: bool = False
    undone: bool = False


@dataclass(slots=True)
class LandingRecord:
    """One landing of the export with the id ``export`` (``export_id``). ``target`` is the URI of the hypervisor, empty
    before it is known. ``steps`` are in their order. ``job`` is the daemon's job that lands it, empty for a command."""

    __pydantic_config__: ClassVar = _KNOWN_ONLY
    landing_id: str
    export: str
    machine: str
    started_at: str
    target: str = ""
    steps: dict[str, StepRecord] = field(default_factory=dict)
    conversion: Conversion | None = None
    changes: list[TargetChange] = field(default_factory=list)
    job: str = ""

    @property
    def open_changes(self) -> list[TargetChange]:
        """Changes that are not undone, oldest first."""
        return [change for change in self.changes if not change.undone]

    @property
    def done_steps(self) -> set[str]:
        """Names of the steps that are done."""
        return {name for name, step in self.steps.items() if step.state is StepState.DONE}

    @property
    def finished(self) -> bool:
        """Whether every step is done."""
        return bool(self.steps) and all(step.state is StepState.DONE for step in self.steps.values())

    @property
    def unfinished(self) -> bool:
        """Whether something is half done: a step runs or was killed, or a step that failed left something behind."""
        running = any(step.state is StepState.RUNNING for step in self.steps.values())
        return running or self.is_half_converted or (bool(self.open_changes) and not self.finished)

    @property
    def is_half_converted(self) -> bool:
        """Whether a guest conversion is not finished: there are overlays."""
        return self.conversion is not None and self.conversion.state is not ConversionState.CONVERTED


def read_landing(folder: Path) -> LandingRecord | None:
    """The record in ``folder``, for a look at it: nothing is locked. None where there is none. Raises IntegrityError
    ``landing_unreadable``, TargetError."""
    return _read(folder, own=False)


def _read(folder: Path, *, own: bool) -> LandingRecord | None:
    """``own``: who acts by the record trusts only itself and root, as others may write in the folder."""
    path = folder / LANDING_FILE
    with target_errors(f"reading {shown_path(path)}"):
        try:
            with opened(path) as descriptor:
                owner, text = os.fstat(descriptor).st_uid, os.pread(descriptor, MAX_RECORD_BYTES + 1, 0)
        except FileNotFoundError:
            return None
    try:
        record = _decode(json.loads(text[:MAX_RECORD_BYTES]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(
            f"the record of the landing in {shown_path(folder)} is damaged: {error}", code=LANDING_UNREADABLE
        ) from error
    if own and owner not in (os.geteuid(), 0) and (record.changes or record.conversion):
        raise Refused(
            f"the record of the landing in {shown_path(folder)} belongs to the user {owner}", code=LANDING_FOREIGN
        )
    return record


def _drop_half_written(folder: Path) -> None:
    """What a process was writing when it was killed; the folder is locked."""
    for name in (MANIFEST_NAME, LANDING_FILE):
        with target_errors(f"removing a half-written {name}"):
            new_path(folder / name).unlink(missing_ok=True)


class LandingFile:
    """The record of the landing in a folder that this process has locked; each change is durable when the method
    returns. For one thread."""

    def __init__(self, record: LandingRecord, folder: OutputFolder, state: Path | None = None) -> None:
        if not folder.is_locked:
            raise ValueError("the folder of a landing is locked before its record is used")
        self.record = record
        self.folder = folder
        self._pointers = Pointers(state, LANDINGS) if state is not None else None

    @classmethod
    def opened(cls, folder: OutputFolder, *, state: Path | None = None) -> LandingFile:
        """The landing of the export in ``folder``, or a new one, which is saved with its first change.

        While something is half done, a pointer in the state directory ``state`` leads to it (``landing.landings``).

        The record of another export that lay there before is replaced. Changes at the target that an unfinished landing
        of it left stay open, and its overlays are to be dropped. Raises IntegrityError, Refused ``landing_foreign``,
        TargetError.
        """
        manifest = open_manifest(folder.path)
        export, found = export_id(manifest), _read(folder.path, own=True)
        _drop_half_written(folder.path)
        if found is not None and found.export == export:
            return cls(found, folder, state)
        now = datetime.now(UTC)
        record = LandingRecord(
            landing_id=f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
            export=export,
            machine=manifest.source.vm_name,
            started_at=timestamp(now),
        )
        if found is not None and not found.finished:
            record.changes = found.open_changes
        if found is not None and found.conversion is not None and found.conversion.overlays:
            record.conversion = Conversion(ConversionState.CONVERTING, found.conversion.overlays)
        return cls(record, folder, state)

    def save(self) -> None:
        """Writes the record. Raises TargetError, also where this process has lost the lock."""
        self.folder.check_lock()  # and again just before the rename: syncing the data takes a while
        text = json.dumps(_encode(self.record), indent=1).encode()
        if len(text) > MAX_RECORD_BYTES:
            raise TargetError(f"the record of the landing would have {len(text)} bytes, more than {MAX_RECORD_BYTES}")
        if self._pointers is not None and self.record.unfinished:
            self._pointers.add(self.record.landing_id, self.folder.named.absolute())
        os.close(write_held(self.folder.path / LANDING_FILE, text, 0o600, self.folder.check_lock))
        if self._pointers is not None and not self.record.unfinished:
            self._pointers.remove(self.record.landing_id)

    @contextmanager
    def changing(self) -> Iterator[LandingRecord]:
        """The record, for changes; saved at the end of the block."""
        yield self.record
        self.save()

    # Steps

    @contextmanager
    def step(self, name: str) -> Iterator[StepRecord]:
        """Records that the step runs, and at the end of the block that it is done or failed. The block sets
        ``result``."""
        with self.changing() as record:
            step = record.steps.setdefault(name, StepRecord())
            step.state, step.started_at = StepState.RUNNING, timestamp()
            step.ended_at = step.error = None
        try:
            yield step
        except BaseException as error:
            step.state, step.ended_at, step.error = StepState.FAILED, timestamp(), _told(error)
            self.save_anyway()
            raise
        step.state, step.ended_at = StepState.DONE, timestamp()
        self.save()

    def done(self, name: str) -> Mapping[str, Any] | None:
        """The result of a step that is done; None for another one."""
        step = self.record.steps.get(name)
        return step.result if step is not None and step.state is StepState.DONE else None

    def forget_failed(self, wanted: Collection[str]) -> None:
        """Steps that ended without success, and are not ``wanted`` any more, are not part of the landing."""
        steps = self.record.steps
        over = {StepState.FAILED, StepState.UNDONE}
        if gone := [name for name, step in steps.items() if name not in wanted and step.state in over]:
            with self.changing():
                for name in gone:
                    del steps[name]

    # The journal

    @contextmanager
    def change(self, kind: str, data: Mapping[str, Any]) -> Iterator[TargetChange]:
        """Records a change at the target before the block, and after it that it was made. A failed block leaves it
        planned, to be undone."""
        change = TargetChange(kind, dict(data))
        with self.changing() as record:
            record.changes.append(change)
        yield change
        change.made = True
        self.save()

    def note_undone(self, change: TargetChange) -> None:
        """Records the undo. A failure to save does not keep the next change from being undone: undoing this one again
        does nothing."""
        change.undone = True
        self.save_anyway()

    def save_anyway(self) -> None:
        """Saves it if that is possible, for the end of what must not be kept from ending."""
        try:
            self.save()
        except TargetError as error:
            LOG.info("the record of the landing could not be written: %s", error.message)


def _told(error: BaseException) -> dict[str, str]:
    if isinstance(error, HyperSDKError):
        return {"code": error.code, "message": error.message}
    return {"code": "internal", "message": type(error).__name__}


def _encode(record: LandingRecord) -> dict[str, Any]:
    data = asdict(record)
    data["version"] = _VERSION
    data[_CHECKSUM] = checksum_of(data)
    return data


def _decode(data: Any) -> LandingRecord:
    """Reads a record. Others may write in the folder, so what becomes part of a path is checked. Raises ValueError,
    KeyError or TypeError."""
    fields = dict(data)
    if fields.pop(_CHECKSUM) != checksum_of(fields):
        raise ValueError("its checksum differs")
    if fields.pop("version") != _VERSION:
        raise ValueError("it was written by another version")
    record: LandingRecord = validated(LandingRecord, fields)
    if not _ID.fullmatch(record.landing_id):
        raise ValueError("its id is not that of a landing")
    if record.conversion is not None:
        _check_conversion(record.conversion)
    for change in record.changes:
        check_change(change.kind, change.data)
    changed = [change.data[key] for change in record.changes for key in ("name", "image") if key in change.data]
    if not all(isinstance(name, str) and is_bare_name(name) for name in changed):
        raise ValueError("a file name leads to another folder")
    if not all(_ID.fullmatch(change.data.get("landing", record.landing_id)) for change in record.changes):
        raise ValueError("a change is not that of a landing")
    if (landed := record.steps.get(LAND)) is not None and landed.state is StepState.DONE:
        check_landed(landed.result)
    return record


def _check_conversion(conversion: Conversion) -> None:
    for image, overlay in conversion.overlays.items():
        if not is_bare_name(image) or overlay != overlay_name(image):
            raise ValueError("a file is not the overlay of an image")
    if conversion.state is ConversionState.COMMITTING:
        part = ConvertPart.model_validate(conversion.report)
        if part.drivers is None:
            raise ValueError("what the converted guest can use is missing")
