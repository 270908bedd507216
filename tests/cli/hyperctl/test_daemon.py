"""The daemon by hyperctl: the caller, the workers, the audit trail."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hypersdk import __version__
from hypersdk.cli.columns import table
from hypersdk.cli.total import DaemonTotal, total_label
from hypersdk.client import Client
from hypersdk.client.transport import Transport
from hypersdk.jobs.heartbeat import Heartbeat
from hypersdk.jobs.records import WorkerInfo
from hypersdk.model import ExportProgress
from hypersdk.secret import Secret
from tests.support.apiserver import Api
from tests.support.cli.hyperctl import Hyperctl, hyperctl_of

pytestmark = pytest.mark.waits


def rows(text: str) -> dict[str, list[str]]:
    """Labels and their values; a line without a label belongs to the one before."""
    found: dict[str, list[str]] = {}
    label = ""
    for line in text.splitlines():
        label = line[:7].strip() or label
        found.setdefault(label, []).append(line[9:].strip())
    return found


def test_whoami_tells_the_caller_the_token_and_the_daemon(api: Api, ctl: Hyperctl, tmp_path: Path) -> None:
    shown = rows(ctl.ok("whoami"))
    assert (shown["User"], shown["Role"], shown["Version"]) == (["test-admin"], ["admin"], [__version__])
    assert shown["Daemon"] == [api.url]
    assert shown["Expires"] == ["never"]
    assert shown["Token"][0].endswith(", scope admin, from $HYPERVISORD_TOKEN")
    assert "jobs: view, submit, cancel, pause, resume, retry, delete, download" in shown["May"]
    assert "May not" not in shown
    viewer = hyperctl_of(api, tmp_path / "viewer", "viewer")
    assert "(needs the role operator)" in rows(viewer.ok("whoami"))["May not"][0]


def test_whoami_tells_when_a_token_ends_and_no_secret(api: Api, ctl: Hyperctl) -> None:
    made = ctl("tokens", "create", "short", "--scope", "operator", "--days", "3", "--json").events[0]
    ctl.token = made["token"]
    (facts,) = ctl("whoami", "--json").events
    assert (facts["scope"], facts["token_id"], facts["expires_at"]) == ("operator", made["id"], made["expires_at"])
    assert facts["daemon"]["version"] == __version__
    assert made["token"] not in json.dumps(facts)
    assert "csrf_token" not in facts
    assert ", in 3 days" in rows(ctl.ok("whoami"))["Expires"][0]
    assert hyperctl_of(api, ctl.home, "metrics")("whoami").status == 4


def test_a_session_tells_its_end(api: Api) -> None:
    api.services.access.users.change("test-viewer", password=Secret("correct horse battery"))
    client = api.client(None)
    body = {"username": "test-viewer", "password": "correct horse battery"}
    begun = client.post("/api/v1/auth/login", json=body).json()
    me = client.get("/api/v1/auth/me").json()
    assert (me["via"], me["token_id"], me["expires_at"]) == ("cookie", None, begun["expires_at"])


def test_the_status_of_an_earlier_daemon_has_no_queue(api: Api, ctl: Hyperctl, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Queue" in ctl.ok("status")
    request = Transport.request

    def earlier(transport: Transport, method: str, path: str, **more: Any) -> dict[str, Any]:
        answer = request(transport, method, path, **more)
        return {name: value for name, value in answer.items() if name != "queue"}

    monkeypatch.setattr(Transport, "request", earlier)
    shown = ctl.ok("status")
    assert "Completed" in shown
    assert "Queue" not in shown
    (facts,) = ctl("status", "--json").events
    assert "queue" not in facts
    with Client(api.url, token=api.tokens["viewer"], environ={}) as client:
        assert total_label(DaemonTotal(client)([ExportProgress()])) == "0 of 1 done"


def test_workers_tell_their_jobs(api: Api, ctl: Hyperctl) -> None:
    assert "hyperctl workers --all" in ctl.ok("workers")
    with ExitStack() as alive:
        for name in ("worker-1", "worker-2"):
            alive.enter_context(Heartbeat(api.services.database, name, ()))
        for _ in range(2):
            assert api.claims().claim(api.add_job().id, 1) is not None
        found = {worker["id"]: worker["jobs"] for worker in ctl("workers", "--json").events}
        assert found == {"worker-1": 2, "worker-2": 0}
        lines = ctl.ok("workers").splitlines()
        for title in ("Worker", "State", "Jobs", "Host", "PID", "Version", "Since", "Heartbeat"):
            assert title in lines[0]
        assert "alive" in lines[1]
        busy = ctl("workers", "--filter", "jobs_min=1", "--json").events
        assert [worker["id"] for worker in busy] == ["worker-1"]
        assert ctl.ok("workers", "--filter", "host=nowhere") == "No worker matches.\n"
        assert ctl("workers", "--filter", "web").status == 2
        listed = api.client().get("/api/v1/workers", params={"sort": "-jobs"}).json()["workers"]
        assert [worker["jobs"] for worker in listed] == [2, 0]
    assert ctl("workers", "--json").events == []
    assert [worker["state"] for worker in ctl("workers", "--all", "--json").events] == ["dead", "dead"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_of_workers_fits(api: Api, width: int) -> None:
    with (
        Heartbeat(api.services.database, "w" + "0" * 16, ()),
        Client(api.url, token=api.tokens["viewer"], environ={}) as client,
    ):
        lines = table(client.workers(), WorkerInfo, width).plain.splitlines()
    assert (len(lines), max(map(len, lines)) <= width) == (2, True)


def test_audit_shows_filters_and_pages(api: Api, ctl: Hyperctl, tmp_path: Path) -> None:
    operator = hyperctl_of(api, tmp_path / "operator", "operator")
    jobs = [api.add_job().id for _ in range(3)]
    for job in jobs:
        operator.ok("pause", job)
    assert operator("pause", "none").status == 5
    assert operator("users", "list").status == 4
    found = ctl("audit", "--actor", "test-operator", "--json").events
    assert [entry["outcome"] for entry in found] == ["404", "ok", "ok", "ok"]
    assert [entry["object"].split("/")[4] for entry in found] == ["none", *reversed(jobs)]
    shown = ctl.ok("audit", "--outcome", "404")
    for title in ("Time", "Actor", "Outcome", "Action", "Detail", "Object", "Address"):
        assert title in shown.splitlines()[0]
    assert "test-operator" in shown
    assert ctl("audit", "--since", "1h", "--json").events[-1] == found[-1]
    assert ctl.ok("audit", "--until", "1h") == "No entry matches.\n"
    assert len(ctl("audit", "--filter", f"object={jobs[0]}", "--json").events) == 1
    operator.ok("resume", "--all", "--yes")
    assert "action=resume succeeded=3 failed=0 ids=3" in ctl.ok("audit", "--limit", "1")
    few = ctl("audit", "--limit", "2")
    assert "The newest 2 entries; --limit N or --all shows more." in few.err
    assert ctl("audit", "--filter", "colour=red").status == 2
    assert operator("audit").status == 4


def test_audit_reads_page_by_page(api: Api, ctl: Hyperctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypersdk.client.resources.AUDIT_PAGE", 2)
    for number in range(5):
        api.services.access.audit.write("ann", "192.0.2.1", f"action {number}")
    found = ctl("audit", "--all", "--actor", "ann", "--json").events
    assert [entry["action"] for entry in found] == [f"action {number}" for number in (4, 3, 2, 1, 0)]
    assert len(ctl("audit", "--limit", "3", "--json").events) == 3
