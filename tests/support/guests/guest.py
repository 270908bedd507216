"""A guest: its disks and what is known about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from tests.support.tools import run_tool

MARKER: Final = "HYPERSDK-BOOT-OK"
"""A guest that is up prints this on its first serial port."""


@dataclass(frozen=True, slots=True)
class Guest:
    """Raw disks in boot order.

    ``marker`` begins the line that the guest prints on COM1 when it is up. ``memory_mb`` is enough for it.
    ``passphrase`` opens its LUKS volume. Disks on the shelf are shared: a test that writes takes a copy.
    """

    name: str
    disks: tuple[Path, ...]
    marker: str
    memory_mb: int
    firmware: Literal["bios", "efi"] = "bios"
    passphrase: str | None = None

    @property
    def image(self) -> Path:
        """The disk that it boots from."""
        return self.disks[0]

    def copied(self, folder: Path) -> Guest:
        """The guest with disks of its own in ``folder``, readable for everybody; holes stay holes."""
        copies = tuple(folder / f"{self.name}-disk{number}.raw" for number in range(1, len(self.disks) + 1))
        for disk, copy in zip(self.disks, copies, strict=True):
            run_tool("cp", "--sparse=always", "--reflink=auto", disk, copy)
            copy.chmod(0o644)
        return replace(self, disks=copies)
