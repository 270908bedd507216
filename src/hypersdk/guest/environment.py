"""The environment in which virt-v2v and guestfish run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hypersdk.guest.tools import GuestTools

_KEPT: Final = ("PATH", "HOME", "USER", "LOGNAME", "LD_LIBRARY_PATH", "SUPERMIN_KERNEL", "SUPERMIN_MODULES")
_KEPT_PREFIX: Final = ("LIBGUESTFS_", "GUESTFISH_")
BACKEND_SETTINGS: Final = "LIBGUESTFS_BACKEND_SETTINGS"
FORCE_TCG: Final = "force_tcg"
_SHARED_CACHE: Final = "/var/tmp"  # noqa: S108 - libguestfs makes a private folder in it


def environment(
    tools: GuestTools, folder: Path, *, accelerated: bool, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """What the programs need and nothing else: secrets of this process stay here. Texts are English, as they are
    read.

    Temporary files and sockets go to ``folder``; the appliance (80 MB, made in 5-10 s) stays in the cache that all runs
    of this user share. ``norandmaps`` halves the time of software emulation: with address randomization every exec
    translates shared pages anew.
    """
    kept = {name: value for name, value in environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIX)}
    found = {
        **kept,
        "LC_ALL": "C.UTF-8",
        "LIBGUESTFS_BACKEND": "direct",
        "LIBGUESTFS_CACHEDIR": environ.get("LIBGUESTFS_CACHEDIR", _SHARED_CACHE),
        "XDG_RUNTIME_DIR": str(folder),
    }
    if tools.virtio_win is not None:
        found["VIRTIO_WIN"] = str(tools.virtio_win)
    if tools.virt_tools is not None:
        found["VIRT_TOOLS_DATA_DIR"] = str(tools.virt_tools)
    found.pop(BACKEND_SETTINGS, None)
    if not accelerated:
        found[BACKEND_SETTINGS] = FORCE_TCG
        found["LIBGUESTFS_APPEND"] = _joined(environ.get("LIBGUESTFS_APPEND"), "norandmaps")
    return found


def _joined(given: str | None, word: str) -> str:
    words = (given or "").split()
    return " ".join(words if word in words else [*words, word])
