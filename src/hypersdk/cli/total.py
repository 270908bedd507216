"""The progress of several machines as one: how many are done, the percentage and the remaining time of all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias

from hypersdk.errors import HyperSDKError
from hypersdk.model import ExportProgress, Phase, waits_for, waits_to_land
from hypersdk.model.eta import QueuedJob, QueueProgress, Stage, estimate, never_falling
from hypersdk.text import clean
from hypersdk.units import format_duration, format_rate

if TYPE_CHECKING:
    from hypersdk.client import Client

Total: TypeAlias = Callable[[Sequence[ExportProgress]], QueueProgress]
"""Given the machines, returns their progress as a whole."""
ASK_EVERY_S: Final = 2.0
_STAGES: Final = {
    Phase.QUEUED: Stage.WAITING,
    Phase.WAITING: Stage.BLOCKED,
    Phase.PAUSED: Stage.ASIDE,
    Phase.CANCELLING: Stage.ASIDE,
    Phase.DONE: Stage.COMPLETED,
    Phase.FAILED: Stage.FAILED,
    Phase.CANCELLED: Stage.CANCELLED,
}
"""Of the phases in which a machine does not run."""


class MachinesTotal:
    """The total of machines that this process knows: it is fed with their progress, and its percentage never falls.
    Once the run is ``stopped`` nothing is left to wait for: machines that wait for their turn will not get it. Not
    ``timed``, it has no remaining time: steps follow the copies, and how long they take is not known."""

    def __init__(self, stopped: Callable[[], bool] = lambda: False, *, timed: bool = True) -> None:
        self._stopped = stopped
        self._timed = timed
        self._width = 1
        self._ended: dict[int, int] = {}
        self._latest: QueueProgress | None = None

    def __call__(self, machines: Sequence[ExportProgress]) -> QueueProgress:
        jobs = [self._job(at, machine) for at, machine in enumerate(machines)]
        self._width = max(self._width, sum(job.stage in (Stage.RUNNING, Stage.BLOCKED) for job in jobs))
        self._latest = never_falling(estimate(jobs, width=self._width), self._latest)
        if self._stopped():
            return replace(self._latest, rate_bytes_s=None, eta_s=None)
        return self._latest if self._timed else replace(self._latest, eta_s=None)

    def _job(self, at: int, machine: ExportProgress) -> QueuedJob:
        stage = Stage.BLOCKED if machine.stalled else _STAGES.get(machine.phase, Stage.RUNNING)
        if waits_to_land(machine):
            stage = Stage.RUNNING  # nothing keeps the copies of the others
        if stage is Stage.COMPLETED:
            self._ended.setdefault(at, len(self._ended))
        return QueuedJob(
            at,
            stage,
            expected_bytes=machine.expected_bytes,
            fraction=machine.fraction,
            redone=machine.redone,
            slot_s=machine.elapsed_s,
            copy_s=machine.copy_s,
            turn_s=machine.turn_s,
            eta_s=machine.eta_s,
            ended_at=self._ended.get(at, 0),
            rate_bytes_s=machine.rate_bytes_s,
            reason=machine.stalled or waits_for(machine),
            snapshots_on=machine.snapshots_on or (None if machine.phase is Phase.QUEUED else ()),
        )


class DaemonTotal:
    """The daemon's whole queue, asked for every two seconds. While the daemon restarts it stays as it was; an older
    daemon has none: then it is the total of the machines that are shown."""

    def __init__(self, client: Client, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._own = MachinesTotal()
        self._asked_at = -ASK_EVERY_S
        self._latest: QueueProgress | None = None

    def __call__(self, machines: Sequence[ExportProgress]) -> QueueProgress:
        own = self._own(machines)
        if self._clock() - self._asked_at >= ASK_EVERY_S or not own.open_jobs:
            self._asked_at = self._clock()
            with suppress(HyperSDKError):  # whoever follows the jobs is told when the daemon cannot be reached
                self._latest = self._client.queue()
        return self._latest or own


def total_label(total: QueueProgress) -> str:
    """``11 of 27 done, 2 failed, 1 stopped``."""
    return ", ".join(_counts(total))


def _counts(total: QueueProgress) -> Iterator[str]:
    yield f"{total.completed} of {total.jobs} done" + (f" ({total.added} added)" if total.added else "")
    if failed := total.failed - total.cancelled:
        yield f"{failed} failed"
    if total.cancelled:
        yield f"{total.cancelled} stopped"
    if total.aside:
        yield f"{total.aside} set aside"


def total_text(total: QueueProgress) -> str:
    """One line: counts, percentage, rate and remaining time, or what is waited for."""
    parts = [*_counts(total), f"{total.fraction:.0%}"]
    if total.rate_bytes_s is not None:
        parts.append(format_rate(total.rate_bytes_s))
    if total.eta_s is not None:
        parts.append(f"{'about ' if total.about else ''}{format_duration(total.eta_s)} left")
    if total.reason:
        parts.append(clean(total.reason, 200))
    return ", ".join(parts)
