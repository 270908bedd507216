"""Completion of jobs, files, states and contexts, within bounded time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.apiserver import Api
from tests.support.cli.hyperctl import Hyperctl
from tests.support.finishedjob import NAME, finished

UUID = "0b9c3f5e-8a41-4d27-9c1b-6f2e7d5a3480"
NEVER_S = 120.0
"""A completion that takes so long would take forever."""
PATIENT = (
    "import hypersdk.cli.hyperctl.completing as completing; completing.ANSWER_S = 100.0;"
    " from hypersdk.cli.hyperctl.main import run; run()"
)
"""For tests of what is offered: a loaded machine answers late."""


def complete(
    ctl: Hyperctl, *words: str, shell: str = "zsh", program: tuple[str, ...] = ("-c", PATIENT)
) -> list[tuple[str, str]]:
    """The words that a shell is offered for the last one, with their descriptions."""
    line = " ".join(["hyperctl", *(word.replace(" ", "\\ ") for word in words)])
    env = ctl.env | {
        "PATH": os.environ["PATH"],
        "_HYPERCTL_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, *program],
        capture_output=True,
        text=True,
        env=env,
        timeout=NEVER_S,
        check=False,
    )
    assert done.stderr == ""
    if shell != "zsh":
        return [(line.partition(",")[2], "") for line in done.stdout.splitlines()]
    fields = done.stdout.splitlines()
    return list(zip(fields[1::3], fields[2::3], strict=True))


def words(ctl: Hyperctl, *line: str) -> list[str]:
    """Without the descriptions."""
    return [word for word, _ in complete(ctl, *line)]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Each run is a new process, which a loaded machine starts slowly; what is offered in time is not the question."""
    if "hang" not in request.node.name:
        monkeypatch.setenv("HYPERSDK_COMPLETION_S", "")


def test_jobs_are_offered_by_name_or_by_id(api: Api, ctl: Hyperctl) -> None:
    api.add_job(id=UUID, name="web01")
    again = [api.add_job(name="nightly").id for _ in range(2)]
    assert complete(ctl, "get", "we") == [("web01", f"pending, {UUID}")]
    assert complete(ctl, "get", UUID[:5]) == [(UUID, "pending, web01")]
    assert set(words(ctl, "explain", "")) == {"web01", *again}
    assert words(ctl, "logs", "", "x") == []
    assert set(words(ctl, "pause", "web01", "")) == set(again)  # one that is there is not offered again


def test_a_command_offers_the_jobs_that_it_is_for(api: Api, ctl: Hyperctl) -> None:
    api.add_job(name="waits")
    paused, over = api.add_job(name="rests").id, api.add_job(name="over").id
    api.services.jobs.pause(paused)
    api.services.jobs.cancel(over)
    for command, expected in (
        ("cancel", {"waits", "rests"}),
        ("resume", {"rests"}),
        ("retry", {"over"}),
        ("delete", {"over"}),
        ("watch", {"waits", "rests"}),
        ("get", {"waits", "rests", "over"}),
    ):
        assert set(words(ctl, command, "")) == expected, command


def test_files_states_and_contexts_are_offered(api: Api, ctl: Hyperctl) -> None:
    job = finished(api, b"x")
    assert words(ctl, "artifacts", "") == [job.name]
    assert set(words(ctl, "artifacts", job.id, "")) == {NAME, "artifact-manifest.json"}
    assert words(ctl, "query", "--status", "c") == ["completed", "cancelled", "cancelling"]
    assert words(ctl, "cancel", "--status", "failed,pa") == ["failed,paused", "failed,pausing"]
    ctl.ok("contexts", "add", "site-a", "https://hypervisord.example.com")
    assert complete(ctl, "contexts", "use", "s") == [("site-a", "https://hypervisord.example.com")]
    assert words(ctl, "--context", "site") == ["site-a"]


def test_hostile_names_are_one_line_and_no_flag(api: Api, ctl: Hyperctl) -> None:
    one = api.add_job(name="--all").id
    two, three = (api.add_job(name="evil\x1b[2J\nplain\nrm -rf").id for _ in range(2))
    found = dict(complete(ctl, "cancel", ""))
    assert set(found) == {one, two, three}
    assert found[two] == "pending, evil\\x1b[2J\\nplain\\nrm -rf"


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_other_shells_are_offered_the_same(api: Api, ctl: Hyperctl, shell: str) -> None:
    api.add_job(name="web01")
    line = ("get", "we")
    if shell == "fish":
        env = {"COMP_WORDS": "hyperctl get we", "COMP_CWORD": "we"}
        done = subprocess.run(
            [sys.executable, "-c", PATIENT],
            capture_output=True,
            text=True,
            env=ctl.env | env | {"_HYPERCTL_COMPLETE": "fish_complete"},
            timeout=NEVER_S,
            check=True,
        )
        assert done.stdout.startswith("plain,web01\tpending, ")
    else:
        assert complete(ctl, *line, shell=shell) == [("web01", "")]


@contextmanager
def dripping() -> Iterator[str]:
    """A server whose answer never ends: a byte now and then, so that no timeout between two bytes applies."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def serve() -> None:
            with suppress(OSError):
                while not stop.is_set():
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                        while not stop.wait(0.2):
                            connection.sendall(b" ")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            stop.set()
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_daemon_that_hangs_does_not_hold_up_the_shell(tmp_path: Path) -> None:
    with dripping() as url:
        ctl = Hyperctl(url, tmp_path, "hst_x")
        assert complete(ctl, "get", "we", program=("-m", "hypersdk.cli.hyperctl.main")) == []


def test_a_daemon_that_is_not_there_offers_nothing(tmp_path: Path) -> None:
    assert complete(Hyperctl("http://127.0.0.1:9", tmp_path, "hst_x"), "get", "we") == []
    assert complete(Hyperctl("nonsense://", tmp_path, None), "get", "") == []
