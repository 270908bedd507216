"""The programs that a conversion needs: where they are, and what the installed virt-v2v can do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

from hypersdk.errors import Refused
from hypersdk.guest.distribution import Distribution, Family, this_distribution
from hypersdk.guest.faults import OPTION_UNSUPPORTED, TOOL_BROKEN, TOOL_MISSING, install_advice
from hypersdk.text import clean

IN_PLACE: Final = "virt-v2v-in-place"
GUESTFISH: Final = "guestfish"
QEMU_IMG: Final = "qemu-img"
QEMU_NBD: Final = "qemu-nbd"
_FOLDERS: Final = ("/usr/bin", "/usr/libexec")
"""Fedora and RHEL install virt-v2v-in-place outside of PATH, as it can damage a guest."""
_ASK_S: Final = 60.0
_MAX_OUTPUT: Final = 256 * 1024
_OPTION: Final = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")


@dataclass(frozen=True, slots=True)
class Program:
    """A program and its packages. ``why`` completes "is needed to ...". Without one that is ``essential`` no guest is
    converted."""

    name: str
    why: str
    packages: Mapping[Family, str]
    essential: bool = True


def _packages(debian: str, fedora: str, suse: str, arch: str) -> Mapping[Family, str]:
    return {Family.DEBIAN: debian, Family.FEDORA: fedora, Family.SUSE: suse, Family.ARCH: arch}


# dnf and zypper also install what provides a file; guestfish has moved between packages.
_V2V_PACKAGES: Final = _packages("virt-v2v", "virt-v2v", "virt-v2v", "virt-v2v")
_QEMU_PACKAGES: Final = _packages("qemu-utils", "qemu-img", "qemu-tools", "qemu-img")
PROGRAMS: Final = (
    Program(IN_PLACE, "convert guests", _V2V_PACKAGES),
    Program(
        GUESTFISH, "repair the boot loader of UEFI guests",
        _packages("libguestfs-tools", "/usr/bin/guestfish", "/usr/bin/guestfish", "libguestfs"), essential=False,
    ),
    Program(QEMU_IMG, "create and commit overlays", _QEMU_PACKAGES),
    Program(QEMU_NBD, "give virt-v2v access to images", _QEMU_PACKAGES),
    Program("nbdkit", "give virt-v2v access to images", _packages("nbdkit", "nbdkit", "nbdkit", "nbdkit")),
    Program("nbdinfo", "give virt-v2v access to images", _packages("libnbd-bin", "libnbd", "libnbd", "libnbd")),
    Program(
        "qemu-system-x86_64", "run the appliance that converts guests",
        _packages("qemu-system-x86", "qemu-kvm", "qemu-x86", "qemu-system-x86"),
    ),
)  # fmt: skip
_OTHER_NAMES: Final = {"qemu-system-x86_64": ("qemu-kvm",)}
VIRTIO_WIN: Final = ("/usr/share/virtio-win/virtio-win.iso", "/usr/share/virtio-win")
VIRTIO_WIN_PACKAGES: Final[Mapping[Family, str]] = {Family.FEDORA: "virtio-win", Family.SUSE: "virtio-win"}
"""Debian, Ubuntu and Arch have none."""
VIRT_TOOLS: Final = "/usr/share/virt-tools"


@dataclass(frozen=True, slots=True)
class V2V:
    """virt-v2v-in-place: ``features`` as ``--machine-readable`` lists them, ``options`` as its help does."""

    path: str
    version: str
    features: frozenset[str]
    options: frozenset[str]

    def require(self, options: Iterable[str]) -> None:
        """Raises Refused ``guest_option_unsupported`` that names the options which it does not have."""
        if missing := sorted(set(options) - self.options):
            names = ", ".join(f"'{name}'" for name in missing)
            raise Refused(
                f"virt-v2v-in-place {self.version} does not have {names}",
                code=OPTION_UNSUPPORTED, options=missing, version=self.version,
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class GuestTools:
    """What is installed. ``paths`` are those of the PROGRAMS that were found; ``virtio_win`` is the ISO or folder with
    the drivers for Windows, ``virt_tools`` the folder with the programs for the first boot of Windows."""

    paths: Mapping[str, str]
    virtio_win: Path | None
    virt_tools: Path | None
    distribution: Distribution = field(default_factory=this_distribution)

    def path(self, name: str) -> str:
        """The path of a program. Raises Refused ``guest_tool_missing`` with the command that installs it."""
        found = self.paths.get(name)
        if found is None:
            program = next(program for program in PROGRAMS if program.name == name)
            raise Refused(
                f"'{name}' is not installed; it is needed to {program.why}",
                code=TOOL_MISSING,
                remedies=install_advice(self.distribution.install_command([program.packages])),
                program=name,
            )
        return found

    def missing(self) -> tuple[Program, ...]:
        """The programs that were not found."""
        return tuple(program for program in PROGRAMS if program.name not in self.paths)

    def install_command(self) -> str | None:
        """The command that installs all that is missing; None where nothing is, or where it is not known."""
        return self.distribution.install_command(program.packages for program in self.missing())

    def v2v(self) -> V2V:
        """What the installed virt-v2v-in-place can do; it is asked once per process. Raises Refused when it is not
        installed or does not run."""
        path = self.path(IN_PLACE)
        return _ask(path, Path(path).stat().st_mtime_ns)


def find_tools(environ: Mapping[str, str] = os.environ) -> GuestTools:
    """Looks for the programs on PATH and in the folders where distributions install them."""
    search = os.pathsep.join((environ.get("PATH", os.defpath), *_FOLDERS))
    found = {program.name: _find(program.name, search) for program in PROGRAMS}
    return GuestTools(
        paths={name: path for name, path in found.items() if path is not None},
        virtio_win=_first((environ["VIRTIO_WIN"],) if environ.get("VIRTIO_WIN") else VIRTIO_WIN),
        virt_tools=_first((environ.get("VIRT_TOOLS_DATA_DIR") or VIRT_TOOLS,)),
    )


def _find(name: str, search: str) -> str | None:
    names = (name, *_OTHER_NAMES.get(name, ()))
    return next((path for path in (shutil.which(name, path=search) for name in names) if path), None)


def _first(paths: Iterable[str]) -> Path | None:
    return next((Path(path) for path in paths if Path(path).exists()), None)


@lru_cache(maxsize=8)
def _ask(path: str, _modified: int) -> V2V:
    features = _output(path, "--machine-readable").split()
    version = _output(path, "--version").split()
    return V2V(
        path=path,
        version=clean(version[-1], 40) if version else "unknown",
        features=frozenset(features),
        options=frozenset(_OPTION.findall(_output(path, "--help"))),
    )


def _output(path: str, option: str) -> str:
    """What the program prints about itself."""
    try:
        result = subprocess.run(
            [path, option], stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASK_S, check=True,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None) or b""
        raise Refused(
            f"'{path} {option}' failed", code=TOOL_BROKEN, output=clean(output.decode(errors="replace")[-400:], 800)
        ) from error
    return result.stdout[:_MAX_OUTPUT].decode(errors="replace")
