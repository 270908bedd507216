"""Compares files with their records. Pure: it gets sizes and digests and reads nothing itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from hypersdk.formats.mf import MfLine
from hypersdk.migration.findings import (
    VERIFY_EXTRA,
    VERIFY_FLIPPED,
    VERIFY_GROWN,
    VERIFY_MF_LINE,
    VERIFY_MISSING,
    VERIFY_SWAPPED_DISK,
    VERIFY_TRUNCATED,
    Finding,
)

TREE: Final = "tree"
"""The tree digest (``transfer.treehash``) among the algorithms; the others are named as in a ``.mf``."""


@dataclass(frozen=True, slots=True)
class Expected:
    """The records of one file: its size, tree digest and SHA-256 in artifact-manifest.json, its line of the ``.mf``;
    None where there is none."""

    size: int | None = None
    sha256: str | None = None
    mf: MfLine | None = None
    tree: str | None = None

    @property
    def algorithms(self) -> set[str]:
        """Algorithms of the digests to compute; empty when none is recorded. A file that matches its tree digest has
        the recorded SHA-256, so that is not computed too."""
        needed = {self.mf.algorithm} if self.mf else set()
        if self.tree is not None:
            return needed | {TREE}
        return needed | ({"SHA256"} if self.sha256 else set())

    def accepts(self, digests: Mapping[str, str]) -> bool:
        """Whether ``digests`` are the recorded ones; the manifest takes precedence over the ``.mf``. False where
        nothing is recorded."""
        if self.tree is not None:
            return digests.get(TREE) == self.tree
        if self.sha256 is not None:
            return digests.get("SHA256") == self.sha256
        return self.mf is not None and self.agrees_with_mf(digests)

    def agrees_with_mf(self, digests: Mapping[str, str]) -> bool:
        """Whether the line of the ``.mf``, if there is one, matches."""
        return self.mf is None or digests.get(self.mf.algorithm) == self.mf.hexdigest


@dataclass(frozen=True, slots=True)
class Actual:
    """The facts of a file. ``digests`` (hex by algorithm) are empty where it was not read: nothing is recorded, or its
    size differs already."""

    size: int
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FileSet:
    """The files of a folder, or the members of an archive (``prefix`` is then ``NAME.ova/``).

    ``present`` are all existing names, ``actual`` those that could be read. ``mf_name`` is the ``.mf`` among them,
    ``lines`` its content, or None when it is missing or unreadable.
    """

    expected: Mapping[str, Expected]
    actual: Mapping[str, Actual]
    present: frozenset[str]
    prefix: str = ""
    mf_name: str | None = None
    lines: Mapping[str, MfLine] | None = None
    mf_damaged: bool = False

    def findings(self) -> Iterator[Finding]:
        """Every difference. The ``.mf`` itself is only reported as changed when no other finding explains the
        difference."""
        yield from self._missing()
        mf_wrong = self.mf_damaged
        differences = [finding for name in self.actual if name != self.mf_name for finding in self._judge(name)]
        for finding in (*self._coverage(), *differences):
            mf_wrong |= finding.code == VERIFY_MF_LINE
            yield finding
        if self.mf_name in self.actual and self.mf_name is not None and not mf_wrong:
            yield from self._judge(self.mf_name)

    def unexpected(self, allowed: frozenset[str]) -> Iterator[Finding]:
        """Names that are neither expected nor ``allowed``."""
        for name in sorted(self.present - set(self.expected) - allowed):
            yield self._finding(VERIFY_EXTRA, name, "is not part of the export")

    def proved(self) -> list[str]:
        """Names whose content matches the records."""
        return [self.prefix + name for name, found in self.actual.items() if self.expected[name].accepts(found.digests)]

    def unknown(self) -> list[str]:
        """Names without recorded content."""
        return [self.prefix + name for name in self.actual if not self.expected[name].algorithms]

    def _missing(self) -> Iterator[Finding]:
        for name in self.expected:
            if name not in self.present:
                yield self._finding(VERIFY_MISSING, name, "is missing")

    def _coverage(self) -> Iterator[Finding]:
        """Files without a line in the ``.mf``, and lines without a file."""
        if self.lines is None or self.mf_name is None:
            return
        for name, entry in self.expected.items():
            if name not in self.lines and name != self.mf_name and entry.sha256 is not None:
                yield self._finding(VERIFY_MF_LINE, self.mf_name, f"has no line for {name}")
        for name in self.lines:
            if name not in self.present and name not in self.expected:
                yield self._finding(
                    VERIFY_MF_LINE, self.mf_name, f"has a line for {name}, which is not part of the export"
                )

    def _judge(self, name: str) -> Iterator[Finding]:
        """At most one finding: the most specific one."""
        entry, found = self.expected[name], self.actual[name]
        if (owner := self._owner_of(name)) is not None:
            yield self._finding(VERIFY_SWAPPED_DISK, name, f"has the content of {self.prefix}{owner}")
        elif entry.size is not None and found.size < entry.size:
            yield self._finding(VERIFY_TRUNCATED, name, f"has only {found.size} of {entry.size} bytes")
        elif entry.size is not None and found.size > entry.size:
            yield self._finding(VERIFY_GROWN, name, f"has {found.size} bytes where {entry.size} were written")
        elif entry.algorithms and not entry.accepts(found.digests):
            yield self._finding(VERIFY_FLIPPED, name, "is not what was written: its checksum differs")
        elif not entry.agrees_with_mf(found.digests):
            yield self._finding(
                VERIFY_MF_LINE, str(self.mf_name), f"has a wrong line for {name}; the file itself is good"
            )

    def _owner_of(self, name: str) -> str | None:
        """The other file whose content this file has, when it does not have its own."""
        digests = self.actual[name].digests
        if not digests or self.expected[name].accepts(digests):
            return None
        return next((other for other, entry in self.expected.items() if entry.accepts(digests)), None)

    def _finding(self, code: str, name: str, what: str) -> Finding:
        return Finding(code, f"{self.prefix}{name} {what}", self.prefix + name)
