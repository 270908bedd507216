"""Differences between an export and its records: the codes, a finding, the report of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hypersdk.errors import CODES, register
from hypersdk.remedies import Remedy, Resume, as_json

_AGAIN: Final = "Restore the file from a backup, or export the machine again."

VERIFY_NO_MANIFEST = register(
    "verify_no_manifest",
    "artifact-manifest.json does not exist. It is written last: the export did not finish, or the file was removed.",
    Resume(),
    "Do not use the images.",
)
VERIFY_MISSING = register("verify_missing", "A file of the export does not exist.", _AGAIN)
VERIFY_NOT_A_FILE = register(
    "verify_not_a_file",
    "A file of the export is a link, a folder or a device.",
    "Replace it by the file itself. Links are not followed: they may lead anywhere.",
)
VERIFY_UNREADABLE = register(
    "verify_unreadable",
    "A file of the export cannot be read.",
    "Check its permissions and, for input/output errors, the health of its drive.",
)
VERIFY_TRUNCATED = register("verify_truncated", "A file is shorter than it was when it was written.", _AGAIN)
VERIFY_GROWN = register("verify_grown", "A file is longer than it was when it was written.", _AGAIN)
VERIFY_FLIPPED = register(
    "verify_flipped",
    "A file has the right size but not the right content: at least one bit differs. Starting a guest from an image"
    " changes it too.",
    _AGAIN,
)
VERIFY_SWAPPED_DISK = register(
    "verify_swapped_disk",
    "A file has exactly the content of another file of the export: names were swapped, or one file was copied over the"
    " other.",
    "Restore the names of the files; the message says which content belongs to which.",
)
VERIFY_EXTRA = register(
    "verify_extra",
    "The folder has a file that the export did not write.",
    "Move it elsewhere; conversion tools read whole folders.",
)
VERIFY_MF_LINE = register(
    "verify_mf_line",
    "The .mf does not match the files: a wrong digest, a missing or an extra line.",
    "Restore the .mf. The files themselves are checked against artifact-manifest.json and may be good.",
)
VERIFY_MF_UNREADABLE = register(
    "verify_mf_unreadable",
    "The .mf is not in the format that OVF tools read.",
    "Restore it; ovftool and virt-v2v refuse it too.",
)
VERIFY_OVA_UNREADABLE = register(
    "verify_ova_unreadable", "The OVA is not a tar archive of regular files, or it is truncated.", _AGAIN
)
VERIFY_DESCRIPTOR = register(
    "verify_descriptor",
    "The OVF descriptor does not describe the files beside it.",
    "Restore the .ovf, or export again: importing tools rely on the descriptor.",
)
VERIFY_FAILED = register(
    "verify_failed",
    "At least one of several exports differs from its records, or cannot be read.",
    "Verify it alone: that shows all differences and what helps.",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference. ``file`` is a name in the folder, ``NAME.ova/member`` in an OVA, or None for the whole folder."""

    code: str
    message: str
    file: str | None = None

    @property
    def cause(self) -> str:
        """The cause, from the code."""
        return CODES[self.code].cause

    @property
    def remedies(self) -> tuple[Remedy, ...]:
        """The remedies, from the code."""
        return CODES[self.code].remedies

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "code": self.code,
            "message": self.message,
            "file": self.file,
            "cause": self.cause,
            "remedies": as_json(self.remedies),
        }


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The report of a folder. ``checked`` were compared by digest; ``unchecked`` by size alone, because no digest was
    recorded.

    ``machine`` is the name in the manifest, None without a readable one.
    """

    folder: Path
    machine: str | None
    findings: tuple[Finding, ...]
    checked: tuple[str, ...]
    unchecked: tuple[str, ...]
    bytes_read: int
    elapsed_s: float

    @property
    def ok(self) -> bool:
        """Whether nothing differs. ``unchecked`` may still name files that were compared by size alone."""
        return not self.findings

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "folder": str(self.folder),
            "machine": self.machine,
            "ok": self.ok,
            "findings": [finding.as_dict() for finding in self.findings],
            "checked": list(self.checked),
            "unchecked": list(self.unchecked),
            "bytes_read": self.bytes_read,
            "elapsed_s": round(self.elapsed_s, 3),
        }
