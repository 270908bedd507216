"""What the parent of a daemon tells its API process of workers that do not stay alive or cannot work: a piece of memory
that both have, for there may be no disk to write it to, and no database."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from hypersdk.errors import register
from hypersdk.remedies import Configure

PROCESS_DIES: Final = register(
    "process_dies",
    "A process of the daemon exits repeatedly, each time soon after its start.",
    "Check the daemon's log; the code is that of the error that ends it, if it reported one.",
)
WORKER_ID_HELD: Final = register(
    "worker_id_held",
    "All worker identities of this state directory are in use by running processes.",
    "Stop the other daemon, or give this one a state directory of its own.",
    Configure("state_dir"),
)
VARIABLE: Final = "HYPERSDK_TROUBLES"
_SAID: Final = re.compile(rb"(ends|kept) ([a-z0-9_]{1,64})")
_SIZE: Final = 80


class Trouble(NamedTuple):
    """The code of what is wrong with a worker. ``ends``: it ends each time soon after its start; else it lives, and
    cannot do its work."""

    code: str
    ends: bool


class Troubles:
    """One trouble, or none. ``descriptor`` None: nobody tells."""

    def __init__(self, descriptor: int | None) -> None:
        self.descriptor: Final = descriptor

    @classmethod
    def make(cls) -> Troubles:
        """For the parent. Its processes inherit it, if they are started with ``environ``."""
        descriptor = os.memfd_create("troubles", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _SIZE)
        return cls(descriptor)

    @classmethod
    def inherited(cls, environ: Mapping[str, str]) -> Troubles:
        """For the API process; where it has no parent that tells, there are none."""
        text = environ.get(VARIABLE, "")
        return cls(int(text) if text.isascii() and text.isdigit() else None)

    def write(self, code: str | None, *, ends: bool = True) -> None:
        """What is so from now on."""
        if self.descriptor is not None:
            said = f"{'ends' if ends else 'kept'} {code}" if code else ""
            os.pwrite(self.descriptor, said.encode().ljust(_SIZE, b"\0")[:_SIZE], 0)

    def read(self) -> Trouble | None:
        """What is so now."""
        if self.descriptor is None:
            return None
        try:
            found = os.pread(self.descriptor, _SIZE, 0).rstrip(b"\0")
        except OSError:  # the variable came from elsewhere
            return None
        said = _SAID.fullmatch(found)
        return None if said is None else Trouble(said[2].decode(), said[1] == b"ends")


NO_TROUBLES: Final = Troubles(None)
