"""Runs programs and says what they took: wall-clock time, CPU time and peak memory of the process itself, medians,
ratios."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Self

TIMEOUT_S = 900
NOT_FOR_CHILDREN = frozenset({"PYTHONDONTWRITEBYTECODE"})
"""With it every start compiles all modules again, which no installed program does."""
CACHE = tempfile.TemporaryDirectory(prefix="hypersdk-bench-cache-")
"""Of the programs that are measured: the names of simulated machines do not belong into the user's completion."""


@dataclass(frozen=True, slots=True)
class Took:
    """One run of a program, or of several: seconds by the clock, seconds of CPU (user and system), of them in the
    system, and the largest resident set of a process in bytes."""

    seconds: float
    cpu_s: float
    system_s: float
    peak_bytes: float

    def __add__(self, other: Took) -> Took:
        """Both, one after the other."""
        return Took(
            self.seconds + other.seconds,
            self.cpu_s + other.cpu_s,
            self.system_s + other.system_s,
            max(self.peak_bytes, other.peak_bytes),
        )

    @classmethod
    def median(cls, runs: Sequence[Self]) -> Self:
        """The median of each value."""
        return cls(*(statistics.median(values) for values in zip(*map(astuple, runs), strict=True)))


def say(text: str) -> None:
    """Says on standard error what is done now; the table goes to standard output."""
    print(f"==> {text}", file=sys.stderr, flush=True)


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    sync: Path | None = None,
    cwd: Path | None = None,
) -> Took:
    """Runs ``command`` to its end; ``sync`` is a folder whose file system is synced within the time. Stops the
    benchmark when it fails."""
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_FOR_CHILDREN}
    inherited["XDG_CACHE_HOME"] = CACHE.name
    started = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**inherited, **(env or {})}, cwd=cwd
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
    return Took(time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_stime, usage.ru_maxrss * 1024)


def rounds(count: int, sides: Mapping[str, Callable[[], Took]]) -> list[Took]:
    """Runs all sides ``count`` times, in turn, so that whatever else the machine does strikes all; the median of
    each, in their order."""
    taken: dict[str, list[Took]] = {name: [] for name in sides}
    for number in range(count):
        for name, side in sides.items():
            say(f"run {number + 1} of {count}: {name}")
            taken[name].append(side())
    return [Took.median(runs) for runs in taken.values()]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``ours`` and ``theirs`` are what was measured, ``goal`` what it should not pass, ``cpu``
    the CPU seconds of both sides."""

    what: str
    ours: str
    theirs: str
    result: float
    goal: float | None
    unit: str = ""
    cpu: str = ""

    @classmethod
    def ratio(cls, what: str, ours: Took, theirs: Took, goal: float) -> Row:
        """Two times as a ratio: below 1 is faster than the peer."""
        return cls(
            what,
            f"{ours.seconds:.2f} s",
            f"{theirs.seconds:.2f} s",
            ours.seconds / theirs.seconds,
            goal,
            cpu=_cpu(ours, theirs),
        )

    @classmethod
    def difference(cls, what: str, ours: Took, theirs: Took, goal_s: float) -> Row:
        """How many seconds more than the peer."""
        more_s = ours.seconds - theirs.seconds
        return cls(
            what,
            f"{ours.seconds:.2f} s",
            f"{theirs.seconds:.2f} s",
            more_s,
            goal_s,
            " s more",
            cpu=_cpu(ours, theirs),
        )

    @classmethod
    def rate(cls, what: str, ours: float, theirs: float) -> Row:
        """Two rates a second as a ratio: above 1 is faster than the peer. There is no goal."""
        return cls(what, f"{ours:.0f}/s", f"{theirs:.0f}/s", ours / theirs, None)

    @classmethod
    def latency(cls, what: str, taken_s: Sequence[float], goal_ms: float) -> Row:
        """The 99th percentile of sorted times, in milliseconds; the median is beside it."""
        p50, p99 = (1000 * taken_s[int(len(taken_s) * share)] for share in (0.5, 0.99))
        return cls(what, f"p50 {p50:.1f} ms, p99 {p99:.1f} ms", "", p99, goal_ms, " ms")

    def line(self) -> str:
        """In Markdown, with the columns of ``HEAD``."""
        return _line((self.what, self.ours, self.theirs, *self._judged(), self.cpu))

    def _judged(self) -> tuple[str, str, str]:
        if self.goal is None:
            return f"{self.result:.2f}{self.unit}", "", ""
        digits = 3 if self.goal < 0.2 else 2 if self.goal < 10 else 0
        verdict = "met" if self.result <= self.goal else "missed"
        return f"{self.result:.{digits}f}{self.unit}", f"<= {self.goal:g}{self.unit}", verdict


def _cpu(ours: Took, theirs: Took) -> str:
    """CPU seconds: of a busy machine they say more than times by the clock."""
    return f"{ours.cpu_s:.1f} s ({ours.system_s:.1f}); {theirs.cpu_s:.1f} s ({theirs.system_s:.1f})"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


_COLUMNS = ("measurement", "HyperSDK", "peer", "ratio or value", "goal", "", "CPU of both (of it system)")
HEAD = _line(_COLUMNS) + "\n" + _line(["---"] * len(_COLUMNS))
"""The first two lines of the table."""
