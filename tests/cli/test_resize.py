"""Screens whose size changes while they are shown: nothing of what stood there before stays."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hypersdk.cli.live import Remains
from hypersdk.simulator import DiskSpec
from hypersdk.units import MiB
from tests.support.apiserver import Api
from tests.support.cli.commandline import environment, program
from tests.support.cli.hyperctl import hyperctl_of
from tests.support.cli.screen import Screen
from tests.support.cli.shell import login, small
from tests.support.simulator import SimulatorFactory

pytestmark = pytest.mark.waits

SIZES = ((60, 20), (200, 50), (80, 24), (120, 16), (61, 45), (200, 17), (80, 40), (120, 30))
SLOW = DiskSpec(capacity_bytes=64 * MiB, allocated_bytes=64 * MiB)
Open = Callable[..., Screen]


@pytest.fixture
def open_screen() -> Iterator[Open]:
    opened: list[Screen] = []
    with tempfile.TemporaryDirectory() as sockets:  # not below tmp_path: a socket's path is at most 107 bytes

        def start(*given: object) -> Screen:
            opened.append(Screen(Path(sockets) / str(len(opened)), *given))  # type: ignore[arg-type]
            return opened[-1]

        yield start
        for screen in opened:
            screen.close()


def clean_frame(lines: list[str], size: tuple[int, int], names: list[str]) -> bool:
    """Whether the screen shows one frame of the progress and nothing of another one: the total once, each machine at
    most once, and below it the number of the others."""
    totals = [at for at, line in enumerate(lines) if re.match(r"\d+ of \d+ done", line)]
    if len(totals) != 1:
        return False
    frame = [line for line in lines[totals[0] + 1 :] if line]
    told = [line.split()[0] for line in frame if not line.startswith(" ")]
    more = sum(int(found[1]) for line in frame if (found := re.match(r"  and (\d+) more\b", line)))
    return set(told) <= set(names) and len(told) == len(set(told)) and len(told) + more == len(names)


@pytest.mark.slow
def test_the_progress_of_an_export_survives_resizes(
    simulator: SimulatorFactory, open_screen: Open, tmp_path: Path
) -> None:
    names = [f"shop-{number:02d}" for number in range(24)]
    server = simulator(machines=tuple(small(name, disks=(SLOW, SLOW)) for name in names), rate_bytes_s=MiB // 4)
    env = environment(tmp_path, **{key: value for key, value in login(server, tmp_path).items() if key != "HOME"})
    screen = open_screen(
        env, (120, 30), program("export", *names, "-o", str(tmp_path / "o"), "--yes", "--max-machines", "3")
    )
    screen.wait_for("0 of 24 done")
    screen.wait_for("queued")
    for size in SIZES:
        screen.resize(*size)
        lines = screen.settled(lambda lines, size=size: clean_frame(lines, size, names))  # type: ignore[misc]
        first = next(at for at, line in enumerate(lines) if "done" in line)
        frame = [line for line in lines[first:] if line]
        assert any(line.startswith("shop-00") for line in frame), "what runs is shown"
        assert len(frame) >= min(size[1] - 1, 1 + len(names)), "the height is used"
    screen.type("C-c")
    screen.wait_for("ended with 130")


@pytest.mark.slow
def test_watch_survives_resizes_and_shows_running_jobs_first(api: Api, open_screen: Open, tmp_path: Path) -> None:
    jobs = [api.add_job(name=f"job-{number:02d}") for number in range(40)]
    claims = api.claims()
    assert claims.claim(jobs[30].id, jobs[30].attempt) is not None
    ctl = hyperctl_of(api, tmp_path / "home")
    command = [program()[0], "-m", "hypersdk.cli.hyperctl.main", "watch"]
    env = environment(tmp_path, **{key: value for key, value in ctl.env.items() if key != "HOME"})
    screen = open_screen(env, (80, 24), command)
    screen.wait_for("0 of 40 done")
    names = [job.name for job in jobs]
    for size in SIZES:
        screen.resize(*size)
        lines = screen.settled(lambda lines, size=size: clean_frame(lines, size, names))  # type: ignore[misc]
        frame = [line for line in lines if line]
        assert frame[1].startswith("job-30"), "what runs stands first"
        assert len(frame) == min(size[1] - 1, 41), "the height is used"
    screen.type("C-c")
    screen.wait_for("ended with 130")


def constant(lines: list[str]) -> list[str]:
    """The screen without the free space, which others change, and what stands behind it, which it moves."""
    return [re.sub(r"[\d.]+ ([KMGTP]i)?B free.*", "free", line) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("form", [False, True])
def test_the_picker_looks_as_if_it_had_always_had_its_size(
    simulator: SimulatorFactory, open_screen: Open, tmp_path: Path, form: bool
) -> None:
    server = simulator(machines=(small("Büro"), small("監視サーバー" * 3)), vms=60)
    env = environment(tmp_path, **{key: value for key, value in login(server, tmp_path).items() if key != "HOME"})

    def opened(size: tuple[int, int]) -> Screen:
        screen = open_screen(env, size)
        screen.wait_for("62 of 62")
        if form:
            screen.type("Enter")
            screen.wait_for("Compression")
        return screen

    resized = opened((100, 30))
    for size in SIZES[:5]:
        fresh = opened(size)
        resized.resize(*size)
        resized.settled(lambda lines, fresh=fresh: constant(lines) == constant(fresh.lines))  # type: ignore[misc]
        fresh.close()


SPINNER = """
import os, sys, time
from hypersdk.cli.output import Output
output = Output(sys.stdout, sys.stderr, os.environ, json_lines=False, stdin_is_tty=True)
with output.working("Connecting to " + "a-long-name." * 8 + "example.com ..."):
    time.sleep(600)
"""


@pytest.mark.slow
def test_the_spinner_survives_resizes(open_screen: Open, tmp_path: Path) -> None:
    screen = open_screen(environment(tmp_path), (120, 20), [program()[0], "-c", SPINNER])
    screen.wait_for("Connecting")
    letters = re.sub(r"\W", "", f"Connecting to {'a-long-name.' * 8}example.com ...")
    for columns in (60, 200, 70, 61, 130):
        screen.resize(columns, 20)
        lines = screen.settled(lambda lines: re.sub(r"\W", "", "".join(lines)) == letters)
        assert all(len(line) <= columns for line in lines)


def test_rows_that_a_resize_moved_are_known() -> None:
    remains = Remains()
    assert remains.rows_above([], 80, 24) == 0
    assert remains.rows_above([80, 10, 0], 80, 24) == 0
    assert remains.rows_above([80, 10, 0], 40, 24) == 1, "the first line was wrapped"
    assert remains.rows_above([40] * 20, 40, 24) == 0
    assert remains.rows_above([40] * 20, 40, 10) == 0, "ten rows scrolled away"
    assert remains.rows_above([40] * 9, 40, 24) == 10, "and came back"
    assert remains.rows_above([40] * 9, 40, 24) == 0
