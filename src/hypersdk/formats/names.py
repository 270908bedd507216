"""Names of files inside an export. They come from untrusted descriptors, archives and manifests.

An ``href`` in a descriptor is a relative reference (DSP0243 1.1.1, section 7.1; RFC 3986, section 4.2), typed
``xs:anyURI``. Such a value may hold blanks and letters beyond ASCII unencoded, and most tools write and read them that
way. Only the reserved characters must be encoded: ``href_of`` encodes these and no others. Earlier releases, and many
tools, encode nothing, so ``names_in_href`` returns the text as written first, and the decoded text second.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

from hypersdk.text import MAX_NAME_BYTES

MAX_FOLDERS: Final = 8
"""Most folders in a name inside a package. Real ones have one or two."""

_RESERVED: Final = str.maketrans({char: f"%{ord(char):02X}" for char in "%?#:"})
"""``%`` begins an encoded byte, ``?`` a query, ``#`` a fragment; a colon in the first segment ends a scheme."""


def is_bare_name(name: str) -> bool:
    """Whether ``name`` can only mean a file in the folder it is looked up in, and can be shown on one line.

    No separator of any system, no ``.`` or ``..``, no control character, no lone surrogate, at most 255 bytes of UTF-8.
    """
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        return False
    if any(char < " " or char == "\x7f" or "\ud800" <= char <= "\udfff" for char in name):
        return False
    return len(name.encode()) <= MAX_NAME_BYTES


def is_inner_path(name: str) -> bool:
    """Whether ``name`` can only mean a file in the folder it is looked up in, or in folders below it: bare names
    between slashes."""
    parts = name.split("/")
    return len(parts) <= MAX_FOLDERS + 1 and all(is_bare_name(part) for part in parts)


def href_of(name: str) -> str:
    """The reference to the file ``name``, a bare name, beside the descriptor."""
    return name.translate(_RESERVED)


def names_in_href(href: str) -> tuple[str, ...]:
    """Returns names of files that ``href`` may mean, best first. All are inner paths; none when the reference leaves
    the folder.

    Decoding never adds folders: where it would, or the result is not a name, only the text as written is returned.
    """
    written = href
    while written.startswith("./"):
        written = written[2:]
    if not is_inner_path(written):
        return ()
    decoded = unquote(written)
    if decoded == written or not is_inner_path(decoded) or decoded.count("/") != written.count("/"):
        return (written,)
    return (written, decoded)
