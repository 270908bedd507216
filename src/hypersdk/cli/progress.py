"""The progress of a run, shown to fit the output.

::

    terminal    a display that redraws itself: the total, a bar per machine and per disk, rate, ETA, basis, bottleneck
    no terminal a line when a phase changes, and now and then one with the figures (logs of cron jobs and CI)
    --json      events of type "progress" and, of several machines, "total", at most two a second
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from hypersdk.cli.live import LiveDisplay
from hypersdk.cli.output import Output
from hypersdk.cli.terminal import displayed
from hypersdk.cli.total import MachinesTotal, Total, total_label, total_text
from hypersdk.model import ENDED, Basis, Bottleneck, DiskProgress, ExportProgress, Phase, event_object, waits_to_land
from hypersdk.model.eta import QueueProgress
from hypersdk.text import clean, count
from hypersdk.units import format_duration, format_rate, format_size

Observer = Callable[[Sequence[ExportProgress]], None]

JSON_INTERVAL_S: Final = 0.5
LOG_INTERVALS_S: Final = (2.0, 4.0, 8.0, 15.0)
"""Between lines with figures; the last one stays. A short run is seen to move, a long one does not fill the log."""
REDRAWS_A_SECOND: Final = 8
MAX_DISK_LINES: Final = 12
"""Disks shown one by one; of more, active ones are shown and the others counted."""
LEASE_WORTH_SHOWING_S: Final = 60.0

ACTIVE: Final = frozenset({Phase.TRANSFERRING, Phase.WAITING, Phase.VERIFYING})
STEPS: Final = frozenset({Phase.CONVERTING, Phase.LANDING, Phase.PROVING})
"""What follows the copy. How far it is in them is not known, so there is no bar."""
_STYLES: Final = {
    Phase.DONE: "green",
    Phase.FAILED: "red",
    Phase.CANCELLED: "yellow",
    Phase.WAITING: "yellow",
    Phase.PAUSED: "yellow",
}
BOTTLENECK_TEXT: Final = {
    Bottleneck.SOURCE: "waits for vSphere or the network",
    Bottleneck.TARGET: "waits for the target disk",
    Bottleneck.CPU: "waits for the CPU",
    Bottleneck.LIMIT: "limited by --bwlimit",
}


@contextmanager
def watching(
    output: Output,
    clock: Callable[[], float] = time.monotonic,
    *,
    brief: bool = False,
    disks: bool = True,
    total: Total | None = None,
) -> Iterator[Observer]:
    """Yields the observer to hand to an export. With ``brief`` the display is removed at the end, and a log gets lines
    only if it takes long.

    Without ``disks`` the display has one line for each machine. ``total`` is that of several machines, by default made
    from them.
    """
    total = total or MachinesTotal()
    if output.json_lines:
        yield JsonProgress(output, clock, total)
    elif output.live:
        display = LiveProgress(total, disks=disks)
        live = LiveDisplay(display, console=output.notes, refresh_per_second=REDRAWS_A_SECOND, transient=brief)
        with output.silent_keyboard(), live:
            yield display.update
    else:
        yield LogProgress(output, clock, total, phases=not brief)


class JsonProgress:
    """Events at a bounded rate; the last state of a machine is never left out. One that waits for its turn, to be
    copied or landed, has a single event: of 200 machines most do, for hours."""

    def __init__(self, output: Output, clock: Callable[[], float], total: Total) -> None:
        self._output = output
        self._clock = clock
        self._total = total
        self._last = -JSON_INTERVAL_S
        self._ended: set[int] = set()
        self._idle: dict[int, Phase] = {}

    def __call__(self, machines: Sequence[ExportProgress]) -> None:
        due = self._clock() - self._last >= JSON_INTERVAL_S
        for at, machine in enumerate(machines):
            ended, idle = machine.phase in ENDED, machine.phase is Phase.QUEUED or waits_to_land(machine)
            if at not in self._ended and (ended or (due and not (idle and self._idle.get(at) is machine.phase))):
                self._output.event("progress", event_object(machine))
                if idle:
                    self._idle[at] = machine.phase
            if ended:
                self._ended.add(at)
        total = self._total(machines)
        if due:
            self._last = self._clock()
            if len(machines) > 1:
                self._output.event("total", total.as_dict())


class LogProgress:
    """Plain lines for a log."""

    def __init__(self, output: Output, clock: Callable[[], float], total: Total, *, phases: bool = True) -> None:
        self._output = output
        self._clock = clock
        self._total = total
        self._tells_phases = phases
        self._phases: dict[int, Phase] = {}
        self._last = clock()
        self._lines = 0

    def __call__(self, machines: Sequence[ExportProgress]) -> None:
        interval = LOG_INTERVALS_S[min(self._lines, len(LOG_INTERVALS_S) - 1)]
        due = self._clock() - self._last >= interval
        for at, machine in enumerate(machines):
            changed = self._phases.get(at) is not machine.phase
            self._phases[at] = machine.phase
            moves = machine.phase in ACTIVE | STEPS and not waits_to_land(machine)
            if (changed and self._tells_phases) or (due and moves):
                self._output.note(log_line(machine))
        total = self._total(machines)
        if due:
            self._last = self._clock()
            self._lines += 1
            if len(machines) > 1:
                self._output.note(total_text(total))


def log_line(machine: ExportProgress) -> str:
    """One machine in one line of text."""
    head = f"{machine.machine}: {machine.phase}"
    if machine.phase is Phase.DONE:
        return f"{head}, {format_size(machine.wire_bytes)} in {format_duration(machine.elapsed_s)}"
    if machine.phase not in ACTIVE or not machine.wire_bytes or waits_to_land(machine):
        return ", ".join(part for part in (head, machine.note) if part)
    parts = [f"{head} {machine.fraction:.0%}", format_size(machine.wire_bytes)]
    if machine.rate_bytes_s is not None:
        parts.append(format_rate(machine.rate_bytes_s))
    if machine.eta_s is not None:
        parts.append(f"{format_duration(machine.eta_s)} left")
    return ", ".join(part for part in (*parts, _remark(machine)) if part)


class FolderProgress:
    """The progress of a folder whose files are read one after the other: receives the progress of each file, reports
    that of the folder.

    ``total_bytes`` is the size of all files, as far as it is known.
    """

    def __init__(
        self, name: str, total_bytes: int, observer: Observer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._total_bytes = total_bytes
        self._observer = observer
        self._clock = clock
        self._began = clock()
        self._before_bytes = 0
        self._file: DiskProgress | None = None

    def __call__(self, file: DiskProgress) -> None:
        before = self._file
        if before is not None and (file.label != before.label or file.wire_bytes < before.wire_bytes):
            self._before_bytes += before.wire_bytes
        self._file = file
        self._observer([self._whole(file)])

    def _whole(self, file: DiskProgress) -> ExportProgress:
        done, elapsed = self._before_bytes + file.wire_bytes, self._clock() - self._began
        rate = done / elapsed if elapsed > 0 and done else None
        return ExportProgress(
            machine=self._name,
            phase=Phase.VERIFYING,
            disks=(file,),
            wire_bytes=done,
            fraction=min(done / self._total_bytes, 1.0) if self._total_bytes else 1.0,
            rate_bytes_s=rate,
            eta_s=max(self._total_bytes - done, 0) / rate if rate else None,
            elapsed_s=elapsed,
        )


class LiveProgress:
    """A renderable that draws the newest state; ``update`` may be called from any thread."""

    def __init__(self, total: Total, *, disks: bool = True) -> None:
        self._disks = disks
        self._total = total
        self._shown: tuple[Sequence[ExportProgress], QueueProgress] = ((), QueueProgress())

    def update(self, machines: Sequence[ExportProgress]) -> None:
        """Sets the state for the next redraw."""
        self._shown = (machines, self._total(machines))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        machines, total = self._shown
        height = options.height or console.height
        yield from draw(machines, options.max_width, height, disks=self._disks, total=total)


def draw(
    machines: Sequence[ExportProgress],
    width: int,
    height: int,
    *,
    disks: bool = True,
    total: QueueProgress | None = None,
) -> Iterator[Text]:
    """The lines of the display, at most ``width`` cells wide and never more than fit on a screen of ``height`` lines.

    Machines that run get lines for their disks and remarks where there is room. Where not all fit, those that run stand
    first, and the machines that are not shown are counted.
    """
    room = max(height - 1, 1)  # the last line is the cursor's
    if len(machines) > 1:
        yield _total_line(total or MachinesTotal()(machines), machines, width)
        room -= 1
    running = sum(_rank(machine) == 0 for machine in machines)
    share = room // max(running, 1)
    blocks = []
    for machine in machines:
        # Of several machines, one with a single disk needs no line for it, and one that waits needs none at all.
        with_disks = disks and (len(machines) == 1 or (len(machine.disks) > 1 and machine.phase is not Phase.QUEUED))
        lines = max(share, 1) if _rank(machine) == 0 else 2
        blocks.append((machine, _machine_lines(machine, width, min(lines, room), disks=with_disks)))
    if sum(len(lines) for _, lines in blocks) <= room:
        yield from (line for _, lines in blocks for line in lines)
    else:
        yield from _first_blocks(blocks, room - 1, width)


Block: TypeAlias = tuple[ExportProgress, list[Text]]
"""A machine and its lines."""

_RANKS: Final = {Phase.FAILED: 1, Phase.PAUSED: 2, Phase.QUEUED: 2, Phase.CANCELLED: 3, Phase.DONE: 3}
"""What is shown first where not all machines fit: those that run (0), then what failed."""


def _rank(machine: ExportProgress) -> int:
    return 2 if waits_to_land(machine) else _RANKS.get(machine.phase, 0)


def _first_blocks(blocks: Sequence[Block], room: int, width: int) -> Iterator[Text]:
    """The most important blocks in ``room`` lines, and a line that counts the other machines."""
    hidden: list[ExportProgress] = []
    for machine, lines in sorted(blocks, key=lambda block: _rank(block[0])):
        shown = lines if len(lines) <= room else lines[:1] if room else []
        room -= len(shown)
        yield from shown
        hidden += [machine] if not shown else []
    phases = Counter(machine.phase.value for machine in hidden)
    if len(phases) == 1:
        yield _dim(f"  and {len(hidden)} more, {next(iter(phases))}", width)
    elif hidden:
        told = ", ".join(f"{number} {phase}" for phase, number in phases.items())
        yield _dim(f"  and {len(hidden)} more: {told}", width)


def _total_line(total: QueueProgress, machines: Sequence[ExportProgress], width: int) -> Text:
    received = sum(machine.wire_bytes for machine in machines)
    left = _left(total.eta_s, about=total.about)
    figures = Figures(total.fraction, received, total.rate_bytes_s, left)
    return _bar_line(Label(total_label(total)), figures, width, "bold")


def _after_copy(machine: ExportProgress) -> bool:
    """Whether the machine is in a step after its copy, or waits for one."""
    return machine.phase in STEPS or waits_to_land(machine)


def _step_line(machine: ExportProgress, width: int) -> Text:
    """What is done in the step, in the place of the bar."""
    style = _STYLES.get(machine.phase, "bold")
    so_far = f"  {format_duration(machine.elapsed_s)} so far"
    label_width = _label_width(width, len(Figures(0.0, 0, None, "").text(width)))
    line = Text.assemble(_label(machine.machine, machine.phase).text(label_width, style), " ", no_wrap=True)
    told = machine.note.removeprefix("waits ") if machine.phase is Phase.WAITING else machine.note  # "waiting waits"
    note = Text(displayed(clean(told, 200)), style="dim", no_wrap=True)
    note.truncate(max(width - line.cell_len - len(so_far), 1), overflow="ellipsis", pad=True)
    line = Text.assemble(line, note, so_far, no_wrap=True)
    line.truncate(width, overflow="crop")
    return line


def _machine_line(machine: ExportProgress, width: int) -> Text:
    when = f"took {format_duration(machine.elapsed_s)}" if machine.phase in ENDED else _left(machine.eta_s)
    rate = None if machine.phase in ENDED else machine.rate_bytes_s
    figures = Figures(machine.fraction, machine.wire_bytes, rate, when)
    label = _label(machine.machine, machine.phase)
    return _bar_line(label, figures, width, _STYLES.get(machine.phase, "bold"))


def _machine_lines(machine: ExportProgress, width: int, room: int, *, disks: bool) -> list[Text]:
    """A machine, with ``disks`` its disks, and what explains them, in ``room`` lines (at least one)."""
    if _after_copy(machine):
        return [_step_line(machine, width)]
    lines = [_machine_line(machine, width)]
    remarks = [_dim(f"  {remark}", width)] if room > 1 and (remark := _remark(machine)) else []
    if machine.phase not in ENDED and disks:
        lines += _disk_lines(machine.disks, width, min(room - 1 - len(remarks), MAX_DISK_LINES))
    return lines + remarks


def _disk_lines(disks: Sequence[DiskProgress], width: int, room: int) -> Iterator[Text]:
    """All disks if there is room, else the active ones and the number of the others."""
    shown = list(disks)
    if len(disks) > room:
        shown = [disk for disk in disks if disk.phase in ACTIVE][: max(room - 1, 0)]
    for disk in shown:
        active = disk.phase in ACTIVE
        figures = Figures(
            disk.fraction, disk.wire_bytes, disk.rate_bytes_s if active else None, _left(disk.eta_s if active else None)
        )
        label = _label(disk.label, disk.phase, indent="  ")
        yield _bar_line(label, figures, width, _STYLES.get(disk.phase, ""))
    if room > 0 and 0 < len(shown) < len(disks):
        yield _dim(f"  and {count(len(disks) - len(shown), 'more disk')}", width)


def _label(name: str, phase: Phase, indent: str = "") -> Label:
    """The name with its phase, except for transfers, which the bar shows."""
    return Label(indent + displayed(clean(name, 80)), "" if phase is Phase.TRANSFERRING else phase.value)


def _left(eta_s: float | None, *, about: bool = False) -> str:
    return "" if eta_s is None else f"{'~' if about else ''}{format_duration(eta_s)} left"


def _remark(machine: ExportProgress) -> str:
    """An explanation of the figures: basis of the percentage, bottleneck, reason of a wait, age of the lease."""
    moving = [disk for disk in machine.disks if disk.phase in ACTIVE]
    remarks = ["" if machine.phase is Phase.CANCELLED else machine.note, *_unique(disk.note for disk in moving)]
    if bases := _unique(_basis_text(disk.basis) for disk in moving):
        remarks.append("% " + ", ".join(bases))
    if machine.redone is not None:
        remarks.append(f"done again: {machine.redone:.0%} of {machine.fraction:.0%}")
    if again := sum(disk.again_bytes for disk in moving if disk.phase is not Phase.VERIFYING):
        remarks.append(f"{format_size(again)} of it is read again")
    remarks += _unique(BOTTLENECK_TEXT[disk.bottleneck] for disk in moving if disk.bottleneck)
    if retried := max((disk.attempt for disk in moving), default=1) - 1:
        remarks.append(f"retry {retried}")
    if machine.lease_age_s is not None and machine.lease_age_s >= LEASE_WORTH_SHOWING_S:
        remarks.append(f"lease open for {format_duration(machine.lease_age_s)}")
    return " · ".join(clean(remark, 200) for remark in _unique(remarks))


def _basis_text(basis: Basis) -> str:
    return f"by {basis.value}" if basis is Basis.POSITION else f"of the {basis.value}"


def _unique(texts: Any) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))


def _dim(text: str, width: int) -> Text:
    line = Text(displayed(text), style="dim", no_wrap=True)
    line.truncate(width, overflow="ellipsis")
    return line


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures after a bar."""

    fraction: float
    wire_bytes: int
    rate_bytes_s: float | None
    when: str

    def text(self, width: int) -> str:
        """The figures in columns of fixed width, so that all bars are aligned; without the bytes on a narrow
        terminal."""
        rate = "" if self.rate_bytes_s is None else format_rate(self.rate_bytes_s)
        size = f"{format_size(self.wire_bytes):>11}" if width >= 100 else ""
        return f"{min(self.fraction, 1.0):4.0%}{size}{rate:>13}{self.when:>15}"


MAX_LABEL: Final = 40
MIN_LABEL: Final = 18
GOOD_LABEL: Final = len("  Hard disk 10  verifying")
MIN_BAR: Final = 8
GOOD_BAR: Final = 20
MAX_BAR: Final = 80


@dataclass(frozen=True, slots=True)
class Label:
    """The text before a bar."""

    name: str
    phase: str = ""

    def text(self, width: int, style: str) -> Text:
        """Exactly ``width`` cells: the phase ends at the bar and stays whole; a name too long for the rest is cut."""
        phase = f"  {self.phase}" if self.phase else ""
        name = Text(self.name, style=style, no_wrap=True)
        name.truncate(max(width - len(phase), 1), overflow="ellipsis", pad=True)
        line = Text.assemble(name, (phase, style), no_wrap=True)
        line.truncate(width, overflow="ellipsis")
        return line


def _label_width(width: int, facts_width: int) -> int:
    room = width - facts_width - 2
    return min(max(room * 2 // 5, min(GOOD_LABEL, room - GOOD_BAR), MIN_LABEL), MAX_LABEL, max(room, 1))


def _bar_line(label: Label, figures: Figures, width: int, style: str) -> Text:
    """Label, bar and figures in exactly one line; on a narrow terminal the bar is left out first, then the figures."""
    facts = figures.text(width)
    label_width = _label_width(width, len(facts))
    bar_width = min(width - len(facts) - 2 - label_width, MAX_BAR)
    line = label.text(label_width, style)
    if bar_width >= MIN_BAR:
        line = Text.assemble(line, " ", bar(figures.fraction, bar_width, style))
    line = Text.assemble(line, " ", facts, no_wrap=True)
    line.truncate(width, overflow="crop")
    return line


_EIGHTHS: Final = " ▏▎▍▌▋▊▉"


def bar(fraction: float, width: int, style: str) -> Text:
    """A bar with a resolution of an eighth of a cell."""
    eighths = round(min(max(fraction, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    colour = style if style in ("green", "red", "yellow") else "cyan"
    filled = "█" * full + (_EIGHTHS[rest] if rest else "")
    return Text.assemble((filled, colour), ("░" * (width - len(filled)), "bright_black"))
