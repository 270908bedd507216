"""A new kind of job is one file: it runs through the API, hyperctl and the event stream, and survives kill -9."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import hypersdk
from tests.support.cli.hyperctl import Hyperctl
from tests.support.cli.hypervisord import children_of, daemon
from tests.support.eventstream import listening

pytestmark = pytest.mark.waits

WAIT_S = 60.0
Get = Callable[[str], dict[str, Any]]


@pytest.fixture
def toys(tmp_path: Path) -> Iterator[tuple[httpx.Client, Hyperctl, int]]:
    """A daemon all of whose processes know the toy."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("import tests.support.toykind\n")
    tests, source = Path(__file__).parents[2], Path(hypersdk.__file__).parents[1]
    env = {"PYTHONPATH": f"{tmp_path / 'site'}:{tests}:{source}"}
    (tmp_path / "home").mkdir()
    with (
        daemon(tmp_path, "--no-auth", "--export-root", tmp_path / "exports", env=env) as (url, process),
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client, Hyperctl(url, tmp_path / "home", None), process.pid


def submit(client: httpx.Client, folder: Path) -> str:
    answer = client.post("/api/v1/jobs", json={"kind": "toy", "name": folder.name, "folder": str(folder)})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["accepted"][0]["id"])


def until(client: httpx.Client, job_id: str, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The job, once that is true of it."""
    end = time.monotonic() + WAIT_S
    while True:
        job: dict[str, Any] = client.get(f"/api/v1/jobs/{job_id}").json()
        if true(job):
            return job
        assert time.monotonic() < end, job
        time.sleep(0.1)


def steps(job: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["state"] for step in job["steps"]}


@pytest.mark.slow
def test_a_kind_of_one_file_runs_through_everything(toys: tuple[httpx.Client, Hyperctl, int], tmp_path: Path) -> None:
    client, hyperctl, daemon_pid = toys
    folder = tmp_path / "exports" / "one"
    with listening(client) as events:
        job_id = submit(client, folder)
        while steps(events.next("job")[2]) != {"first": "running", "second": "waiting"}:
            pass
        (folder / "go-first").touch()
        while steps(events.next("job")[2]) != {"first": "done", "second": "running"}:
            pass
        job = until(client, job_id, lambda job: steps(job)["second"] == "running")
        assert (job["kind"], job["subject"], job["target"]) == ("toy", "toy one", str(folder))
        assert (job["vm_path"], job["output_path"], job["format"]) == (None, None, None)

        os.kill(children_of(daemon_pid)["worker:0"], signal.SIGKILL)
        until(client, job_id, lambda _: (folder / "second").read_text().count("\n") == 2)
        (folder / "go-second").touch()
        job = until(client, job_id, lambda job: job["state"] == "completed")
    assert (folder / "first").read_text() == "attempt 1\n", "a step that was done is not repeated"
    assert job["result"] == {"made by": "second"}
    assert steps(job) == {"first": "done", "second": "done"}
    assert [row["outcome"] for row in client.get(f"/api/v1/jobs/{job_id}/attempts").json()["attempts"]][-1] == "finish"
    sheet = hyperctl.ok("get", job_id)
    assert "toy one" in sheet
    assert "first: done, took" in sheet
    assert "second: done" in hyperctl.ok("explain", job_id)
    assert json.loads(hyperctl.ok("query", "-all", "--json"))["kind"] == "toy"


@pytest.mark.slow
def test_it_is_paused_cancelled_and_tried_again(toys: tuple[httpx.Client, Hyperctl, int], tmp_path: Path) -> None:
    client, hyperctl, _ = toys
    folder = tmp_path / "exports" / "one"
    job_id = submit(client, folder)
    until(client, job_id, lambda job: steps(job)["first"] == "running")
    (folder / "go-first").touch()
    until(client, job_id, lambda job: steps(job)["second"] == "running")
    hyperctl.ok("pause", job_id)
    job = until(client, job_id, lambda job: job["state"] == "paused")
    assert steps(job) == {"first": "done", "second": "waiting"}
    hyperctl.ok("resume", job_id)
    until(client, job_id, lambda job: steps(job)["second"] == "running")
    hyperctl.ok("cancel", job_id)
    job = until(client, job_id, lambda job: job["state"] == "cancelled")
    assert steps(job) == {"first": "undone", "second": "undone"}
    assert (folder / "undone").exists()
    (folder / "go-second").touch()
    hyperctl.ok("retry", job_id)
    job = until(client, job_id, lambda job: job["state"] == "completed")
    assert (folder / "first").read_text().count("\n") == 2, "what was undone is done again"
    assert (folder / "second").read_text().count("\n") == 3


def test_a_kind_that_is_not_known_is_refused(toys: tuple[httpx.Client, Hyperctl, int]) -> None:
    answer = toys[0].post("/api/v1/jobs", json={"kind": "nonsense", "name": "x"})
    assert answer.status_code == 200
    assert answer.json()["rejected"][0]["error"]["code"] == "kind_unknown"
