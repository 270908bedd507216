"""Names of files inside an export. They come from descriptors, archives and manifests that others wrote."""

from __future__ import annotations

from typing import Final

MAX_NAME_BYTES: Final = 255
"""NAME_MAX of the Linux file systems, in bytes of UTF-8."""


def is_bare_name(name: str) -> bool:
    """Whether ``name`` can only mean a file in the folder it is looked up in, and can be shown on one line.

    No separator of any system, no ``.`` or ``..``, no control character, no lone surrogate, at most 255 bytes of UTF-8.
    """
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        return False
    if any(char < " " or char == "\x7f" or "\ud800" <= char <= "\udfff" for char in name):
        return False
    return len(name.encode()) <= MAX_NAME_BYTES
