"""Job names, paths and log lines that forge or hide: through every table, log and document of `hyperctl`."""

from __future__ import annotations

import json

import pytest
import yaml

from hypersdk.jobs.claims import Unsaved
from hypersdk.jobs.states import JobEvent
from hypersdk.text import is_plain
from tests.support.apiserver import Api
from tests.support.cli.hyperctl import Hyperctl

SAMPLES = (
    "\x85\x9b\xad\u034f\u061c\u115f\u180e\u200b\u200d\u202e\u2028\u2029"
    "\u2066\u3164\ue000\ufe0f\ufeff\ufff9\U000e0041\U000e0100"
)
NAME = f"job {SAMPLES} x"


def assert_plain(text: str) -> None:
    assert not {f"U+{ord(char):04X}" for char in text if char != "\n" and not is_plain(char)}, text


@pytest.fixture
def job_id(api: Api, ctl: Hyperctl) -> str:
    """A job of that name that failed, with the name in its log and in its error."""
    wanted = {"vm_path": f"/data/vm/{NAME}", "output_path": str(api.folder / "exports" / "x"), "name": NAME}
    ctl("submit", "-f", "-", "--json", stdin=json.dumps(wanted))
    (listed,) = ctl("query", "-all", "--json").events
    found = str(listed["id"])
    claims = api.claims()
    claim = claims.claim(found, api.services.jobs.get(found).attempt)
    assert claim is not None
    claims.save(Unsaved(claim, log=f"2026-01-31T12:00:00Z {NAME}: transferring\x1b[31m\n".encode()))
    error = {"code": "no_space", "message": f"{NAME}\nFORGED", "cause": NAME, "next_step": NAME, "exit_status": 9}
    claims.end(claim, JobEvent.FAIL, error=error)
    return found


@pytest.mark.parametrize(
    "command",
    [["query", "-all"], ["get"], ["explain"], ["logs"], ["watch"], ["retry"], ["query", "-all", "--output", "yaml"]],
)
def test_what_people_see(ctl: Hyperctl, job_id: str, command: list[str]) -> None:
    done = ctl(*command) if command[0] == "query" else ctl(*command, job_id)
    assert_plain(done.out + done.err)
    if command[0] not in ("watch", "retry"):
        assert "\\u202e" in done.out.lower(), "it is written out, not left out"


def test_programs_get_the_name_as_it_is(ctl: Hyperctl, job_id: str) -> None:
    (line,) = ctl.ok("get", job_id, "--json").splitlines()
    assert line.isascii()
    assert json.loads(line)["name"] == NAME
    assert yaml.safe_load(ctl.ok("get", job_id, "--output", "yaml"))["name"] == NAME


def test_errors_repeat_what_was_typed_safely(ctl: Hyperctl) -> None:
    for word in (NAME, "a\x1b[31m\nb"):
        done = ctl("get", word)
        assert done.status != 0
        assert_plain(done.out + done.err)
