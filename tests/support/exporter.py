"""Exports in this process, with settings that the command line does not offer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypersdk.migration.export import Outcome, export_machines
from hypersdk.migration.plan import make_plan
from hypersdk.migration.publish import ExportResult
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import ExportSpec
from hypersdk.model import ExportProgress
from hypersdk.simulator import Simulator
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.session import Session
from tests.support.vsphere import log_in_to


@dataclass(slots=True)
class Engine:
    """Plans and exports on one simulator, each export with its own login. ``seen`` collects the reported progress."""

    simulator: Simulator
    state: Path
    settings: dict[str, Any] = field(default_factory=dict)
    seen: list[ExportProgress] = field(default_factory=list)

    def log_in(self) -> Session:
        """A new login."""
        return log_in_to(self.simulator)

    def export(self, machine: str, folder: Path, *, cancel: CancelToken | None = None, **spec: Any) -> Outcome:
        """Exports one machine and checks that no thread is left."""
        return self.export_all([ExportSpec(machine=machine, output_dir=folder, **spec)], cancel=cancel)[0]

    def export_all(self, specs: Sequence[ExportSpec], *, cancel: CancelToken | None = None) -> list[Outcome]:
        """Exports several machines."""
        token = cancel or CancelToken()
        settings = RunSettings(state=self.state, progress_interval_s=0.05, **self.settings)
        before = set(threading.enumerate())
        with self.log_in() as session:
            plans = [make_plan(session, spec, cancel=token, min_free=settings.min_free) for spec in specs]
            outcomes = export_machines(session, plans, cancel=token, observer=self.seen.extend, settings=settings)
        left = [thread.name for thread in threading.enumerate() if _is_ours(thread) and thread not in before]
        assert left == [], "threads outlive their export"
        return outcomes

    @property
    def notes(self) -> list[str]:
        """All notes that a user could have seen, of machines and disks."""
        return [
            note for progress in self.seen for note in (progress.note, *(disk.note for disk in progress.disks)) if note
        ]


def _is_ours(thread: threading.Thread) -> bool:
    """Connections of the simulator live in this process too."""
    return not thread.name.startswith(("simulator", "Thread-", "process_request"))


def succeeded(outcome: Outcome) -> ExportResult:
    """The result of an export that must have worked."""
    assert outcome.error is None, (
        f"{outcome.error!r} {outcome.error.__cause__!r} {getattr(outcome.error, '__notes__', '')}"
    )
    assert outcome.result is not None
    return outcome.result


EngineFactory = Callable[..., Engine]
"""The fixture ``engine``."""
