"""Ctrl-C, SIGTERM and SIGHUP, as real signals to a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hypersdk.cli.signals import EXPORT

pytestmark = pytest.mark.waits

WORKER = """
import sys, os, time
import hypersdk.cli.app as app
import click
from hypersdk.cli import signals
from hypersdk.cli.options import output_options
from hypersdk.cli.state import pass_cli
from hypersdk.errors import Cancelled

@click.command("list")
@output_options
@pass_cli
def work(cli):
    cli.begin(getattr(signals, os.environ.get("BEGUN", "NOTHING")))
    print("working", flush=True)
    try:
        cli.cancel.sleep(60)
    except Cancelled:
        print("stopping", flush=True)
        for _ in range(int(sys.argv[1]) * 10):  # putting the source back takes a while
            time.sleep(0.1)
        raise

app.RootGroup.get_command = lambda *_: work
sys.exit(app.program.main(["list", *sys.argv[2:]], sys.stdout, sys.stderr, sys.stdin, os.environ))
"""


def start(*arguments: str, begun: str = "EXPORT", ignored: bool = False) -> subprocess.Popen[str]:
    """``ignored``: SIGHUP is, as by nohup."""
    through = ["bash", "-c", f'trap "{"" if ignored else "-"}" HUP; exec "$@"', "-"]
    process = subprocess.Popen(
        [*through, sys.executable, "-c", WORKER, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "BEGUN": begun},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_stops_in_order(number: signal.Signals, status: int) -> None:
    with start("0") as process:
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert EXPORT.stopping[:20] in err
    assert "--resume" in err


def test_nothing_is_said_of_resuming_where_nothing_was_begun() -> None:
    with start("0", begun="NOTHING") as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopping." in err.splitlines()
    assert "Nothing was changed" in err
    assert "--resume" not in err


def test_json_tells_of_the_signal_and_nothing_else() -> None:
    with start("0", "--json") as process:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert '"code":"cancelled"' in out
    assert '"exit_status":143' in out
    assert err == ""


def interrupted_twice(process: subprocess.Popen[str]) -> str:
    """What it tells then."""
    assert process.stdout is not None
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "stopping\n"
    process.send_signal(signal.SIGINT)
    told = ""
    while "by force." not in told:
        told += process.stderr.readline().replace("\n", " ")
    return told


def test_the_second_says_what_would_be_lost_and_the_third_forces(tmp_path: Path) -> None:
    with start("30") as process:
        told = interrupted_twice(process)
        assert "hyper2kvm cleanup" in told
        assert process.poll() is None
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert time.monotonic() - began < 10
    assert "by force" in EXPORT.warning


def test_a_landing_tells_of_the_target() -> None:
    with start("30", begun="LANDING") as process:
        told = interrupted_twice(process)
        process.kill()
    first, _, second = told.partition("Still stopping.")
    assert "Changes at the target and at the source are undone" in first
    assert "what was changed at the target" in second


def test_a_terminal_that_goes_away_stops_in_order_once() -> None:
    """The kernel and the shell send SIGHUP each for themselves: that is no wish to end by force."""
    with start("1") as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "stopping\n"
        for _ in range(3):
            process.send_signal(signal.SIGHUP)
            time.sleep(0.1)  # else they are one
        _, err = process.communicate(timeout=60)
    assert process.returncode == 129
    assert "--resume" in err
    assert "by force" not in err


def test_a_terminal_that_goes_away_ends_nothing_under_nohup() -> None:
    with start("0", ignored=True) as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "the terminal went away" not in err
