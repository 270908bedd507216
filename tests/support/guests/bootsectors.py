"""Guests of 512 bytes without an operating system, padded to 8 MiB. They boot by BIOS in less than a second; virt-v2v
refuses them.

``marker.S`` prints a marker again and again, ``echo.S`` answers on its serial port, ``writer.S`` writes to its disk.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final, Literal

from hypersdk.units import MiB
from tests.support.guests.guest import MARKER, Guest
from tests.support.guests.shelf import from_shelf
from tests.support.tools import run_tool

HERE: Final = Path(__file__).parent
DISK_BYTES: Final = 8 * MiB
WRITER_DISK_BYTES: Final = 72 * MiB  # 1,024 places that lie 64 KiB apart, from 1 MiB on
MEMORY_MB: Final = 32
ECHO_MARKER: Final = "HYPERSDK-ECHO-OK"
WRITER_MARKER: Final = "HYPERSDK-WRITER-OK"

BootSector = Literal["marker", "echo", "writer"]
MARKERS: Final[dict[BootSector, str]] = {"marker": MARKER, "echo": ECHO_MARKER, "writer": WRITER_MARKER}


def boot_sector_guest(name: BootSector) -> Guest:
    """The guest on the shelf."""
    source = HERE / f"{name}.S"
    recipe = (source, HERE / "bios.inc", HERE / "bootsectors.py")
    image = from_shelf(f"bootsector-{name}", recipe, lambda image: _assemble(source, image))
    return Guest(f"bootsector-{name}", (image,), MARKERS[name], MEMORY_MB)


def _assemble(source: Path, image: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        code = Path(work) / "code.o"
        run_tool("as", "--32", "-I", HERE, "-o", code, source)
        run_tool("ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o", image, code)
    os.truncate(image, WRITER_DISK_BYTES if source.stem == "writer" else DISK_BYTES)
