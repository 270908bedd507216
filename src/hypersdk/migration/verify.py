"""Verifies that an export is unchanged: reads everything back and reports each difference with a code.

::

    artifact-manifest.json ── size and digest of every file ───┐
    STEM.mf ── a digest for each file ─────────────────────────┼── compare.FileSet ──> Finding(code, file)
    the files, read once ──────────────────────────────────────┘
    STEM.ova ── where it differs as a whole: the same, member by member, with the .mf inside

The manifest takes precedence: it contains a digest of itself. A missing or damaged manifest is a finding, and the
``.mf`` alone is used for the rest. Memory use does not depend on the size of the files.
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
from hypersdk.migration.compare import TREE, Actual, Expected, FileSet
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
    hex_of,
    read_manifest,
    tree_of,
)
from hypersdk.migration.naming import EVIDENCE_FILES, LANDING_FILE, MANIFEST_NAME
from hypersdk.migration.readback import Observer, Reading, digests_of, opened, read_small
from hypersdk.migration.runfile import LOCK_FILE, RUN_FILE
from hypersdk.transfer.blockfile import FdFile
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import NotRegularError, new_path

T = TypeVar("T")

_OWN = frozenset({MANIFEST_NAME, RUN_FILE, LOCK_FILE, LANDING_FILE}) | EVIDENCE_FILES
_OURS = _OWN | {new_path(Path(name)).name for name in _OWN}
"""Also what a process was writing when it was killed: the next write replaces it."""


def verify_directory(path: Path, *, cancel: CancelToken, observer: Observer | None = None) -> VerifyReport:
    """Verifies the export in ``path``, of any format. Differences are in the report, not raised.

    ``observer`` is called for each file while it is read. Raises UsageError when ``path`` is not a readable folder, and
    Cancelled.
    """
    began = time.monotonic()
    work = _Verification(path, Reading(cancel, observer))
    work.run()
    return VerifyReport(
        folder=path,
        machine=work.manifest.source.vm_name if work.manifest else None,
        findings=tuple(work.findings),
        checked=tuple(work.checked),
        unchecked=tuple(work.unchecked),
        bytes_read=work.bytes_read,
        elapsed_s=time.monotonic() - began,
    )


class _Verification:
    """Verifies one folder: reads its files, and collects the findings of ``FileSet``."""

    def __init__(self, folder: Path, reading: Reading) -> None:
        self._folder = folder
        self._reading = reading
        self.manifest: ArtifactManifest | None = None
        self.findings: list[Finding] = []
        self.checked: list[str] = []
        self.unchecked: list[str] = []
        self.bytes_read = 0

    def run(self) -> None:
        """Checks manifest, ``.mf``, every file, the members of archives, and the descriptor."""
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
        """The manifest; None, and a finding, where it cannot be read."""
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
        """Reads all expected files of the folder."""
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
        """Reads every expected file that exists. A file whose size no file of the export has is not read: that is
        enough for a finding."""
        sizes = {entry.size for entry in expected.values()}
        actual: dict[str, Actual] = {}
        for name, entry in expected.items():
            if name in present and (found := self._opened(name, partial(self._read_file, name, entry, sizes))):
                actual[name] = found
        return actual

    def _read_file(self, name: str, entry: Expected, sizes: set[int | None], descriptor: int) -> Actual:
        size = os.fstat(descriptor).st_size
        wanted = entry.size is None or size in sizes
        algorithms = entry.algorithms if wanted else set()
        digests = self._digests(descriptor, name, algorithms - {TREE}, 0, size)
        if TREE in algorithms:
            digests[TREE] = self._reading.tree(descriptor, name)
            self.bytes_read += size
        return Actual(size, digests)

    def _opened(self, name: str, work: Callable[[int], T]) -> T | None:
        """The result of ``work`` for the open file; None, and a finding, when it cannot be read."""
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
        return digests_of(self._reading.pieces(descriptor, label, range(start, start + size)), wanted)

    # The .mf

    def _read_mf(self, name: str | None) -> dict[str, MfLine] | None:
        """Its lines by file name; None when it cannot be read, which is reported when the file itself is checked."""
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
        """Checks the members of an OVA, unless the OVA as a whole is proved unchanged, or truncated."""
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
            self.findings.remove(general)  # the findings inside are more specific
        self.findings += found
        self._replace_unchecked(name, inside)

    def _replace_unchecked(self, name: str, inside: FileSet) -> None:
        """Replaces an archive without records by its members in the report."""
        self.checked += inside.proved()
        if name in self.unchecked:
            self.unchecked.remove(name)
            self.unchecked += [label for label in inside.unknown() if label != f"{name}/{inside.mf_name}"]

    def _read_members(self, descriptor: int, archive: str, members: Sequence[OvaMember]) -> FileSet:
        """The members, with the records of the manifest for the disks and of the ``.mf`` inside for everything."""
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
        """The disks that the manifest has in the archive, the files that the ``.mf`` lists, and ``others``, for which
        nothing is recorded."""
        disks = self.manifest.disks if self.manifest else ()
        members = [disk.hypersdk.member for disk in disks if disk.hypersdk and disk.hypersdk.member]
        expected = {
            member.name: Expected(member.bytes, hex_of(member.checksum), lines.get(member.name)) for member in members
        }
        for name in (*lines, *others):
            expected.setdefault(name, Expected(mf=lines.get(name)))
        return expected

    # Descriptors

    def _check_descriptors(self, files: FileSet) -> None:
        """Checks that the descriptor, in the folder or in an archive, names the existing files with their sizes."""
        for name in files.actual:
            if name.endswith(".ova"):
                self._opened(name, partial(self._check_archived_descriptor, name))
            elif name.endswith(".ovf"):
                sizes = {other: actual.size for other, actual in files.actual.items()}
                data = self._opened(name, lambda descriptor: os.pread(descriptor, MAX_OVF_BYTES + 1, 0))
                if data is not None:
                    self._check_descriptor(name, data, sizes)

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
                self._add(VERIFY_DESCRIPTOR, f"{label} names {file.href}, which does not exist", label)
            elif file.size_bytes is not None and file.size_bytes != sizes[real]:
                self._add(
                    VERIFY_DESCRIPTOR, f"{label} gives {real} {file.size_bytes} bytes, it has {sizes[real]}", label
                )

    def _add(self, code: str, message: str, file: str | None) -> None:
        self.findings.append(Finding(code, message, file))


def _mf_among(names: Iterable[str]) -> str | None:
    return next((name for name in sorted(names) if name.endswith(".mf")), None)


def _recorded(recorded: Mapping[str, FilePart], lines: Mapping[str, MfLine]) -> dict[str, Expected]:
    return {
        name: Expected(part.bytes, hex_of(part.checksum), lines.get(name), tree_of(part))
        for name, part in recorded.items()
    }


def _guessed(present: Iterable[str], lines: Mapping[str, MfLine]) -> dict[str, Expected]:
    """The files expected without a manifest: those that the ``.mf`` lists, and archives, which contain their own."""
    archives = sorted(name for name in present if name.endswith(".ova"))
    return {name: Expected(mf=lines.get(name)) for name in (*lines, *archives)}


def _head(file: BlockFile, member: OvaMember, limit: int) -> bytes:
    """The content of a small member; of a large one, just enough for its parser to refuse it."""
    return file.pread(min(member.size, limit + 1), member.offset)
