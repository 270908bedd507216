"""Estimates of the remaining time: of one copy, and of a queue of jobs. Pure: fed with samples, never looks at a clock.

The queue is estimated as it will run::

    slots   running job, left_s ──────────> next waiting job ──> ...
            running job, left_s ─> next waiting job ─> ...               the end of the last slot is that of the queue

    a waiting job takes   gap_s + fixed_s + wait for its turn + expected_bytes / rate

``rate`` is that of one job while it copies, and ``fixed_s`` what a job takes besides (login, lease, finish). Both are
measured: from the jobs that ended last and from those that run.

A job with a temporary snapshot keeps its slot while it waits for its turn: few snapshots may exist on a datastore at a
time. The turn comes when a job with a snapshot there ends, so many jobs of one datastore take as long as that
datastore allows, however many slots there are. Which datastores a job needs is known from its start on; waiting jobs
are taken to be like those that have started, one after the other.

A job of unknown size counts as the mean of the known ones, and the result says so (``about``). While nothing is known,
there is no estimate.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import accumulate, cycle
from statistics import fmean, median
from typing import Annotated, Any, Final

from hypersdk.model.progress import MAX_UNFINISHED_FRACTION, SNAPSHOTS_PER_DATASTORE
from hypersdk.resource import ListColumn, ListRecord, shown_fields
from hypersdk.units import MiB

MEMORY_S: Final = 60.0
"""A copy's speed is the mean over about this time: a short pause of the source does not show, a change of its rate does
within minutes."""
MOST_STEP_S: Final = 5.0
"""A copy that shows nothing new for this long is slow; for less, it is between two steps of what it counts."""
LEAST_COPY_S: Final = 1.0
"""Seconds of copying before a speed is derived from them."""
TRUST_S: Final = 30.0
"""After this time of copying, a job's own estimate counts as much as that from the other jobs."""
FEW_S: Final = 10.0
"""Seconds of copying: while the ended jobs have copied for less, running ones tell the rate almost as much."""
RECENT: Final = 12
"""Ended jobs, the last ones, that rate and fixed time are measured from."""
NEWER: Final = 0.8
"""Each of them counts so much less than the next one: the first jobs of a new worker take longer than others."""
LEAST_WINDOW_S: Final = 60.0
"""How far back the number of slots is looked for, at least."""
MOST_GAP_S: Final = 15.0
COPIED: Final = 0.99
"""From here on it is only published."""
LEAST_BYTES: Final = 1 * MiB
"""The weight of a job with less data: it is work, too."""


class Pace:
    """The speed of one copy, in shares of its work, as an average that forgets (``MEMORY_S``)."""

    def __init__(self, memory_s: float = MEMORY_S) -> None:
        self._memory_s = memory_s
        self._now: float | None = None
        self._parts: Mapping[Hashable, float] = {}
        self._done = self._time = self._step_s = 0.0
        self.copy_s = 0.0
        """Seconds in which something was copied."""

    def sample(self, now: float, parts: Mapping[Hashable, float], *, copying: bool) -> None:
        """``parts`` are what is done of each part of the work; a part that was not there before counts from its next
        sample on. Time counts while ``copying``."""
        if self._now is not None and copying and now > self._now:
            self.copy_s += now - self._now
            self._step_s += now - self._now
            self._step(self._moved(parts))
        self._now, self._parts = now, dict(parts)

    def _step(self, moved: float) -> None:
        """Time counts together with what was moved in it: between two steps nothing is slow."""
        if moved or self._step_s >= MOST_STEP_S:
            kept = math.exp(-self._step_s / self._memory_s)
            self._done, self._time = self._done * kept + moved, self._time * kept + self._step_s
            self._step_s = 0.0

    def _moved(self, parts: Mapping[Hashable, float]) -> float:
        return sum(max(0.0, done - self._parts[part]) for part, done in parts.items() if part in self._parts)

    def left_s(self, share: float) -> float | None:
        """Seconds for this share of the work; None until the speed is known."""
        if self.copy_s < LEAST_COPY_S or self._done <= 0:
            return None
        return max(0.0, share) * self._time / self._done


class Stage(StrEnum):
    """What a job of a queue does."""

    WAITING = "waiting"
    RUNNING = "running"
    BLOCKED = "blocked"  # has a slot, but nothing moves: it waits for space, or has stalled
    ASIDE = "aside"  # paused, or nobody can run it now: it is not part of the estimate
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


_ENDED: Final = frozenset({Stage.COMPLETED, Stage.FAILED, Stage.CANCELLED})
_TO_DO: Final = frozenset({Stage.RUNNING, Stage.BLOCKED, Stage.WAITING})


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """One job. ``fraction`` is what is shown, ``redone`` what is really done where that is less. ``slot_s``, ``copy_s``
    and ``turn_s`` are the seconds of its attempt, and those of them in which it copied, and in which it waited for its
    turn; for an ended job only where one attempt did all, else 0. ``eta_s`` is the job's own estimate.
    ``snapshots_on`` are the datastores on which it needs a turn; None while that is not known."""

    id: Hashable
    stage: Stage
    expected_bytes: int = 0
    fraction: float = 0.0
    redone: float | None = None
    slot_s: float = 0.0
    copy_s: float = 0.0
    turn_s: float = 0.0
    eta_s: float | None = None
    ended_at: float = 0.0
    rate_bytes_s: float | None = None
    reason: str = ""
    snapshots_on: tuple[str, ...] | None = None

    @property
    def real(self) -> float:
        """The fraction that is really done."""
        return self.fraction if self.redone is None else self.redone

    @property
    def fixed_s(self) -> float:
        """Seconds of its attempt in which it neither copied nor waited for its turn."""
        return max(0.0, self.slot_s - self.copy_s - self.turn_s)

    @property
    def copies(self) -> bool:
        """Whether it copies, or has copied: it has had its turn."""
        return self.stage is Stage.RUNNING and self.copy_s > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueProgress(ListRecord):
    """A queue as a whole, for server and client."""

    jobs: Annotated[
        int, ListColumn("Jobs of the queue: those that have not ended, and those before them since it was empty")
    ] = 0
    completed: int = 0
    failed: Annotated[int, ListColumn("Failed or cancelled")] = 0
    cancelled: Annotated[int, ListColumn("Those of them that were cancelled")] = 0
    running: int = 0
    waiting: int = 0
    aside: Annotated[
        int, ListColumn("Paused, or nobody can run them now: part of the percentage, and not of the remaining time")
    ] = 0
    added: Annotated[int, ListColumn("Jobs that were submitted after the first one of the queue had started")] = 0
    percent_complete: Annotated[
        float, ListColumn("By expected bytes; falls only when jobs are added. A job that ended counts whole", digits=1)
    ] = 0.0
    expected_bytes: Annotated[int, ListColumn("Unknown sizes count as the mean of the known ones")] = 0
    rate_bytes_s: Annotated[float | None, ListColumn(digits=1)] = None
    eta_s: Annotated[
        float | None,
        ListColumn(
            "Until the last job ends, waiting ones included; null while unknown or while nothing moves", digits=1
        ),
    ] = None
    about: Annotated[
        bool,
        ListColumn(
            "The remaining time is a rough estimate: no job has ended yet, sizes are unknown, or a job is blocked"
        ),
    ] = False
    reason: Annotated[str, ListColumn("What is waited for, while something is")] = ""
    open: Annotated[frozenset[Hashable], ListColumn(internal=True)] = frozenset()
    """Ids of the jobs that have not ended."""

    @property
    def ended(self) -> int:
        """Jobs that have ended, however."""
        return self.completed + self.failed

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        shown = {column.name: (getattr(self, column.name), column.column.digits) for column in shown_fields(type(self))}
        return {
            name: value if digits is None or value is None else round(value, digits)
            for name, (value, digits) in shown.items()
        }

    @property
    def open_jobs(self) -> int:
        """Jobs that have not ended."""
        return self.running + self.waiting + self.aside

    @property
    def fraction(self) -> float:
        """0 to 1."""
        return self.percent_complete / 100


def estimate(
    jobs: Sequence[QueuedJob], *, width: int = 1, gap_s: float = 0.0, snapshots: int = SNAPSHOTS_PER_DATASTORE
) -> QueueProgress:
    """The progress of ``jobs``, the waiting ones in the order in which they will start. ``width`` of them run at a
    time, and a slot is empty for ``gap_s`` between two; ``snapshots`` of them have a temporary snapshot on a datastore
    at a time. Without anybody to run them (``width`` 0) there is no ETA."""
    size = _Sizes.of(jobs)
    count = {stage: sum(job.stage is stage for job in jobs) for stage in Stage}
    done = sum(size.of_job(job) * _share(job) for job in jobs)
    whole = sum(size.of_job(job) for job in jobs)
    ended = all(job.stage in _ENDED for job in jobs)
    blocked = [job for job in jobs if job.stage is Stage.BLOCKED]
    waiting = [job for job in jobs if job.stage is Stage.WAITING]
    return QueueProgress(
        jobs=len(jobs),
        completed=count[Stage.COMPLETED],
        failed=count[Stage.FAILED] + count[Stage.CANCELLED],
        cancelled=count[Stage.CANCELLED],
        running=count[Stage.RUNNING] + count[Stage.BLOCKED],
        waiting=count[Stage.WAITING],
        aside=count[Stage.ASIDE],
        percent_complete=100.0 if ended else 100 * min(done / whole, MAX_UNFINISHED_FRACTION),
        expected_bytes=round(whole),
        rate_bytes_s=sum(job.rate_bytes_s or 0.0 for job in jobs if job.stage is Stage.RUNNING) or None,
        eta_s=_end(jobs, size, width, gap_s, snapshots),
        about=bool(blocked) or not any(map(_measured, jobs)) or any(not job.expected_bytes for job in waiting),
        reason=next((job.reason for job in blocked if job.reason), ""),
        open=frozenset(job.id for job in jobs if job.stage not in _ENDED),
    )


def never_falling(now: QueueProgress, before: QueueProgress | None) -> QueueProgress:
    """``now`` with a fraction that is not below ``before``, unless there is work that was not there before: a new job,
    or an ended one that was started again."""
    if before is None or not now.open or not now.open <= before.open:
        return now
    least = min(before.percent_complete, 100 * MAX_UNFINISHED_FRACTION)
    return replace(now, percent_complete=max(now.percent_complete, least))


def _measured(job: QueuedJob) -> bool:
    """Whether the job shows what one takes from its start to its end."""
    return job.stage is Stage.COMPLETED and job.slot_s > 0


def _share(job: QueuedJob) -> float:
    return 1.0 if job.stage in _ENDED else job.fraction


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Bytes of jobs. ``mean`` stands for those that are not known."""

    mean: float

    @classmethod
    def of(cls, jobs: Sequence[QueuedJob]) -> _Sizes:
        known = [job.expected_bytes for job in jobs if job.expected_bytes]
        return cls(sum(known) / len(known) if known else LEAST_BYTES)

    def of_job(self, job: QueuedJob) -> float:
        return max(job.expected_bytes or self.mean, LEAST_BYTES)


@dataclass(frozen=True, slots=True)
class _Cost:
    """What a job takes: ``fixed_s``, and its bytes at ``rate`` bytes a second; None while that is not known."""

    fixed_s: float
    rate: float | None

    @classmethod
    def measured(cls, jobs: Sequence[QueuedJob], size: _Sizes) -> _Cost | None:
        recent = sorted(filter(_measured, jobs), key=lambda job: -job.ended_at)[:RECENT]
        running = [job for job in jobs if job.stage is Stage.RUNNING]
        rate = _rate(recent, running, size)
        seen_bytes = max((size.of_job(job) for job in recent), default=0.0)
        if rate is None and any(size.of_job(job) > seen_bytes for job in jobs if job.stage in _TO_DO):
            return None  # small jobs that ended at once do not tell how long a large one takes
        moving = [job.fixed_s for job in running if job.copy_s > 0]
        # The mean, not the median: where fewer jobs can copy at a time than there are slots (streams of a host), a few
        # of them wait long, and that is what the queue as a whole waits for.
        return cls(_recent_mean([job.fixed_s for job in recent]) if recent else _mean(moving), rate)

    def copy_s(self, size_bytes: float) -> float:
        return size_bytes / self.rate if self.rate else 0.0


def _rate(recent: Sequence[QueuedJob], running: Sequence[QueuedJob], size: _Sizes) -> float | None:
    """Bytes a second of one job while it copies; None before enough was copied. A running job counts the more, the
    longer it copies: the source may have become faster or slower meanwhile. It counts whole while no others are known,
    and almost so while those that ended copied for a few seconds only."""
    moved = spent = 0.0
    known_s = sum(job.copy_s for job in recent)
    known = known_s / (known_s + FEW_S)
    for age, job in enumerate(recent):
        weight = NEWER**age
        moved, spent = moved + size.of_job(job) * weight, spent + job.copy_s * weight
    for job in running:
        if job.eta_s and job.real < 1:  # its own estimate knows the present speed
            weight_s = job.copy_s * (known * _trust(job) + 1 - known)
            moved += size.of_job(job) * (1 - job.real) / job.eta_s * weight_s
            spent += weight_s
    return moved / spent if spent >= LEAST_COPY_S else None


def _trust(job: QueuedJob) -> float:
    """How far its own estimate is right: 0 to 1."""
    return job.copy_s / (job.copy_s + TRUST_S)


def _middle(values: Sequence[float]) -> float:
    return max(0.0, median(values)) if values else 0.0


def _recent_mean(values: Sequence[float]) -> float:
    """The newest one is the first."""
    return fmean(values, [NEWER**age for age in range(len(values))])


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0


def _end(jobs: Sequence[QueuedJob], size: _Sizes, width: int, gap_s: float, snapshots: int) -> float | None:
    """Seconds until the last job has ended; None if that is not known."""
    at = {stage: [job for job in jobs if job.stage is stage] for stage in _TO_DO}
    running, blocked, waiting = at[Stage.RUNNING], at[Stage.BLOCKED], at[Stage.WAITING]
    cost = _Cost.measured(jobs, size)
    if not (running or waiting) or (blocked and not running) or cost is None or width <= 0:
        return None
    layout = _Layout(cost, size, gap_s, snapshots)
    layout.run(running)
    layout.go_on(blocked)
    layout.empty_slots(width - len(running) - len(blocked))
    layout.start(_with_datastores(waiting, jobs))
    return layout.end_s


def _with_datastores(waiting: Sequence[QueuedJob], jobs: Sequence[QueuedJob]) -> Iterator[QueuedJob]:
    """A job of which they are not known is taken to be like the next one of those of which they are."""
    known = cycle([job.snapshots_on for job in jobs if job.snapshots_on is not None] or [()])
    for job in waiting:
        yield replace(job, snapshots_on=next(known)) if job.snapshots_on is None else job


class _Layout:
    """The jobs of a queue as they will run. All times are seconds from now."""

    def __init__(self, cost: _Cost, size: _Sizes, gap_s: float, snapshots: int) -> None:
        self._cost = cost
        self._size = size
        self._gap_s = gap_s
        self._slots: list[float] = []
        """A heap: when each slot is free."""
        self._turns: dict[str, list[float]] = defaultdict(lambda: [0.0] * snapshots)
        """Heaps, by datastore: when each of its snapshots is removed."""

    @property
    def end_s(self) -> float:
        return max(self._slots)

    def run(self, running: Sequence[QueuedJob]) -> None:
        """Each in its slot. Those that copy have their turn, and of the others it comes first to who waits longest."""
        for job in sorted(running, key=lambda job: (not job.copies, -job.slot_s)):
            fixed_s, copy_s = _left_s(job, self._cost, self._size)
            heapq.heappush(self._slots, self._ended(job, 0.0, fixed_s, copy_s))

    def go_on(self, blocked: Sequence[QueuedJob]) -> None:
        """Each in its slot, when another job ends: of what it waits for (a stream, space) nothing else is known."""
        others = self._slots.copy()
        for job in blocked:
            end = others[0] + sum(_left_s(job, self._cost, self._size))
            heapq.heapreplace(others, end)
            heapq.heappush(self._slots, end)

    def empty_slots(self, count: int) -> None:
        for _ in range(count):
            heapq.heappush(self._slots, 0.0)

    def start(self, waiting: Iterable[QueuedJob]) -> None:
        """Each in the slot that is free first."""
        for job in waiting:
            copy_s = self._cost.copy_s(self._size.of_job(job))
            end = self._ended(job, self._slots[0] + self._gap_s, self._cost.fixed_s, copy_s)
            heapq.heapreplace(self._slots, end)

    def _ended(self, job: QueuedJob, at: float, fixed_s: float, copy_s: float) -> float:
        """Half of the fixed time is taken to be spent before the turn is needed, half of it while it is held: how it is
        divided is not measured. A job that has copied all needs no turn any more."""
        before_s = max(0.0, fixed_s - self._cost.fixed_s / 2)
        turns = [self._turns[name] for name in job.snapshots_on or () if job.real < COPIED]
        ready = at + before_s
        begin = ready if job.copies else max([ready, *(turn[0] for turn in turns)])
        end = begin + fixed_s - before_s + copy_s
        for turn in turns:
            heapq.heapreplace(turn, end)
        return end


def _left_s(job: QueuedJob, cost: _Cost, size: _Sizes) -> tuple[float, float]:
    """Of a job that has a slot: what remains of the fixed time is what it has not spent of it, and of the copy its own
    estimate counts the more, the longer it copies. A short copy shows its progress in few steps: it may be further than
    it says, and as far as others are after that time."""
    fixed_s = max(0.0, cost.fixed_s - job.fixed_s)
    whole_s = cost.copy_s(size.of_job(job))
    usual_s = min(whole_s * (1 - job.real), max(0.0, whole_s - job.copy_s))
    if job.eta_s is None:
        return fixed_s, usual_s
    own = _trust(job) if cost.rate else 1.0
    return fixed_s, own * job.eta_s + (1 - own) * usual_s


@dataclass(frozen=True, slots=True)
class Span:
    """The time of one attempt; ``ended_at`` is None while it runs. Of one that is ``lost``, as its worker died, nobody
    knows the end: it is None, or at the latest when the next attempt began."""

    started_at: float
    ended_at: float | None
    lost: bool = False


def slots_of(spans: Sequence[Span], now: float) -> tuple[int, float]:
    """How many jobs ran at a time, lately, and how long a slot is empty between two jobs: ``width`` and ``gap_s``."""
    known = [(span.started_at, now if span.ended_at is None else span.ended_at) for span in _dated(spans)]
    since = now - max(LEAST_WINDOW_S, 2 * _middle([end - start for start, end in known]))
    recent = [(max(start, since), end) for start, end in known if end >= since]
    changes = sorted([(end, -1) for _, end in recent] + [(start, 1) for start, _ in recent])
    widths = list(accumulate(change for _, change in changes))
    return max(widths, default=0), _middle(list(_gaps(spans)))


def _dated(spans: Sequence[Span]) -> Iterator[Span]:
    """Lost attempts end before the first of them is tried again: their worker died with all that it had."""
    again = sorted(span.ended_at for span in spans if span.lost and span.ended_at is not None)
    for span in spans:
        first = next((at for at in again if at > span.started_at), None) if span.lost else span.ended_at
        yield replace(span, ended_at=first)


def _gaps(spans: Sequence[Span]) -> Iterator[float]:
    """From the end of a job to the start of the next one in its slot. Longer ones are those of an empty queue; until
    lost jobs run again nobody takes jobs."""
    again = {span.ended_at for span in spans if span.lost}
    ends = sorted(span.ended_at for span in spans if span.ended_at is not None and not span.lost)
    for start in sorted(span.started_at for span in spans):
        if ends and ends[0] <= start:
            gap_s = start - ends.pop(0)
            if gap_s <= MOST_GAP_S and start not in again:
                yield gap_s
