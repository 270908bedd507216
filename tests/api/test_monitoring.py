"""What is shipped for Prometheus and Grafana, loaded by the real programs, against a real daemon's API."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from hypersdk.jobs.claims import Unsaved
from hypersdk.jobs.states import JobEvent
from tests.support.apiserver import Api, beating
from tests.support.cli.hyperctl import hyperctl_of
from tests.support.tools import requires, run_tool

pytestmark = pytest.mark.waits

SHIPPED = Path(__file__).parents[2] / "packaging" / "monitoring"
DASHBOARD = json.loads((SHIPPED / "grafana-hypersdk.json").read_text())
NAME = re.compile(r"hypersdk_[a-z_]+")
START_S = 60


def _expressions() -> list[str]:
    rules = yaml.safe_load((SHIPPED / "rules" / "hypersdk.yml").read_text())
    found = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    found += [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [one.replace("$instance", ".*") for one in found]


def _busy(api: Api) -> None:
    """A job in each of several states, so that every number is there."""
    claims = api.claims()
    for event in (JobEvent.FINISH, JobEvent.FAIL, None):
        job = api.add_job()
        claim = claims.claim(job.id, 1)
        assert claim is not None
        if event is None:
            progress = {"bytes_downloaded": 7 * 2**40, "total_bytes": 2**43, "rate_bytes_s": 1.5e8, "lease_age_s": 61.5}
            claims.save(Unsaved(claim, progress))
        else:
            claims.write_run(claim, "{}", source_changes=1)
            claims.end(claim, event, error={"code": "no_space", "message": "", "cause": "", "next_step": ""})
    api.add_job()


def _values(text: str) -> dict[str, float]:
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if not line.startswith("#")
    }


def test_the_exposition_is_what_promtool_accepts_and_true(api: Api) -> None:
    _busy(api)
    with beating(api.services):
        api.client().get("/api/v1/jobs/some-id")
        api.client().get("/no/such/route")
        text = api.client("metrics").get("/metrics").text
    assert run_tool("promtool", "check", "metrics", stdin=text) == ""
    values = _values(text)
    for name, value in {
        'hypersdk_jobs{state="completed"}': 1,
        'hypersdk_jobs{state="failed"}': 1,
        'hypersdk_jobs{state="running"}': 1,
        'hypersdk_jobs{state="queued"}': 1,
        'hypersdk_queue_depth{waiting="none"}': 1,
        "hypersdk_jobs_submitted_total": 4,
        "hypersdk_bytes_downloaded_total": 7 * 2**40,
        "hypersdk_transferred_bytes": 7 * 2**40,
        "hypersdk_expected_bytes": 2**43,
        "hypersdk_rate_bytes_per_second": 1.5e8,
        "hypersdk_lease_age_seconds": 61.5,
        "hypersdk_jobs_not_restored": 1,
        "hypersdk_queue_jobs": 2,
        "hypersdk_queue_jobs_ended": 0,
        "hypersdk_queue_complete_ratio": 0,
        "hypersdk_workers_alive": 1,
        "hypersdk_database_up": 1,
        'hypersdk_steps_ended{outcome="finish",step="export"}': 1,
        'hypersdk_steps_ended{outcome="start",step="queue"}': 3,
        'hypersdk_api_request_duration_seconds_count{method="GET",route="/api/v1/jobs/{id}",status="4xx"}': 1,
        'hypersdk_api_request_duration_seconds_count{method="GET",route="unmatched",status="4xx"}': 1,
    }.items():
        assert values[name] == value, name


def test_labels_do_not_grow_with_what_is_asked_for(api: Api) -> None:
    client = api.client()
    client.get("/metrics")
    before = len(client.get("/metrics").text.splitlines())
    for number in range(30):
        client.get(f"/api/v1/jobs/job-{number}")
        client.get(f"/nothing/{number}")
        client.request("BREW", f"/coffee/{number}")
    middle = len(client.get("/metrics").text.splitlines())
    for number in range(30, 60):
        client.get(f"/api/v1/jobs/job-{number}")
        client.get(f"/nothing/{number}")
        client.request(f"BREW{number}", f"/coffee/{number}")
    assert middle - before <= 3 * 20
    assert len(client.get("/metrics").text.splitlines()) == middle


def test_who_may_read_them(api: Api) -> None:
    assert api.client(None).get("/metrics").status_code == 401
    assert api.client("viewer").get("/metrics").status_code == 200
    assert api.client("metrics").get("/api/v1/jobs").status_code == 403


@pytest.mark.parametrize("page", [SHIPPED / "prometheus.yml", SHIPPED.parents[1] / "docs" / "api.md"])
def test_the_token_of_the_example_does_not_end_and_is_its_owners_alone(page: Path, api: Api, tmp_path: Path) -> None:
    (line,) = re.findall(r"^(?:# +)?hyperctl (tokens create .*)$", page.read_text(), re.MULTILINE)
    made = tmp_path / "hypersdk.token"
    ctl = hyperctl_of(api, tmp_path / "home")
    ctl.ok(*line.replace("/etc/prometheus/hypersdk.token", str(made)).split())
    assert made.stat().st_mode & 0o777 == 0o600
    headers = {"Authorization": f"Bearer {made.read_text().strip()}"}
    assert api.client(None).get("/metrics", headers=headers).status_code == 200
    assert api.client(None).get("/api/v1/jobs", headers=headers).status_code == 403
    (row,) = [
        one for one in map(json.loads, ctl.ok("tokens", "list", "--json").splitlines()) if one["label"] == "prometheus"
    ]
    assert row["expires_at"] is None


def test_every_name_that_is_shipped_is_there(api: Api) -> None:
    _busy(api)
    client = api.client()
    client.get("/metrics")  # so that a request has been measured
    text = client.get("/metrics").text
    known = set(NAME.findall(text))
    for expression in _expressions():
        for name in NAME.findall(expression):
            assert name in known, expression


def test_the_alert_of_a_slow_api_leaves_out_routes_that_there_are(api: Api) -> None:
    """Those that wait, send whole disks or talk to a vCenter; each by the template that its latency is recorded
    under."""
    rules = yaml.safe_load((SHIPPED / "rules" / "hypersdk.yml").read_text())["groups"][0]["rules"]
    (alert,) = [rule["expr"] for rule in rules if rule.get("alert") == "HyperSDKApiSlow"]
    (left_out,) = re.findall(r'route!~"(.*?)"', alert)
    ((method, route),) = re.findall(r'method="(\w+)", route="(.*?)"', alert)
    asked = {path: set(one) for path, one in api.client().get("/openapi.json").json()["paths"].items()}
    assert {path for path in asked if re.fullmatch(left_out, path)} == {
        "/api/v1/jobs/{id}/logs",
        "/api/v1/jobs/{id}/artifacts/{name}",
        "/api/v1/events",
        "/api/v1/endpoints/{id}/test",
    }
    assert method.lower() in asked[route]


def test_rules_and_their_tests() -> None:
    run_tool("promtool", "check", "rules", SHIPPED / "rules" / "hypersdk.yml")
    run_tool("promtool", "test", "rules", SHIPPED / "rules_test.yml")
    run_tool("promtool", "check", "config", "--syntax-only", SHIPPED / "prometheus.yml")


def test_the_dashboard_is_whole() -> None:
    assert DASHBOARD["uid"] == "hypersdk"
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(panel["title"] and panel["fieldConfig"]["defaults"]["unit"] for panel in DASHBOARD["panels"])
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]}
    assert len(places) == len(DASHBOARD["panels"])


@contextmanager
def _prometheus(api: Api, folder: Path) -> Iterator[httpx.Client]:
    """A server with the shipped rules that scrapes the API every second."""
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(SHIPPED / "rules" / "hypersdk.yml")]
    token = folder / "token"
    token.write_text(api.tokens["metrics"] + "\n")
    (scrape,) = config["scrape_configs"]
    scrape["authorization"]["credentials_file"] = str(token)
    scrape["static_configs"] = [{"targets": [api.url.removeprefix("http://")]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    run_tool("promtool", "check", "config", folder / "prometheus.yml")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command: list[str | Path] = [
        requires("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    log = folder / "prometheus.log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                yield client
        finally:
            server.terminate()
            server.wait(START_S)


def _wait(what: str, look: Any) -> Any:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        try:
            if found := look():
                return found
        except httpx.TransportError:
            pass  # it has not started yet
        time.sleep(0.3)
    pytest.fail(f"not within {START_S} s: {what}")


@pytest.mark.slow
def test_a_real_prometheus_scrapes_the_api_and_answers_every_expression(api: Api, tmp_path: Path) -> None:
    _busy(api)
    api.client().get("/api/v1/jobs")
    with beating(api.services), _prometheus(api, tmp_path) as client:

        def query(expression: str) -> list[Any]:
            said = client.get("/api/v1/query", params={"query": expression})
            if said.status_code == 503:  # it still starts
                return []
            answer = said.json()
            assert answer["status"] == "success", (expression, answer)
            found: list[Any] = answer["data"]["result"]
            return found

        _wait("the target is up", lambda: query('up{job="hypersdk"} == 1'))
        assert query('hypersdk_jobs{state="running"}')[0]["value"][1] == "1"
        _wait("a latency is recorded", lambda: query("hypersdk:api_latency_seconds:p99"))
        for expression in _expressions():
            query(expression)
        for panel in DASHBOARD["panels"]:
            for target in panel["targets"]:
                if "nfc_streams" not in target["expr"]:
                    _wait(target["expr"], lambda one=target["expr"]: query(one.replace("$instance", ".*")))
        groups = client.get("/api/v1/rules").json()["data"]["groups"]
        assert all(rule["health"] == "ok" for group in groups for rule in group["rules"])
        assert "level=error" not in (tmp_path / "prometheus.log").read_text()
