"""Which distribution this is, and how its packages are installed: os-release(5)."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Family(StrEnum):
    """Distributions that share package names."""

    DEBIAN = "debian"
    FEDORA = "fedora"
    SUSE = "suse"
    ARCH = "arch"


_INSTALL: Final = {
    Family.DEBIAN: "sudo apt install",
    Family.FEDORA: "sudo dnf install",
    Family.SUSE: "sudo zypper install",
    Family.ARCH: "sudo pacman -S",
}
_IDS: Final = {
    "debian": Family.DEBIAN, "ubuntu": Family.DEBIAN,
    "fedora": Family.FEDORA, "rhel": Family.FEDORA, "centos": Family.FEDORA,
    "suse": Family.SUSE, "opensuse": Family.SUSE, "sles": Family.SUSE, "arch": Family.ARCH,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Distribution:
    """``family`` is None where it is none of those that we know."""

    family: Family | None

    def install_command(self, packages: Iterable[Mapping[Family, str]]) -> str | None:
        """The command that installs ``packages``, given by their names in each family. None where there is none."""
        family = self.family
        names = sorted({names[family] for names in packages if family in names}) if family else []
        return f"{_INSTALL[family]} {' '.join(names)}" if family and names else None


def of_release(facts: Mapping[str, str]) -> Distribution:
    """From the variables of os-release. ``ID_LIKE`` names the relatives, nearest first."""
    relatives = [facts.get("ID", ""), *facts.get("ID_LIKE", "").split()]
    return Distribution(next((_IDS[name] for name in relatives if name in _IDS), None))


def this_distribution() -> Distribution:
    """The one that this process runs on."""
    try:
        return of_release(platform.freedesktop_os_release())
    except OSError:
        return of_release({})
