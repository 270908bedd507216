"""Settings and resources that all machines of one run share. Created once per process."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hypersdk.config.folders import state_folder
from hypersdk.migration.preflight import DEFAULT_MIN_FREE, MinFreeSpace
from hypersdk.migration.register import Register
from hypersdk.migration.runfile import FolderRuns, RunStore
from hypersdk.model import SNAPSHOTS_PER_DATASTORE
from hypersdk.transfer.budget import PER_HOST, PER_VCENTER, StreamBudget
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.folder import Locate, locate
from hypersdk.transfer.limit import BandwidthLimit
from hypersdk.transfer.space import SpaceGate, SpaceLedger
from hypersdk.transfer.turns import Turns


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """Limits of a run. ``None`` for ``bandwidth_limit`` (bytes/s over all streams) is no limit.

    ``streams_per_host`` stays below what the NFC buffers of one ESXi host allow, ``streams_per_vcenter`` below the
    about 52 connections that go through a vCenter. ``space_wait_s`` is how long to wait while a file system is full,
    ``stall_timeout_s`` how long a stream may be silent before it is retried. ``guard`` is called before every write to
    an image, and raises where this process may no longer write. ``attempt_suffix`` (like ``.7``) is used where a
    process that was declared dead still holds the folder's lock: it may be stopped, not dead, so its partial files are
    not touched. Without one, a locked folder is an error. ``locate`` returns the folder that a path leads to.
    ``registers`` are state directories in addition to ``state`` whose registers list the runs of this process.
    """

    max_machines: int = 4
    streams_per_host: int = PER_HOST
    streams_per_vcenter: int = PER_VCENTER
    bandwidth_limit: int | None = None
    space_wait_s: float = 600.0
    stall_timeout_s: float = 60.0
    shutdown_timeout_s: float = 300.0
    snapshot_watch_s: float = 30.0
    progress_interval_s: float = 0.25
    min_free: MinFreeSpace = DEFAULT_MIN_FREE
    state: Path = field(default_factory=lambda: state_folder(os.environ))
    registers: tuple[Path, ...] = ()
    runs: RunStore | None = None
    guard: Callable[[], None] | None = None
    attempt_suffix: str | None = None
    locate: Locate = locate

    @property
    def run_store(self) -> RunStore:
        """Where run records are stored: ``runs``, else the output folders, with pointers in ``state``."""
        return self.runs or FolderRuns(self.state)

    @property
    def register(self) -> Register:
        """The register of active runs on this host."""
        return Register.of(self.state, *self.registers)


class RunResources:
    """The resources for ``RunSettings``: one per process (in a daemon, one per site), used by the exports of all
    machines."""

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self.budget = StreamBudget(settings.streams_per_host, settings.streams_per_vcenter)
        self.limit = BandwidthLimit(settings.bandwidth_limit) if settings.bandwidth_limit else None
        self.space = SpaceLedger()
        self._slots: dict[str, Turns] = {}
        self._lock = threading.Lock()

    def for_site(self, budget: StreamBudget) -> RunResources:
        """The same bandwidth and free space, with a site's own streams and snapshots."""
        other = copy.copy(self)
        other.budget = budget
        other._slots = {}
        return other

    def with_settings(self, settings: RunSettings) -> RunResources:
        """The same budgets, limits and reservations for a run with settings of its own."""
        other = copy.copy(self)
        other.settings = settings
        return other

    def space_gate(self, folder: Path) -> SpaceGate:
        """Waits for free space on the file system of ``folder``."""
        return SpaceGate(folder, max_wait_s=self.settings.space_wait_s)

    @contextmanager
    def snapshot_slots(
        self, datastores: Sequence[str], cancel: CancelToken, note: Callable[[str], None]
    ) -> Iterator[None]:
        """Waits until another snapshot may be created on each of ``datastores``, in the order of those who wait;
        ``note`` is told of a wait."""
        with ExitStack() as stack:
            # Always in the same order, to avoid a deadlock between two machines.
            for name in sorted(set(datastores)):
                with self._lock:
                    slots = self._slots.setdefault(name, Turns(SNAPSHOTS_PER_DATASTORE))
                text = f"waits for its turn: {SNAPSHOTS_PER_DATASTORE} temporary snapshots exist on '{name}'"
                stack.enter_context(slots.taken(cancel, partial(note, text)))
            yield
