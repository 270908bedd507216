"""An empty hive of the Windows registry, which hivex can fill.

::

    0x0000  header "regf"    sequence twice, version 1.3, offset of the root cell, length of the bins, XOR of 127 words
    0x1000  bin "hbin"       4 KiB
    0x1020  cell             key node "nk": the root, without subkeys and values
            cell             security "sk": owner and group Administrators, an empty access list
            cell             free

Offsets count from 0x1000. A cell begins with its length, negative when it is in use. Source: the documentation of the
format in libhivex and in "Windows registry file format specification".
"""

from __future__ import annotations

import struct
from functools import reduce
from operator import xor
from typing import Final

BIN_BYTES: Final = 4096
ROOT_CELL: Final = 32
NONE: Final = 0xFFFFFFFF
VERSION: Final = (1, 3)
ROOT_FLAGS: Final = 0x2C  # root of a hive, not to be deleted, name in ASCII
ADMINISTRATORS: Final = struct.pack("<BB6BII", 1, 2, 0, 0, 0, 0, 0, 5, 32, 544)  # S-1-5-32-544
EMPTY_LIST: Final = struct.pack("<BBHHH", 2, 0, 8, 0, 0)


def empty_hive() -> bytes:
    """The hive's 8 KiB."""
    security_at = ROOT_CELL + len(_cell(_root(0)))
    cells = _cell(_root(security_at)) + _cell(_security(security_at))
    free = BIN_BYTES - ROOT_CELL - len(cells)
    cells += struct.pack("<i", free).ljust(free, b"\0")
    return _header() + struct.pack("<4sII", b"hbin", 0, BIN_BYTES).ljust(ROOT_CELL, b"\0") + cells


def _header() -> bytes:
    fields = struct.pack("<4sIIQIIIIIII", b"regf", 1, 1, 0, *VERSION, 0, 1, ROOT_CELL, BIN_BYTES, 1).ljust(508, b"\0")
    checksum = reduce(xor, struct.unpack("<127I", fields))
    return (fields + struct.pack("<I", checksum)).ljust(4096, b"\0")


def _cell(content: bytes) -> bytes:
    length = -(-(4 + len(content)) // 8) * 8
    return struct.pack("<i", -length) + content.ljust(length - 4, b"\0")


def _root(security_at: int) -> bytes:
    name = b"ROOT"
    subkeys, values = (0, 0, NONE, NONE), (0, NONE)
    fields = (b"nk", ROOT_FLAGS, 0, 0, 0, *subkeys, *values, security_at, NONE, 0, 0, 0, 0, 0, len(name), 0)
    return struct.pack("<2sHQ15I2H", *fields) + name


def _security(own: int) -> bytes:
    owner = 20
    group = owner + len(ADMINISTRATORS)
    access = group + len(ADMINISTRATORS)
    descriptor = struct.pack("<BBHIIII", 1, 0, 0x8004, owner, group, 0, access) + 2 * ADMINISTRATORS + EMPTY_LIST
    return struct.pack("<2sHIIII", b"sk", 0, own, own, 1, len(descriptor)) + descriptor
