"""Is an export still what it was when it was written? Reads everything back and names each difference with a code.

::

    artifact-manifest.json ── size and SHA-256 of every file ──┐
    STEM.mf ── a digest for each file ─────────────────────────┼── compare.FileSet ──> Finding(code, file)
    the files, read once ──────────────────────────────────────┘
    STEM.ova ── where it differs as a whole: the same, member by member, with the .mf inside

The manifest is believed first: it carries a digest of itself. Where it is missing or damaged that is a finding, and the
``.mf`` alone is used for the rest. Memory does not depend on the size of the files.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from hypersdk.errors import IntegrityError, UsageError
from hypersdk.formats.image import BlockFile
from hypersdk.formats.mf import MAX_MF_BYTES, MfLine, parse_mf
from hypersdk.formats.ova import OvaMember, descriptor_member, read_ova
from hypersdk.formats.ovf import parse_ovf
from hypersdk.formats.ovf.layout import MAX_OVF_BYTES
from hypersdk.migration.compare import Actual, Expected, FileSet
from hypersdk.migration.findings import (
    VERIFY_DESCRIPTOR,
    VERIFY_FLIPPED,
    VERIFY_MF_UNREADABLE,
    VERIFY_NO_MANIFEST,
    VERIFY_NOT_A_FILE,
    VERIFY_OVA_UNREADABLE,
    VERIFY_UNREADABLE,
    Finding,
    VerifyReport,
)
from hypersdk.migration.manifest import (
    MAX_MANIFEST_BYTES,
    VERIFY_BAD_MANIFEST,
    ArtifactManifest,
    FilePart,
    read_manifest,
)
from hypersdk.migration.naming import MANIFEST_NAME
from hypersdk.migration.readback import Clock, Observer, Reading, digests_of, opened, read_small
from hypersdk.migration.runfile import LOCK_FILE, RUN_FILE
from hypersdk.transfer.blockfile import FdFile
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import NotRegularError

T = TypeVar("T")

_OURS = frozenset({MANIFEST_NAME, RUN_FILE, LOCK_FILE})


def verify_directory(
    path: Path, *, cancel: CancelToken, observer: Observer | None = None, clock: Clock = time.monotonic
) -> VerifyReport:
    """Verifies the export in ``path``, of any of the five formats. What differs is in the report, not raised.

    ``observer`` is called for each file as it is read. Raises UsageError when ``path`` is not a readable folder,
    Cancelled.
    """
    began = clock()
    work = _Verification(path, Reading(cancel, observer, clock))
    work.run()
    return VerifyReport(
        folder=path,
        machine=work.manifest.source.vm_name if work.manifest else None,
        findings=tuple(work.findings),
        checked=tuple(work.checked),
        unchecked=tuple(work.unchecked),
        bytes_read=work.bytes_read,
        elapsed_s=clock() - began,
    )


class _Verification:
    """One run over one folder: reads, and collects what ``FileSet`` makes of it."""

    def __init__(self, folder: Path, reading: Reading) -> None:
        self._folder = folder
        self._reading = reading
        self.manifest: ArtifactManifest | None = None
        self.findings: list[Finding] = []
        self.checked: list[str] = []
        self.unchecked: list[str] = []
        self.bytes_read = 0

    def run(self) -> None:
        """Manifest, ``.mf``, every file, the inside of archives, and what the descriptor says."""
        present = self._list_folder()
        self.manifest = self._read_manifest()
        files = self._read_folder(present)
        self.findings += files.findings()
        if self.manifest is not None:
            self.findings += files.unexpected(_OURS)
        self.checked += files.proved()
        self.unchecked += files.unknown()
        for name in [name for name in files.actual if name.endswith(".ova")]:
            self._opened(name, partial(self._verify_archive, name))
        if not self.findings:
            self._check_descriptors(files)

    # The folder

    def _list_folder(self) -> frozenset[str]:
        try:
            with os.scandir(self._folder) as entries:
                return frozenset(entry.name for entry in entries)
        except OSError as error:
            raise UsageError(
                f"{self._folder} cannot be verified: {error.strerror}", next_step="Name the folder of an export."
            ) from error

    def _read_manifest(self) -> ArtifactManifest | None:
        """The manifest, or None and a finding."""
        try:
            return read_manifest(read_small(self._folder / MANIFEST_NAME, MAX_MANIFEST_BYTES))
        except FileNotFoundError:
            self._add(VERIFY_NO_MANIFEST, f"{self._folder} holds no {MANIFEST_NAME}: the export is not finished", None)
        except IntegrityError as error:
            self._add(error.code, error.message, MANIFEST_NAME)
        except NotRegularError:
            self._add(VERIFY_BAD_MANIFEST, f"{MANIFEST_NAME} is not a regular file", MANIFEST_NAME)
        except OSError as error:
            self._add(VERIFY_BAD_MANIFEST, f"{MANIFEST_NAME} cannot be read: {error.strerror}", MANIFEST_NAME)
        return None

    def _read_folder(self, present: frozenset[str]) -> FileSet:
        """All that is expected in the folder, read."""
        recorded = {part.name: part for part in self.manifest.files} if self.manifest else {}
        mf_name = _mf_among(recorded if self.manifest else present)
        lines = self._read_mf(mf_name) if mf_name in present else None
        expected = _recorded(recorded, lines or {}) if self.manifest else _guessed(present, lines or {})
        return FileSet(
            expected=expected,
            actual=self._read_files(expected, present),
            present=present,
            mf_name=mf_name,
            lines=lines,
            mf_damaged=self._mf_damaged(mf_name),
        )

    def _read_files(self, expected: Mapping[str, Expected], present: frozenset[str]) -> dict[str, Actual]:
        """Every expected file that is there. One with a size that is no file's of the export is not read: that says
        enough."""
        sizes = {entry.size for entry in expected.values()}
        actual: dict[str, Actual] = {}
        for name, entry in expected.items():
            if name in present and (found := self._opened(name, partial(self._read_file, name, entry, sizes))):
                actual[name] = found
        return actual

    def _read_file(self, name: str, entry: Expected, sizes: set[int | None], descriptor: int) -> Actual:
        size = os.fstat(descriptor).st_size
        wanted = entry.size is None or size in sizes
        return Actual(size, self._digests(descriptor, name, entry.algorithms if wanted else (), 0, size))

    def _opened(self, name: str, work: Callable[[int], T]) -> T | None:
        """What ``work`` makes of the open file; None, and a finding, when something keeps the file from being read."""
        try:
            with opened(self._folder / name) as descriptor:
                return work(descriptor)
        except NotRegularError:
            self._add(VERIFY_NOT_A_FILE, f"{name} is not a regular file", name)
        except OSError as error:
            self._add(VERIFY_UNREADABLE, f"{name} cannot be read: {error.strerror}", name)
        return None

    def _digests(self, descriptor: int, label: str, algorithms: Iterable[str], start: int, size: int) -> dict[str, str]:
        wanted = sorted(algorithms)
        if not wanted:
            return {}
        self.bytes_read += size
        return digests_of(descriptor, label, wanted, self._reading, start=start, length=size)

    # The .mf

    def _read_mf(self, name: str | None) -> dict[str, MfLine] | None:
        """Its lines by file name; None when it cannot be read, which is said when the file itself is looked at."""
        if name is None:
            return None
        try:
            data = read_small(self._folder / name, MAX_MF_BYTES)
        except OSError:
            return None
        return self._parse_mf(data, name)

    def _parse_mf(self, data: bytes, name: str) -> dict[str, MfLine] | None:
        try:
            return {line.name: line for line in parse_mf(data)}
        except IntegrityError as error:
            self._add(VERIFY_MF_UNREADABLE, f"{name}: {error.message}", name)
            return None

    def _mf_damaged(self, name: str | None) -> bool:
        return any(finding.code == VERIFY_MF_UNREADABLE and finding.file == name for finding in self.findings)

    # Archives

    def _verify_archive(self, name: str, descriptor: int) -> None:
        """What is wrong inside an OVA, unless it is proved to be what was written, or cut short, as a whole."""
        general = next((finding for finding in self.findings if finding.file == name), None)
        if name in self.checked or (general is not None and general.code != VERIFY_FLIPPED):
            return
        try:
            members = read_ova(FdFile(descriptor))
        except IntegrityError as error:
            if general is None:
                self._add(VERIFY_OVA_UNREADABLE, f"{name}: {error.message}", name)
            return
        inside = self._read_members(descriptor, name, members)
        found = [*inside.findings(), *inside.unexpected(frozenset())]
        if general is not None and (found or inside.mf_damaged):
            self.findings.remove(general)  # what was found inside says more
        self.findings += found
        self._replace_unchecked(name, inside)

    def _replace_unchecked(self, name: str, inside: FileSet) -> None:
        """An archive of which nothing was recorded is as good as its members."""
        self.checked += inside.proved()
        if name in self.unchecked:
            self.unchecked.remove(name)
            self.unchecked += [label for label in inside.unknown() if label != f"{name}/{inside.mf_name}"]

    def _read_members(self, descriptor: int, archive: str, members: Sequence[OvaMember]) -> FileSet:
        """All members, compared with what the manifest says of the disks and the ``.mf`` inside of everything."""
        names = [member.name for member in members]
        mf_name = _mf_among(names)
        lines = None
        for member in members:
            if member.name == mf_name:
                lines = self._parse_mf(_head(FdFile(descriptor), member, MAX_MF_BYTES), f"{archive}/{mf_name}")
        expected = self._expected_members(
            lines or {}, names if lines is None else [name for name in names if name == mf_name]
        )
        return FileSet(
            expected=expected,
            actual={
                member.name: Actual(
                    member.size,
                    self._digests(
                        descriptor,
                        f"{archive}/{member.name}",
                        expected[member.name].algorithms,
                        member.offset,
                        member.size,
                    ),
                )
                for member in members
                if member.name in expected
            },
            present=frozenset(names),
            prefix=f"{archive}/",
            mf_name=mf_name,
            lines=lines,
            mf_damaged=self._mf_damaged(f"{archive}/{mf_name}"),
        )

    def _expected_members(self, lines: Mapping[str, MfLine], others: Iterable[str]) -> dict[str, Expected]:
        """Disks that the manifest places in the archive, what the ``.mf`` lists, and ``others``, of which nothing is
        known."""
        places = [disk.hypersdk.member for disk in self.manifest.disks if disk.hypersdk] if self.manifest else []
        expected = {
            place.name: Expected(place.bytes, _hex(place.checksum), lines.get(place.name)) for place in places if place
        }
        for name in (*lines, *others):
            expected.setdefault(name, Expected(mf=lines.get(name)))
        return expected

    # Descriptors

    def _check_descriptors(self, files: FileSet) -> None:
        """Whether the descriptor, here or in an archive, names the files that are there, with their sizes."""
        for name, found in files.actual.items():
            if name.endswith(".ova"):
                self._opened(name, partial(self._check_archived_descriptor, name))
            elif name.endswith(".ovf"):
                sizes = {other: actual.size for other, actual in files.actual.items()}
                self._opened(name, partial(self._check_lone_descriptor, OvaMember(name, 0, found.size), sizes))

    def _check_lone_descriptor(self, whole: OvaMember, sizes: Mapping[str, int], descriptor: int) -> None:
        self._check_descriptor(whole.name, _head(FdFile(descriptor), whole, MAX_OVF_BYTES), sizes)

    def _check_archived_descriptor(self, archive: str, descriptor: int) -> None:
        file = FdFile(descriptor)
        try:
            members = read_ova(file)
            member = descriptor_member(members)
        except IntegrityError as error:
            self._add(VERIFY_OVA_UNREADABLE, f"{archive}: {error.message}", archive)
            return
        sizes = {other.name: other.size for other in members}
        self._check_descriptor(f"{archive}/{member.name}", _head(file, member, MAX_OVF_BYTES), sizes)

    def _check_descriptor(self, label: str, data: bytes, sizes: Mapping[str, int]) -> None:
        try:
            files = parse_ovf(data).files
        except IntegrityError as error:
            self._add(VERIFY_DESCRIPTOR, f"{label}: {error.message}", label)
            return
        for file in files:
            real = next((name for name in file.names if name in sizes), None)
            if real is None:
                self._add(VERIFY_DESCRIPTOR, f"{label} names {file.href}, which is not there", label)
            elif file.size_bytes is not None and file.size_bytes != sizes[real]:
                self._add(
                    VERIFY_DESCRIPTOR, f"{label} gives {real} {file.size_bytes} bytes, it has {sizes[real]}", label
                )

    def _add(self, code: str, message: str, file: str | None) -> None:
        self.findings.append(Finding(code, message, file))


def _mf_among(names: Iterable[str]) -> str | None:
    return next((name for name in sorted(names) if name.endswith(".mf")), None)


def _recorded(recorded: Mapping[str, FilePart], lines: Mapping[str, MfLine]) -> dict[str, Expected]:
    return {name: Expected(part.bytes, _hex(part.checksum), lines.get(name)) for name, part in recorded.items()}


def _guessed(present: Iterable[str], lines: Mapping[str, MfLine]) -> dict[str, Expected]:
    """Without a manifest: what the ``.mf`` lists, and archives, which carry their own."""
    archives = sorted(name for name in present if name.endswith(".ova"))
    return {name: Expected(mf=lines.get(name)) for name in (*lines, *archives)}


def _head(file: BlockFile, member: OvaMember, limit: int) -> bytes:
    """A small member; of a large one just enough for its parser to refuse it."""
    return file.pread(min(member.size, limit + 1), member.offset)


def _hex(checksum: str | None) -> str | None:
    return checksum.removeprefix("sha256:") if checksum else None
