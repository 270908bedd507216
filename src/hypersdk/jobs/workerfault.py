"""A worker's fault, passed from the supervisor to the API process: in memory that both share, since a fault may be that
neither a file nor the database can be written."""

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
    "Stop the daemon that uses it, or use another state directory.",
    Configure("state_dir"),
)
VARIABLE: Final = "HYPERSDK_WORKER_FAULT"
"""Environment variable with the number of the shared descriptor."""
_CONTENT: Final = re.compile(rb"(exits|blocked) ([a-z0-9_]{1,64})\0*")
_SIZE: Final = 80


class WorkerFault(NamedTuple):
    """The code of a worker's error. ``exits``: the worker exits soon after each start; otherwise it runs and cannot
    work."""

    code: str
    exits: bool


class SharedFault:
    """The current fault of the workers, if any. Without a descriptor there never is one."""

    def __init__(self, descriptor: int | None) -> None:
        self.descriptor: Final = descriptor

    @classmethod
    def make(cls) -> SharedFault:
        """For the supervisor. A child process inherits it by its descriptor, named in ``VARIABLE``."""
        descriptor = os.memfd_create("worker-fault", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _SIZE)
        return cls(descriptor)

    @classmethod
    def inherited(cls, environ: Mapping[str, str]) -> SharedFault:
        """For the API process."""
        text = environ.get(VARIABLE, "")
        return cls(int(text) if text.isascii() and text.isdigit() else None)

    def write(self, fault: WorkerFault | None) -> None:
        """Replaces the fault."""
        if self.descriptor is not None:
            text = "" if fault is None else f"{'exits' if fault.exits else 'blocked'} {fault.code}"
            os.pwrite(self.descriptor, text.encode().ljust(_SIZE, b"\0")[:_SIZE], 0)

    def read(self) -> WorkerFault | None:
        """The current fault."""
        if self.descriptor is None:
            return None
        try:
            content = _CONTENT.fullmatch(os.pread(self.descriptor, _SIZE, 0))
        except OSError:  # the variable came from elsewhere
            return None
        return None if content is None else WorkerFault(content[2].decode(), content[1] == b"exits")
