"""What looks like a Windows guest to virt-v2v, without Windows: registry hives, the folders that it looks for and a
program with the right headers, on NTFS. It does not boot.

``virtio_win_folder`` and ``virt_tools_folder`` are what virt-v2v installs into such a guest, of the same kind.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from tests.support.guests.appliance import guestfish
from tests.support.guests.guest import Guest
from tests.support.guests.hive import empty_hive
from tests.support.guests.program import program
from tests.support.guests.shelf import from_shelf
from tests.support.tools import run_tool

HERE: Final = Path(__file__).parent
REGISTRY: Final = HERE / "windows"
RECIPE: Final = (HERE / "windows.py", HERE / "hive.py", HERE / "program.py", *sorted(REGISTRY.iterdir()))
FOLDERS: Final = ("System32/config", "System32/drivers", "System32/GroupPolicy", "INF", "Temp")
DRIVERS: Final = ("viostor", "vioscsi", "netkvm", "vioser", "viorng", "balloon", "pvpanic")
TOOLS: Final = ("rhsrvany.exe", "pnp_wait.exe", "vmdp.exe", "pvvxsvc.exe")
MEMORY_MB: Final = 1024


def windows_guest() -> Guest:
    """The guest on the shelf: one disk of 256 MiB, BIOS, Windows Server 2019 as its registry says."""
    image = from_shelf("windows", RECIPE, _make)
    return Guest("windows", (image,), "", MEMORY_MB)


def virtio_win_folder() -> Path:
    """For ``VIRTIO_WIN``: the drivers as the project's ISO image has them."""
    return from_shelf("virtio-win", RECIPE, _make_drivers)


def virt_tools_folder() -> Path:
    """For ``VIRT_TOOLS_DATA_DIR``: programs that virt-v2v puts into Windows guests."""
    return from_shelf("virt-tools", RECIPE, _make_tools)


def _make(image: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name in ("SOFTWARE", "SYSTEM"):
            (work / name).write_bytes(empty_hive())
            run_tool("hivexregedit", "--merge", work / name, REGISTRY / f"{name.lower()}.reg")
        (work / "cmd.exe").write_bytes(program())
        guestfish(
            f"sparse {image} 256M",
            "run",
            "part-init /dev/sda mbr",
            "part-add /dev/sda p 2048 -64",
            "part-set-mbr-id /dev/sda 1 7",
            "part-set-bootable /dev/sda 1 true",
            "mkfs ntfs /dev/sda1",
            "mount /dev/sda1 /",
            *(f"mkdir-p /Windows/{name}" for name in FOLDERS),
            'mkdir-p "/Program Files"',
            "touch /autoexec.bat",
            *(f"upload {work}/{name} /Windows/System32/config/{name}" for name in ("SOFTWARE", "SYSTEM")),
            f"upload {work}/cmd.exe /Windows/System32/cmd.exe",
        )


def _make_drivers(folder: Path) -> None:
    for system in ("2k19", "2k22", "w10", "w11"):
        place = folder / "drivers" / "amd64" / system
        place.mkdir(parents=True)
        for driver in DRIVERS:
            (place / f"{driver}.inf").write_text(f"; {driver}\n[Version]\nDriverVer=01/01/2024,100.0.0.0\n")
            (place / f"{driver}.cat").write_bytes(b"catalogue")
            (place / f"{driver}.sys").write_bytes(program())


def _make_tools(folder: Path) -> None:
    folder.mkdir()
    for name in TOOLS:
        (folder / name).write_bytes(program())
