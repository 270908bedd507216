"""Schemathesis over the whole OpenAPI document, against a real server in a process of its own: no answer is a 5xx,
every answer is as described.

In the suite for a minute; ``scripts/fuzz-api`` runs it for longer.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from hypersdk.jobs.states import JobEvent
from hypersdk.state.database import Database
from tests.support.apiserver import ApiProcess, api_process, fill
from tests.support.seeds import SEED

pytestmark = pytest.mark.waits

SECONDS = int(os.environ.get("HYPERSDK_FUZZ_S", "60"))
CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance,status_code_conformance"
STREAM = "/api/v1/events"
DIALS = r"^/api/v1/endpoints(/\{id\}/test)?$"
"""Asks a server that the fuzzer made up, so 502 is the right answer there; checked apart."""


def _schemathesis(program: ApiProcess, folder: Path, *more: str, seconds: int) -> None:
    # One worker: in CPython 3.11, two threads that parse Python at a time, as hypothesis does, can end in a SystemError
    # (python/cpython#106905).
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "--no-color",
        "run",
        f"{program.url}/openapi.json",
        "--header",
        f"Authorization: Bearer {program.tokens['admin']}",
        "--max-time",
        str(seconds),
        "--seed",
        str(SEED),
        "--request-timeout",
        "60",
        "--generation-database",
        "none",
        "--warnings",
        "off",
        "--continue-on-failure",
        "--suppress-health-check",
        "all",
        *more,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds * 3 + 240, check=False, cwd=folder)
    (folder / "schemathesis.log").write_text(done.stdout + done.stderr)
    if done.returncode != 0:
        pytest.fail(
            f"schemathesis found something (seed {SEED}):\n{done.stdout[-40000:]}{done.stderr[-2000:]}", pytrace=False
        )
    print(done.stdout[-600:])


def _populate(folder: Path) -> None:
    """Jobs for the fuzzer to find."""
    from hypersdk.jobs.claims import Claims, Unsaved

    database = Database.open(f"sqlite:///{folder / 'state' / 'state.sqlite3'}")
    try:
        fill(database, 3, "fuzz")
        claims = Claims(database, "worker-1")
        claim = claims.claim("fuzz-0", 1)
        assert claim is not None
        claims.save(Unsaved(claim, log=b"a line\n"))
        claims.end(claim, JobEvent.FINISH, result={"success": True, "files": ["a.raw"]})
    finally:
        database.close()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_request_makes_the_api_fail(tmp_path: Path) -> None:
    with api_process(tmp_path) as program:
        _populate(tmp_path)
        dialling = ["--include-path-regex", DIALS, "--checks", CHECKS.removeprefix("not_a_server_error,")]
        _schemathesis(program, tmp_path, *dialling, seconds=SECONDS // 6)
        # The last, since it finds and revokes the very token that it uses.
        described = ["--exclude-path", STREAM, "--exclude-path-regex", DIALS, "--checks", CHECKS]
        _schemathesis(program, tmp_path, *described, seconds=SECONDS - SECONDS // 6)
        assert httpx.get(f"{program.url}/health").status_code == 200
        assert "Traceback" not in (tmp_path / "api.log").read_text()
