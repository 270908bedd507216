"""A Windows program that does nothing: enough for those who look at its headers."""

from __future__ import annotations

import struct
from typing import Final

ALIGNMENT: Final = 512
PAGE: Final = 4096
AMD64: Final = 0x8664
EXECUTABLE: Final = 0x22  # and aware of large addresses
PE32_PLUS: Final = 0x20B
CONSOLE: Final = 3
CODE: Final = 0x60000020  # a section to execute and to read
RETURN: Final = b"\xc3"


def program() -> bytes:
    """A 64-bit console program: DOS header, PE header, one section with one instruction."""
    dos = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64)
    optional = _optional_header()
    coff = b"PE\0\0" + struct.pack("<HHIIIHH", AMD64, 1, 0, 0, 0, len(optional), EXECUTABLE)
    section = struct.pack("<8sIIIIIIHHI", b".text", len(RETURN), PAGE, ALIGNMENT, ALIGNMENT, 0, 0, 0, 0, CODE)
    return (dos + coff + optional + section).ljust(ALIGNMENT, b"\0") + RETURN.ljust(ALIGNMENT, b"\0")


def _optional_header() -> bytes:
    sizes = struct.pack("<HBBIIIII", PE32_PLUS, 14, 0, ALIGNMENT, 0, 0, PAGE, PAGE)
    versions = struct.pack("<HHHHHHI", 6, 0, 0, 0, 6, 0, 0)
    image = struct.pack("<QII", 0x140000000, PAGE, ALIGNMENT) + versions
    rest = struct.pack("<IIIHH", 2 * PAGE, ALIGNMENT, 0, CONSOLE, 0)
    memory = struct.pack("<QQQQII", 1 << 20, PAGE, 1 << 20, PAGE, 0, 16)
    return sizes + image + rest + memory + bytes(16 * 8)
