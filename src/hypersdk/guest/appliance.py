"""libguestfs's appliance, the small virtual machine in which virt-v2v changes a guest: made of this host's kernel and
programs at the first use, then kept in libguestfs's cache."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hypersdk.guest.environment import environment
from hypersdk.guest.failures import failure
from hypersdk.guest.processgroup import private_folder, run_in_group
from hypersdk.guest.tools import GUESTFISH, GuestTools
from hypersdk.transfer.cancel import CancelToken

LIMIT_S: Final = 600.0
"""An emulated appliance that is made first takes half a minute on an idle host."""
_KERNELS: Final = ("boot/vmlinuz-*", "lib/modules/*/vmlinuz", "usr/lib/modules/*/vmlinuz")
_OTHERS: Final = ("SUPERMIN_KERNEL", "LIBGUESTFS_PATH")
"""Variables that name another kernel, or a finished appliance."""


def unreadable_kernels(environ: Mapping[str, str], root: Path = Path("/")) -> tuple[Path, ...]:
    """The kernels of this host, if this user may read none of them: Ubuntu lets only root. Empty where one is usable,
    and where the environment names another."""
    found = [path for pattern in _KERNELS for path in sorted(root.glob(pattern))]
    usable = any(name in environ for name in _OTHERS) or any(os.access(path, os.R_OK) for path in found)
    return () if usable else tuple(found)


def boot_appliance(
    tools: GuestTools, *, accelerated: bool, cancel: CancelToken, environ: Mapping[str, str] = os.environ
) -> float:
    """Makes the appliance where that is needed, and boots it without a disk; returns the seconds that it took.

    Raises Refused where guestfish is not installed, ConversionError where it fails, TimeoutError, Cancelled.
    """
    guestfish, began = tools.path(GUESTFISH), time.monotonic()
    with private_folder() as folder, private_folder() as logs:
        log = logs / "guestfish.log"
        status = run_in_group(
            lambda _lines: [guestfish, "-a", os.devnull, "run"],
            folder=folder,
            environment=environment(tools, folder, accelerated=accelerated, environ=environ),
            log=log,
            cancel=cancel,
            limit_s=LIMIT_S,
        )
        if status != 0:
            raise failure((), log, status)
    return time.monotonic() - began
