"""A package: a descriptor, the files that it names, however they are stored, and the comparison with its ``.mf``.

::

    File(href, chunkSize, compression)      NAME             ── Stored ──────────────┐
                                            NAME.000000000.. ── Joined ──────────────┼──> Image ──> VMDK
                                            either, packed   ── GzipReader ──────────┘
    vm.mf ── read_mf ── lines ── compared with the digests of the files as stored ──> PackageVerdict

Whether a file is compressed is decided by its content, whether it is in chunks by the files that exist: attributes get
lost, and stay when somebody unpacks or joins the files by hand.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from hypersdk.errors import BAD_FORMAT, MANIFEST_MISMATCH, IntegrityError, TargetError, register
from hypersdk.formats import gzipped
from hypersdk.formats.gzipped import GzipReader
from hypersdk.formats.image import ReadableFile
from hypersdk.formats.mf import MAX_MF_BYTES, MfLine, read_mf
from hypersdk.formats.ovf import EnvelopeFile
from hypersdk.formats.vmdk.reader import ExtentOpener
from hypersdk.migration.readback import digests_of
from hypersdk.migration.stored import Joined, Store, Stored, input_errors, shown_name
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.source import StreamAlgorithm
from hypersdk.units import MiB

MISSING_DISK_FILE: Final = register(
    "missing_disk_file",
    "The descriptor names a disk file that does not exist.",
    "Put all files of the OVF into one folder.",
)

MAX_DESCRIPTOR: Final = 8 * MiB
MAX_CHUNKS: Final = 10_000
"""2 TiB in chunks of 2 GiB are a thousand."""

UNPROVED_LOCAL: Final = "unproved: converted from a local file without a manifest to compare it with"


@dataclass(frozen=True, slots=True)
class Image:
    """The file of a disk, as it is read.

    ``stored`` is the file that contains exactly the image; None for chunks and compressed files. ``stored_bytes`` is
    the number of bytes to read, ``length_bytes`` the length of the image where it is known without reading it.
    ``beside`` opens files in the same folder.
    """

    file: ReadableFile
    stored: Stored | None
    stored_bytes: int
    length_bytes: int | None
    beside: ExtentOpener


@dataclass(frozen=True, slots=True)
class PackageVerdict:
    """The result of the comparison with the package's ``.mf``. ``proof`` is ``proved: ...`` or ``unproved: ...``."""

    proof: str
    warnings: tuple[str, ...]


class Package:
    """The files of one input. ``folder`` is that of the descriptor in ``store``; names in descriptors and in the
    ``.mf`` are relative to it."""

    def __init__(self, store: Store, folder: str, check: Callable[[], None]) -> None:
        self._store = store
        self._folder = folder
        self._check = check
        self._used: dict[str, Stored] = {}
        self._received: dict[str, Mapping[str, str]] = {}
        self._mf_path: str | None = None
        self._lines: dict[str, list[MfLine]] = {}
        self._decoded: dict[str, list[MfLine]] = {}
        self._warnings: list[str] = []

    def descriptor(self, file: Stored) -> bytes:
        """The text of the descriptor ``file``, compared with the ``.mf`` in the same folder.

        Raises IntegrityError ``bad_format`` or ``manifest_mismatch``, TargetError.
        """
        if file.size() > MAX_DESCRIPTOR:
            raise IntegrityError(f"the descriptor {file.name} has {file.size()} bytes", code=BAD_FORMAT)
        with input_errors():
            text = file.pread(file.size(), 0)
        self._used[file.name] = file
        self._read_mf(file.name)
        for line in self._lines_of(file.name):
            self._compare(line, file.name, digests_of([text], [line.algorithm])[line.algorithm])
        return text

    def image(self, file: EnvelopeFile) -> Image:
        """The disk file that ``file`` refers to. Raises TargetError ``missing_disk_file``, IntegrityError."""
        chunks = self._chunks(file) if file.chunk_bytes else []
        whole = None if chunks else self._find(file.names, self._folder)
        if whole is None and not (chunks := chunks or self._chunks(file)):
            raise TargetError(f"'{file.names[0]}' is missing in the package", code=MISSING_DISK_FILE)
        return self.image_of(whole or Joined(chunks), whole or chunks[0])

    def image_of(self, file: Stored | Joined, first: Stored) -> Image:
        """``file`` as an image; ``first`` is its first file. It counts as used."""
        self._used[first.name] = first
        beside = self._beside(first.name.rpartition("/")[0])
        with input_errors():
            packed = file.pread(len(gzipped.MAGIC), 0) == gzipped.MAGIC
        if packed:
            return Image(GzipReader(file, self._check), None, file.size(), None, beside)
        return Image(file, file if isinstance(file, Stored) else None, file.size(), file.size(), beside)

    def algorithm_of(self, file: Stored) -> StreamAlgorithm:
        """The digest of ``file`` that is computed while the file is read: the one that the ``.mf`` has; SHA-256 where
        it has none, as a record of what was read."""
        listed = {line.algorithm for line in self._lines_of(file.name)}
        return "sha1" if "SHA1" in listed and "SHA256" not in listed else "sha256"

    def received(self, file: Stored, digests: Mapping[str, str]) -> None:
        """Sets the digests (by algorithm, of all bytes of ``file``) that were computed during the conversion."""
        self._received[file.name] = digests

    def verdict(self, cancel: CancelToken, note: Callable[[str], None]) -> PackageVerdict:
        """Compares every used file with the ``.mf``. Files whose digest is not known yet are read.

        Raises IntegrityError ``manifest_mismatch`` that names the file, or ``input_changed``; TargetError; Cancelled.
        """
        algorithms: set[str] = set()
        unlisted = []
        for file in self._used.values():
            lines = self._lines_of(file.name)
            digests = self._digests(file, {line.algorithm for line in lines}, cancel, note)
            for line in lines:
                self._compare(line, file.name, digests[line.algorithm])
                algorithms.add(line.algorithm)
            if not lines:
                unlisted.append(self._shown(file.name))
        self._store.check_unchanged()
        return PackageVerdict(self._proof(sorted(algorithms), unlisted), tuple(self._warnings))

    # Finding files

    def _find(self, names: Sequence[str], folder: str) -> Stored | None:
        for name in _spellings(names):
            path = f"{folder}/{name}" if folder else name
            if path not in self._used and (found := self._store.open(path)) is not None:
                self._used[path] = found
            if path in self._used:
                return self._used[path]
        return None

    def _beside(self, folder: str) -> ExtentOpener:
        def open_extent(names: Sequence[str]) -> ReadableFile:
            found = self._find(names, folder)
            if found is None:
                name = shown_name(names[0])
                raise TargetError(f"'{name}', which a disk's descriptor names, is missing", code=MISSING_DISK_FILE)
            return found

        return open_extent

    def _chunks(self, file: EnvelopeFile) -> list[Stored]:
        """The chunks ``NAME.000000000`` and so on (DSP0243 1.1.1, section 7.1), as many as exist. Raises where one in
        the middle is missing or short."""
        for name in file.names:
            chunks: list[Stored] = []
            while chunk := self._find([f"{name}.{len(chunks):09d}"], self._folder):
                chunks.append(chunk)
                if len(chunks) > MAX_CHUNKS:
                    raise IntegrityError(f"'{name}' is in more than {MAX_CHUNKS} chunks", code=BAD_FORMAT)
            if chunks:
                _check_chunks(name, chunks, file)
                return chunks
        return []

    # The .mf

    def _read_mf(self, descriptor: str) -> None:
        """Reads the ``.mf`` with the name of the descriptor, or the only one that exists."""
        path = f"{descriptor.rpartition('.')[0]}.mf"
        file = self._store.open(path) or self._other_mf(path)
        if file is None:
            return
        with input_errors():
            found = read_mf(file.pread(MAX_MF_BYTES + 1, 0))
        self._mf_path = file.name
        for line in found.lines:
            name = unicodedata.normalize("NFC", line.name.replace("\\", "/"))
            self._lines.setdefault(name, []).append(line)
            self._decoded.setdefault(unquote(name), []).append(line)
        self._warnings += [
            f"{self._shown(file.name)}: {text}, and was left out of the comparison" for text in found.unread
        ]

    def _other_mf(self, path: str) -> Stored | None:
        try:
            found = self._store.manifests(self._folder)
        except TargetError as error:
            self._warnings.append(f"the only .mf looked for was {path}: {error.message}")
            return None
        same = [other for other in found if other.lower() == path.lower()]
        if len(same or found) > 1:
            self._warnings.append(
                f"none of {len(found)} .mf files has the name of the descriptor; none of them was compared"
            )
        return self._store.open((same or found)[0]) if len(same or found) == 1 else None

    def _lines_of(self, path: str) -> list[MfLine]:
        """The lines of the ``.mf`` for the file: by its name relative to the descriptor's folder or in the archive, as
        written or decoded."""
        names = dict.fromkeys(unicodedata.normalize("NFC", name) for name in (self._shown(path), path))
        exact = [line for name in names for line in self._lines.get(name, ())]
        decoded = dict.fromkeys(unquote(name) for name in names)
        return exact or [line for name in decoded for line in self._decoded.get(name, ())]

    def _shown(self, path: str) -> str:
        return path.removeprefix(f"{self._folder}/") if self._folder else path

    def _digests(
        self, file: Stored, algorithms: set[str], cancel: CancelToken, note: Callable[[str], None]
    ) -> Mapping[str, str]:
        known = self._received.get(file.name, {})
        missing = algorithms - known.keys()
        if not missing:
            return known
        note(f"comparing {self._shown(file.name)} with the package's .mf")
        with input_errors():
            return {**known, **digests_of(_until_cancelled(file.pieces(), cancel), missing)}

    def _compare(self, line: MfLine, path: str, digest: str) -> None:
        if digest == line.hexdigest:
            return
        name, mf = self._shown(path), self._shown(self._mf_path or "")
        owner = next(
            (other.name for lines in self._lines.values() for other in lines if other.hexdigest == digest), None
        )
        hint = f"; it has the content of '{owner}'" if owner else ""
        raise IntegrityError(
            f"'{name}' does not match the package's {mf}: its {line.algorithm} is {digest}, not {line.hexdigest}{hint}",
            code=MANIFEST_MISMATCH,
            cause=(
                "A file of the package differs from the package's own manifest: it was damaged, changed or replaced."
            ),
            next_step="Nothing was published. Get the package again from where it came from.",
            file=name,
            algorithm=line.algorithm,
            expected=line.hexdigest,
            actual=digest,
        )

    def _proof(self, algorithms: Sequence[str], unlisted: Sequence[str]) -> str:
        if self._mf_path is None:
            return UNPROVED_LOCAL
        if not algorithms:
            return "unproved: the package's .mf lists none of its files"
        used = ", ".join(algorithms)
        if not unlisted:
            return f"proved: each file matches the package's .mf ({used})"
        shown = ", ".join(unlisted[:5]) + (" ..." if len(unlisted) > 5 else "")
        return f"unproved: the package's .mf does not list {shown}; the other files match it ({used})"


def _until_cancelled(pieces: Iterable[bytes | memoryview], cancel: CancelToken) -> Iterator[bytes | memoryview]:
    for piece in pieces:
        cancel.check()
        yield piece


def _spellings(names: Sequence[str]) -> Iterator[str]:
    """``names``, and then their other Unicode forms: macOS may have stored accents as separate characters, or
    joined."""
    yield from names
    for name in names:
        if not name.isascii():
            yield from (form for way in ("NFC", "NFD") if (form := unicodedata.normalize(way, name)) != name)


def _check_chunks(name: str, chunks: Sequence[Stored], file: EnvelopeFile) -> None:
    size, total = file.chunk_bytes, sum(chunk.size() for chunk in chunks)
    if size is None:
        return
    for chunk in chunks[:-1]:
        if chunk.size() != size:
            raise IntegrityError(
                f"'{chunk.name}' has {chunk.size()} bytes where each chunk has {size}", code=BAD_FORMAT
            )
    if file.size_bytes is not None and total < file.size_bytes and chunks[-1].size() == size:
        raise TargetError(f"'{name}.{len(chunks):09d}' is missing in the package", code=MISSING_DISK_FILE)
