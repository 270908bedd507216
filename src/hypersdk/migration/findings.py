"""What can differ between an export and its records: the codes, one finding, the report of a whole folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hypersdk.errors import CODES, IntegrityError, register

_AGAIN: Final = "Restore the file from a backup, or export the machine again."

VERIFY_NO_MANIFEST = register(
    "verify_no_manifest",
    "artifact-manifest.json is not there. It is written last: the export did not finish, or the file was removed.",
    "Run the export again with --resume; do not use the images.",
)
VERIFY_MISSING = register("verify_missing", "A file of the export is not there.", _AGAIN)
VERIFY_NOT_A_FILE = register(
    "verify_not_a_file",
    "In the place of a file of the export there is a link, a folder or a device.",
    "Put the file itself there. Links are not followed: they may lead anywhere.",
)
VERIFY_UNREADABLE = register(
    "verify_unreadable",
    "A file of the export cannot be read.",
    "Check its permissions and, for input/output errors, the health of the disk under it.",
)
VERIFY_TRUNCATED = register("verify_truncated", "A file is shorter than it was when it was written.", _AGAIN)
VERIFY_GROWN = register("verify_grown", "A file is longer than it was when it was written.", _AGAIN)
VERIFY_FLIPPED = register(
    "verify_flipped",
    "A file has its size but not its content: at least one bit differs. A guest that was started from an image changes"
    " it too.",
    _AGAIN,
)
VERIFY_SWAPPED_DISK = register(
    "verify_swapped_disk",
    "A file has exactly the content of another file of the export: names were exchanged, or one was copied over the"
    " other.",
    "Give the files back their names; the message says which content is whose.",
)
VERIFY_EXTRA = register(
    "verify_extra",
    "There is a file that the export did not write.",
    "Move it elsewhere; conversion tools take whole folders.",
)
VERIFY_MF_LINE = register(
    "verify_mf_line",
    "The .mf does not say of the files what is true of them: a wrong digest, a line too few or too many.",
    "Restore the .mf. The files themselves are judged by artifact-manifest.json and may be good.",
)
VERIFY_MF_UNREADABLE = register(
    "verify_mf_unreadable",
    "The .mf is not in the form that OVF tools read.",
    "Restore it; ovftool and virt-v2v refuse it too.",
)
VERIFY_OVA_UNREADABLE = register(
    "verify_ova_unreadable", "The OVA is not a tar archive of plain files, or it ends early.", _AGAIN
)
VERIFY_DESCRIPTOR = register(
    "verify_descriptor",
    "The OVF descriptor does not describe the files beside it.",
    "Restore the .ovf, or export again: importing tools go by the descriptor.",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference. ``file`` is a name in the folder, ``NAME.ova/member`` inside an OVA, or None for the folder as a
    whole."""

    code: str
    message: str
    file: str | None = None

    @property
    def cause(self) -> str:
        """What the code means."""
        return CODES[self.code].cause

    @property
    def next_step(self) -> str:
        """What to do."""
        return CODES[self.code].next_step

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "code": self.code,
            "message": self.message,
            "file": self.file,
            "cause": self.cause,
            "next_step": self.next_step,
        }


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The outcome for a folder. ``checked`` were compared by digest; ``unchecked`` by size alone, because no digest was
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
        """Nothing differs. ``unchecked`` may still name files of which less is known."""
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

    def raise_for_findings(self) -> None:
        """Raises IntegrityError with the code of the first finding, and all of them in the field ``findings``."""
        if not self.findings:
            return
        first, more = self.findings[0], len(self.findings) - 1
        raise IntegrityError(
            first.message + (f" (and {more} more)" if more else ""),
            code=first.code,
            findings=[finding.as_dict() for finding in self.findings],
        )
