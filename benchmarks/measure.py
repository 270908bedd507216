"""Runs programs and says what they took: wall-clock time and peak memory of the process itself, medians, ratios."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class Took:
    """One run of a program: seconds, and the largest resident set of its process in bytes."""

    seconds: float
    peak_bytes: int


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    sync: Path | None = None,
    cwd: Path | None = None,
) -> Took:
    """Runs ``command`` to its end; ``sync`` is a folder whose file system is synced within the time. Stops the
    benchmark when it fails."""
    started = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, **(env or {})}, cwd=cwd
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.stderr.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        words = " ".join(str(word) for word in command)
        sys.exit(f"{words}: exit status {process.returncode}\n{said.decode(errors='replace')}")
    if sync is not None:
        subprocess.run(["sync", "-f", sync], check=True, timeout=TIMEOUT_S)
    return Took(time.monotonic() - started, usage.ru_maxrss * 1024)


def rounds(count: int, *sides: Callable[[], float]) -> list[float]:
    """Runs all sides ``count`` times, in turn, so that whatever else the machine does strikes all; the median of
    each."""
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(count):
        for times, side in zip(taken, sides, strict=True):
            times.append(side())
    return [statistics.median(times) for times in taken]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``ours`` and ``theirs`` are what was measured, ``goal`` what it should not pass."""

    what: str
    ours: str
    theirs: str
    result: float
    goal: float | None
    unit: str = ""

    @classmethod
    def ratio(cls, what: str, ours_s: float, theirs_s: float, goal: float) -> Row:
        """Two times as a ratio: below 1 is faster than the peer."""
        return cls(what, f"{ours_s:.2f} s", f"{theirs_s:.2f} s", ours_s / theirs_s, goal)

    @classmethod
    def rate(cls, what: str, ours: float, theirs: float) -> Row:
        """Two rates a second as a ratio: above 1 is faster than the peer. There is no goal."""
        return cls(what, f"{ours:.0f}/s", f"{theirs:.0f}/s", ours / theirs, None)

    @classmethod
    def latency(cls, what: str, taken_s: Sequence[float], goal_ms: float) -> Row:
        """The 99th percentile of sorted times, in milliseconds; the median is beside it."""
        p50, p99 = (1000 * taken_s[int(len(taken_s) * share)] for share in (0.5, 0.99))
        return cls(what, f"p50 {p50:.1f} ms, p99 {p99:.1f} ms", "", p99, goal_ms, " ms")

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of ``HEAD``."""
        if self.goal is None:
            return (self.what, self.ours, self.theirs, f"{self.result:.2f}{self.unit}", "", "")
        digits = 3 if self.goal < 0.2 else 2 if self.goal < 10 else 0
        verdict = "met" if self.result <= self.goal else "missed"
        return (
            self.what,
            self.ours,
            self.theirs,
            f"{self.result:.{digits}f}{self.unit}",
            f"<= {self.goal:g}{self.unit}",
            verdict,
        )


HEAD = ("measurement", "HyperSDK", "peer", "ratio or value", "goal", "")


def table(rows: Sequence[Row]) -> str:
    """Markdown, as the README has it."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    return "\n".join([*lines, *("| " + " | ".join(row.cells()) + " |" for row in rows)])
