"""How virt-v2v's qemu-nbd writes into the disks: without flushes.

A conversion writes temporary files into the guest, several times what stays, and trims them at its end. virt-v2v asks
for no flushes (it opens the disks with ``cache=unsafe``), but QEMU's NBD client passes them on. So qemu-nbd would sync
at each commit of the guest's journal, every 5 s, and all of that would reach the drive. A disk that is being converted
is of no use until it is complete, and is synced then.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hypersdk.guest.tools import QEMU_NBD, GuestTools

_SCRIPT: Final = """\
#!/bin/sh
case " $*" in
*' --cache'* | *' -n'*) exec {program} "$@" ;;
*) exec {program} --cache=unsafe "$@" ;;
esac
"""


def without_flushes(environment: Mapping[str, str], tools: GuestTools, folder: Path) -> dict[str, str]:
    """``environment`` with a ``qemu-nbd`` first on PATH that adds ``--cache=unsafe``, unless its caller chose a mode.
    It is written to ``folder``. Where no program may be started from there (``noexec``), the next one on PATH is, which
    flushes."""
    if (program := tools.paths.get(QEMU_NBD)) is None:
        return dict(environment)
    programs = folder / "programs"
    programs.mkdir(mode=0o700)
    script = programs / QEMU_NBD
    script.write_bytes(os.fsencode(_SCRIPT.format(program=shlex.quote(program))))
    script.chmod(0o700)
    return {**environment, "PATH": os.pathsep.join((str(programs), environment.get("PATH", os.defpath)))}
