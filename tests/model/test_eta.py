"""The estimates of remaining time, against queues that run on a simulated clock."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.model.eta import Pace, QueuedJob, QueueProgress, Span, Stage, estimate, never_falling, slots_of
from hypersdk.model.progress import SNAPSHOTS_PER_DATASTORE
from hypersdk.units import GiB, KiB, MiB
from tests.support.seeds import examples


@dataclass
class Machine:
    """A job on the simulated clock: ``before_s`` of login and lease, a wait for its turn if it needs a snapshot on
    ``store``, its bytes, ``after_s`` until it is published."""

    name: str
    size: int
    before_s: float
    after_s: float
    tick_s: float
    store: str = ""
    known: bool = False
    """Whether its datastore is known from the start on, as where one command has planned all exports."""
    stage: Stage = Stage.WAITING
    slot_s: float = 0.0
    turn_s: float = 0.0
    has_turn: bool = False
    copied: float = 0.0
    shown: float = 0.0
    attempts: int = 0
    ended_at: float = 0.0
    pace: Pace = field(default_factory=Pace)

    def begin(self) -> None:
        """A new attempt, which copies everything again."""
        self.stage, self.slot_s, self.copied, self.pace = Stage.RUNNING, 0.0, 0.0, Pace()
        self.turn_s, self.has_turn, self.known = 0.0, False, True
        self.attempts += 1

    def run(self, now: float, rate: float) -> None:
        copying = self.has_turn and self.copied < self.size
        self.slot_s += self.tick_s
        if copying:
            self.copied = min(self.size, self.copied + rate * self.tick_s)
        elif self.copied >= self.size:
            self.after_s -= self.tick_s
        self.pace.sample(now, {0: self.copied / self.size}, copying=copying)
        self.shown = max(self.shown, min(self.copied / self.size, 0.99))
        if self.copied >= self.size and self.after_s <= 0:
            self.stage, self.ended_at = Stage.COMPLETED, now

    def job(self) -> QueuedJob:
        real = min(self.copied / self.size, 0.99)
        whole = self.stage is Stage.RUNNING or self.attempts == 1
        return QueuedJob(
            self.name,
            self.stage,
            self.size,
            self.shown,
            real if real < self.shown else None,
            slot_s=self.slot_s if whole else 0.0,
            copy_s=self.pace.copy_s if whole else 0.0,
            turn_s=self.turn_s if whole else 0.0,
            eta_s=self.pace.left_s(1 - real) if 0 < self.copied < self.size else None,
            ended_at=self.ended_at,
            snapshots_on=tuple(filter(None, [self.store])) if self.known else None,
        )


@dataclass
class Queue:
    """``width`` slots, a source that sends ``rate`` bytes a second to each, unsteadily."""

    machines: list[Machine]
    width: int
    rate: float
    gap_s: float
    tick_s: float
    random: random.Random
    dies_at: int = -1
    """The worker dies when so many jobs have ended: all that run begin again."""
    died_s: float = 0.0
    now: float = 0.0
    slots: list[float] = field(default_factory=list)

    def run(self) -> Iterator[QueueProgress]:
        self.slots = [0.0] * self.width
        while any(machine.stage is not Stage.COMPLETED for machine in self.machines):
            self._fill()
            self._take_turns()
            self.now += self.tick_s
            for machine in self._running:
                machine.run(self.now, self.rate * self._unsteady())
                if machine.stage is Stage.COMPLETED:
                    self.slots.append(self.now + self.gap_s)
            self._die()
            yield self.estimate()

    def estimate(self) -> QueueProgress:
        return estimate([machine.job() for machine in self.machines], width=self.width, gap_s=self.gap_s)

    @property
    def _running(self) -> list[Machine]:
        return [machine for machine in self.machines if machine.stage is Stage.RUNNING]

    def _unsteady(self) -> float:
        """A longer time evens out more."""
        return 1 + self.random.choice((-0.4, -0.1, 0.0, 0.1, 0.4)) * math.sqrt(0.5 / self.tick_s)

    def _fill(self) -> None:
        for machine in self.machines:
            free = min(self.slots, default=float("inf"))
            if machine.stage is Stage.WAITING and free <= self.now:
                self.slots.remove(free)
                machine.begin()

    def _take_turns(self) -> None:
        """Those that are prepared, in any order."""
        ready = [machine for machine in self._running if not machine.has_turn and machine.slot_s >= machine.before_s]
        for machine in self.random.sample(ready, len(ready)):
            others = sum(other.has_turn and other.store == machine.store for other in self._running)
            machine.has_turn = not machine.store or others < SNAPSHOTS_PER_DATASTORE
            machine.turn_s += 0.0 if machine.has_turn else self.tick_s

    def _die(self) -> None:
        ended = sum(machine.stage is Stage.COMPLETED for machine in self.machines)
        if ended == self.dies_at:
            self.dies_at, self.died_s = -1, self.now
            for machine in self._running:
                machine.begin()


@st.composite
def queues(draw: st.DrawFn, *, death: bool = False, stores: Sequence[str] = ("",), known: bool = False) -> Queue:
    """Machine by machine, one of ``stores`` after the other; in any order where they are ``known``."""
    count = draw(st.integers(20, 40))
    width = draw(st.integers(1, 3) if stores == ("",) else st.integers(2, 8))
    rate = draw(st.sampled_from([5 * MiB, 100 * MiB]))
    copy_s = draw(st.sampled_from([4.0, 30.0, 120.0]))
    fixed_s = draw(st.sampled_from([0.5, 3.0, 10.0]))
    gap_s = draw(st.sampled_from([0.0, 1.0]))
    chance = random.Random(draw(st.integers(0, 2**32)))
    tick_s = max(0.5, (copy_s + fixed_s) / 20)
    after_s = fixed_s / 2 if stores == ("",) else fixed_s  # with turns, the estimate takes half of it to be before them
    machines = [
        Machine(f"web-{number}", round(copy_s * rate * chance.uniform(0.3, 2.0)), fixed_s, after_s, tick_s, store)
        for number, store in zip(range(count), cycle(stores), strict=False)
    ]
    if known:
        chance.shuffle(machines)
    for machine in machines:
        machine.known = known
    dies_at = draw(st.integers(1, count // 3)) if death else -1
    return Queue(machines, width, rate, gap_s, tick_s, chance, dies_at)


@examples(15)
@given(queues())
def test_the_eta_of_any_queue_is_within_a_quarter_from_the_first_tenth_on(queue: Queue) -> None:
    """And from the first job on that ends: before, the ETA says that it is about."""
    _assert_near(queue, list(queue.run()))


@examples(15)
@given(queues(death=True))
def test_the_percentage_never_falls_and_the_eta_stays_right_through_a_workers_death(queue: Queue) -> None:
    """From the death on: nobody can foresee it."""
    seen: list[QueueProgress] = []
    for progress in queue.run():
        seen.append(never_falling(progress, seen[-1] if seen else None))
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert fractions[-2] < 1
    _assert_near(queue, seen)


DATASTORES = st.lists(st.sampled_from(["", "nvme-1", "nvme-2"]), min_size=1, max_size=4).map(tuple)


@examples(15)
@given(st.data(), DATASTORES, st.booleans())
def test_jobs_that_wait_for_their_turn_on_a_datastore_make_the_queue_as_slow_as_it_is(
    data: st.DataObject, stores: tuple[str, ...], death: bool
) -> None:
    """Two snapshots on each, however many slots there are: all on one datastore, some, or on several."""
    queue = data.draw(queues(death=death, stores=stores, known=True))
    _assert_near(queue, list(queue.run()), slack_s=_largest_s(queue))  # who is next, also in the end, chance decides


@examples(15)
@given(st.data(), DATASTORES)
def test_the_datastores_of_waiting_jobs_are_guessed_from_those_that_have_started(
    data: st.DataObject, stores: tuple[str, ...]
) -> None:
    """They may differ by one job in the end."""
    queue = data.draw(queues(stores=stores))
    _assert_near(queue, list(queue.run()), slack_s=_largest_s(queue))


def _largest_s(queue: Queue) -> float:
    """What the longest job takes."""
    return max(machine.before_s + machine.size / queue.rate + machine.after_s for machine in queue.machines)


def _assert_near(queue: Queue, seen: list[QueueProgress], *, slack_s: float = 0.0) -> None:
    """From the first tenth on, and once a job has ended, and after the death of a worker."""
    whole_s = len(seen) * queue.tick_s
    died = round(queue.died_s / queue.tick_s)
    start = max(died, len(seen) // 10, next(at for at, progress in enumerate(seen) if not progress.about))
    for at in range(start, len(seen) - 1):
        left_s = whole_s - (at + 1) * queue.tick_s
        eta_s = seen[at].eta_s
        assert eta_s is not None
        error_s = abs(eta_s - left_s)
        allowed_s = max(0.25 * left_s, 5 * queue.tick_s) + queue.tick_s  # the clock knows a moment to a tick
        assert error_s <= allowed_s + slack_s, (at / len(seen), eta_s, left_s)


def test_all_jobs_count_not_those_that_run() -> None:
    """27 equal machines, two at a time, of which 11 are done: the ETA is that of the other 16."""
    done = [QueuedJob(n, Stage.COMPLETED, GiB, 1.0, slot_s=13, copy_s=10, ended_at=n) for n in range(11)]
    running = [QueuedJob(n, Stage.RUNNING, GiB, 0.5, slot_s=7, copy_s=5, eta_s=5.0) for n in (11, 12)]
    waiting = [QueuedJob(n, Stage.WAITING, GiB) for n in range(13, 27)]
    now = estimate([*done, *running, *waiting], width=2, gap_s=1.0)
    assert (now.jobs, now.completed, now.running, now.waiting) == (27, 11, 2, 14)
    assert now.fraction == pytest.approx(12 / 27)
    assert now.eta_s == pytest.approx(1 + 5 + 7 * 14)
    assert not now.about
    assert estimate([*running, *waiting], width=2).about, "no job has ended"


def test_unknown_sizes_are_the_mean_of_known_ones_and_said_to_be_about() -> None:
    running = QueuedJob(0, Stage.RUNNING, 3 * GiB, 0.5, slot_s=12, copy_s=10, eta_s=10.0)
    now = estimate([running, QueuedJob(1, Stage.WAITING, 1 * GiB), QueuedJob(2, Stage.WAITING)])
    assert now.about
    assert now.expected_bytes == 6 * GiB
    assert now.eta_s == pytest.approx(10 + (2 + 20 / 3) + (2 + 40 / 3))


def test_nothing_is_invented() -> None:
    waiting = [QueuedJob(n, Stage.WAITING, GiB) for n in range(3)]
    assert estimate(waiting).eta_s is None
    login = QueuedJob(9, Stage.RUNNING, GiB, slot_s=4)
    assert estimate([login, *waiting]).eta_s is None
    copying = replace(login, copy_s=5, eta_s=20.0, fraction=0.2)
    assert estimate([copying, *waiting]).eta_s is not None
    assert estimate([copying, *waiting], width=0).eta_s is None, "nobody runs them"
    assert estimate([]).eta_s is None


def test_a_queue_that_waits_for_space_has_no_eta_and_says_what_it_waits_for() -> None:
    done = QueuedJob(0, Stage.COMPLETED, GiB, 1.0, slot_s=10, copy_s=9)
    full = QueuedJob(1, Stage.BLOCKED, GiB, 0.4, slot_s=9, copy_s=8, reason="/srv is full: waiting for free space")
    waiting = QueuedJob(2, Stage.WAITING, GiB)
    now = estimate([done, full, waiting])
    assert (now.eta_s, now.rate_bytes_s) == (None, None)
    assert now.reason == "/srv is full: waiting for free space"
    other = QueuedJob(3, Stage.RUNNING, GiB, 0.5, slot_s=5, copy_s=4, eta_s=4.0, rate_bytes_s=9.0)
    both = estimate([done, full, other, waiting], width=2)
    assert both.eta_s == pytest.approx(14, abs=1)
    assert (both.about, both.rate_bytes_s) == (True, 9.0)


def test_jobs_that_wait_for_a_stream_go_on_when_others_end() -> None:
    running = QueuedJob(1, Stage.RUNNING, GiB, 0.5, slot_s=10, copy_s=10, eta_s=10.0)
    blocked = [QueuedJob(n, Stage.BLOCKED, GiB, slot_s=10) for n in (2, 3)]
    assert estimate([running, *blocked], width=3).eta_s == pytest.approx(10 + 20 + 20)


def test_a_step_of_progress_is_not_slow_before_it_is_made() -> None:
    """4 % every four seconds."""
    pace = Pace()
    for second in range(11):
        pace.sample(second, {"disk": second // 4 * 0.04}, copying=True)
    assert pace.left_s(1.0) == pytest.approx(100)
    for second in range(11, 60):
        pace.sample(second, {"disk": 0.08}, copying=True)
    assert (pace.left_s(1.0) or 0) > 500, "nothing comes"


def test_what_is_paused_is_no_part_of_the_eta() -> None:
    running = QueuedJob(1, Stage.RUNNING, GiB, 0.5, slot_s=10, copy_s=9, eta_s=9.0)
    paused = QueuedJob(2, Stage.ASIDE, 100 * GiB, 0.1)
    now = estimate([running, paused])
    assert now.eta_s == pytest.approx(9)
    assert now.fraction == pytest.approx((0.5 + 10) / 101)
    assert estimate([paused]).eta_s is None


def test_added_work_lowers_the_percentage_and_nothing_else_does() -> None:
    small, large = QueuedJob(1, Stage.COMPLETED, GiB, 1.0), QueuedJob(2, Stage.WAITING)
    before = estimate([small, large])
    grown = never_falling(estimate([small, replace(large, expected_bytes=9 * GiB)]), before)
    assert (before.fraction, grown.fraction) == (0.5, 0.5), "its size became known"
    added = estimate([small, large, QueuedJob(3, Stage.WAITING)])
    assert never_falling(added, before).fraction == pytest.approx(1 / 3)
    retried = estimate([replace(small, stage=Stage.WAITING, fraction=0.0), large])
    assert never_falling(retried, before).fraction == 0.0
    ended = estimate([small, replace(large, stage=Stage.FAILED)])
    assert (ended.fraction, ended.ended, ended.failed) == (1.0, 2, 1)


def test_a_copys_speed_follows_the_source_without_leaping() -> None:
    pace, now, done = Pace(), 0.0, 0.0
    for second in range(400):
        now, done = now + 1, done + (0.001 if second < 120 else 0.002)
        pace.sample(now, {"disk": done}, copying=True)
        left_s = pace.left_s(1 - done)
        if second == 119:
            assert left_s == pytest.approx((1 - done) / 0.001)
        if second == 121:
            assert (left_s or 0) > 0.8 * (1 - done) / 0.001
    assert left_s == pytest.approx((1 - done) / 0.002, rel=0.05)


def test_time_that_is_not_spent_copying_and_what_an_earlier_run_did_are_no_speed() -> None:
    pace = Pace()
    pace.sample(0, {}, copying=False)
    pace.sample(60, {"a": 0.0}, copying=False)
    pace.sample(70, {"a": 0.1, "resumed": 0.5}, copying=True)
    assert pace.copy_s == 10
    assert pace.left_s(0.4) == pytest.approx(40)
    assert Pace().left_s(0.5) is None


def test_slots_are_those_that_were_used_and_their_gap_is_measured() -> None:
    """Two slots, two seconds between two jobs; the worker died at 30 and the next one began at 50."""
    ended = [Span(0, 10), Span(0, 14), Span(12, 22), Span(16, 26)]
    lost = [Span(24, 50, lost=True), Span(28, 53, lost=True)]
    assert slots_of([*ended, *lost, Span(50, None)], 51) == (2, 2)
    assert slots_of([*ended, *lost, Span(50, None), Span(53, None)], 60) == (2, 2)
    assert slots_of([Span(0, 10), Span(0, 20, lost=True), Span(20, None)], 21) == (2, 0), "its worker died"
    assert slots_of([], 60) == (0, 0)
    assert slots_of([Span(0, 10), Span(500, None)], 505) == (1, 0), "the queue was empty in between"


@pytest.mark.parametrize("stage", [Stage.RUNNING, Stage.WAITING])
def test_small_jobs_that_ended_at_once_do_not_tell_how_long_a_large_one_takes(stage: Stage) -> None:
    small = QueuedJob(0, Stage.COMPLETED, 64 * KiB, 1.0, slot_s=0.9, copy_s=0.1, ended_at=1)
    other = replace(small, id=1, stage=stage, fraction=0.0, slot_s=0.0, copy_s=0.0, ended_at=0)
    large = replace(other, expected_bytes=GiB)
    assert estimate([small, large]).eta_s is None, "not 0.8 s"
    assert estimate([small, other]).eta_s == pytest.approx(0.8), "that of another small one is known"
    assert estimate([small, replace(small, expected_bytes=GiB, copy_s=10, slot_s=11), large]).eta_s is not None
