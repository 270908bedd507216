"""The picker over 10,000 machines: what the first list and each key cost, by the processor's clock, and what a person
waits at a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from textual.pilot import Pilot

from benchmarks.measure import Row
from hypersdk.cli.picker.app import Picked, PickerApp
from hypersdk.cli.picker.search import Index
from tests.support.cli.commandline import environment, terminal
from tests.support.cli.picker import KEYS, PROGRAM, SEQUENCES, drive
from tests.support.inventories import inventory
from tests.support.processes import processor_s

ROUNDS = 8
SIZES = ((80, 24), (200, 50))
KEY_MS = 50
"""What a person takes for at once."""


def pickers(folder: Path) -> Iterator[Row]:
    """Two sizes of screen without a terminal, and one terminal."""
    yield _search()
    for size in SIZES:
        yield from _headless(size)
    yield _at_terminal(folder)


def _search() -> Row:
    """The slowest of some queries, each of which looks at all machines or at what the one before found."""
    index = Index(inventory(10_000))
    times = []
    for query in ("p", "pw", "pweb", "esx17", "ubuntu", "zzz", "e", "eu web 9"):
        started = time.process_time()
        index.search(query)
        times.append(1000 * (time.process_time() - started))
    slowest = max(times)
    return Row("search over 10,000 machines, slowest query, processor", f"{slowest:.0f} ms", "", slowest, KEY_MS, " ms")


def _p95_ms(times: Sequence[float]) -> float:
    """``times`` are rounds of KEYS; the best round counts for each key."""
    best = sorted(min(times[at :: len(KEYS)]) for at in range(len(KEYS)))
    return 1000 * best[int(len(best) * 0.95)]


def _headless(size: tuple[int, int]) -> list[Row]:
    machines = inventory(10_000)
    first: list[float] = []
    times: list[float] = []
    began = time.process_time()

    async def driver(_app: PickerApp, pilot: Pilot[Picked | None]) -> None:
        first.append(time.process_time() - began)
        for key in KEYS * ROUNDS:
            started = time.process_time()
            await pilot.press(key)
            times.append(time.process_time() - started)

    drive(machines, driver, size=size)
    screen, key_ms = f"picker, 10,000 machines, {size[0]}x{size[1]}", _p95_ms(times)
    return [
        Row(f"{screen}: first list, processor", f"{first[0]:.2f} s", "", first[0], 1.0, " s"),
        Row(f"{screen}: a key to its repaint, processor, p95", f"{key_ms:.0f} ms", "", key_ms, KEY_MS, " ms"),
    ]


def _at_terminal(folder: Path) -> Row:
    env = environment(folder, PYTHONPATH=str(Path(__file__).parents[1]))
    waited: list[float] = []
    with terminal([sys.executable, "-c", PROGRAM], env, SIZES[1]) as screen:
        screen.wait_for("10,000 of 10,000")
        screen.settle(0.5)
        before = processor_s(screen.process.pid)
        for key in KEYS * ROUNDS:
            screen.shown = ""
            started = time.monotonic()
            screen.type(SEQUENCES.get(key, key))
            screen.wait_for("\x1b[")
            waited.append(screen.settle(0.06) - started)
        taken_ms = 1000 * (processor_s(screen.process.pid) - before) / len(waited)
        screen.type("\x03")
        screen.finish()
    text = f"{_p95_ms(waited):.0f} ms to the last byte (p95), {taken_ms:.0f} ms of processor"
    return Row("the same at a terminal: a key, processor", text, "", taken_ms, KEY_MS, " ms")
