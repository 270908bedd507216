"""The register of runs: a run at work is told from a dead one, whatever others write into the folder, and a hostile
entry removes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.errors import LookupFailed
from hypersdk.migration import register as module
from hypersdk.migration.register import MAX_ENTRY_BYTES, Register, described_owner, entry_of
from hypersdk.migration.runfile import FolderRuns, RunFile
from hypersdk.migration.runs import RunClaim, _judged, forget_run, other_runs, unfinished_runs
from hypersdk.migration.spec import Compression, OutputFormat
from hypersdk.vsphere.snapshot import FoundSnapshot

FACTS = {
    "program": "hyper2kvm",
    "job": "",
    "started_at": "2026-01-01T00:00:00+00:00",
    "folder": "/srv/web-01",
    "machine": "web-01",
    "moref": "vm-1",
    "endpoint": "admin@vcenter.example.com:443",
    "snapshot": "hypersdk-1",
}
HOLD = """
import sys, time
from pathlib import Path
from hypersdk.migration.register import Register, entry_of
with Register.of(Path(sys.argv[1])).holding(entry_of("r-1", **{facts!r})):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_holds_nothing_and_its_entry_stays(tmp_path: Path) -> None:
    register = Register.of(tmp_path)
    code = HOLD.replace("{facts!r}", repr(FACTS))
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        held = register.find("r-1")
        assert held is not None
        assert (held.held, held.ours, held.entry.pid) == (True, True, process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
    dead = register.find("r-1")
    assert dead is not None
    assert (dead.held, dead.entry) == (False, held.entry)
    with register.holding(entry_of("r-1", **FACTS)):  # as a resume does
        again = register.find("r-1")
        assert again is not None
        assert (again.held, again.entry.pid) == (True, os.getpid())
    (tmp_path / "register" / ".r-1.0a1b2c3d").touch()  # a kill came before it had its name
    register.forget("r-1")
    assert register.find("r-1") is None
    assert list((tmp_path / "register").iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"[" * 20_000,
        b"x" * (2 * MAX_ENTRY_BYTES),
        json.dumps({**FACTS, "run_id": "r-1", "pid": "1"}).encode(),
        json.dumps({**FACTS, "run_id": "another", "pid": 1}).encode(),
    ],
)
def test_an_entry_that_says_nothing_is_nobodys_proof(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "register").mkdir()
    (tmp_path / "register" / "r-1.json").write_bytes(content)
    found = Register.of(tmp_path).find("r-1")
    assert found is not None
    assert found.entry.program not in ("hyper2kvm", "hypervisord")


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_what_is_no_file_counts_as_held(kind: str, tmp_path: Path) -> None:
    (tmp_path / "register").mkdir()
    path = tmp_path / "register" / "r-1.json"
    {"link": lambda: path.symlink_to("/etc/passwd"), "fifo": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    found = Register.of(tmp_path).find("r-1")
    assert found is not None
    assert found.held
    with Register.of(tmp_path).holding(entry_of("r-1", **FACTS)):
        pass  # the run goes on, whatever is in its way


@given(st.text(max_size=80))
def test_a_name_never_leads_out_of_the_folder(run_id: str) -> None:
    for path in Register((Path("/nowhere"),))._paths(run_id):
        assert path.parent == Path("/nowhere")
        assert path.suffix == ".json"


@given(st.text(max_size=600))
def test_a_description_from_outside_gives_one_short_line(text: str) -> None:
    owner = described_owner(f"Owner: {text}")
    assert owner is None or (len(owner) <= 300 and "\n" not in owner)


def test_the_shared_folder_is_used_only_where_nobody_can_put_anything_in_anothers_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    monkeypatch.setattr(module, "HOST_PLACE", shared)
    seen = []
    for mode in (None, 0o777, 0o1777):
        if mode is not None:
            shared.mkdir(exist_ok=True)
            shared.chmod(mode)
        seen.append(shared in Register.of(tmp_path / "state").places)
    assert seen == [False, False, os.getuid() == 0]


def test_an_entry_is_there_as_long_as_something_is_left_at_the_source(tmp_path: Path) -> None:
    state, folder = tmp_path / "state", tmp_path / "out"
    folder.mkdir()
    facts = {key: FACTS[key] for key in ("endpoint", "moref", "machine")}
    run = RunFile.create(
        folder, FolderRuns(state), format=OutputFormat.QCOW2, compress=Compression.NONE, disks=[], **facts
    )
    with run.registered():
        assert [found.held for found in Register.of(state).entries()] == [True]
        (shown,) = unfinished_runs(state)
        assert shown.active, "though nobody holds the folder"
        assert other_runs(state) == []
    assert Register.of(state).entries() == []


def test_a_full_or_read_only_place_stops_no_run(tmp_path: Path) -> None:
    (tmp_path / "register").write_text("a file in its place")
    with Register.of(tmp_path).holding(entry_of("r-1", **FACTS)):
        assert Register.of(tmp_path).entries() == []


def test_users_of_one_host_see_each_other_where_there_is_a_shared_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setattr(module, "HOST_PLACE", shared)
    monkeypatch.setattr(module, "_is_shared", lambda place: place == shared)
    with Register.of(tmp_path / "mine").holding(entry_of("r-1", **FACTS)):
        seen = Register.of(tmp_path / "theirs").find("r-1")
        assert seen is not None
        assert seen.held
        assert [found.entry.run_id for found in other_runs(tmp_path / "theirs")] == ["r-1"]
    with pytest.raises(LookupFailed) as caught:
        forget_run(tmp_path / "theirs", "r-2")
    assert caught.value.code == "run_unknown"
    forgotten = forget_run(tmp_path / "theirs", "r-1")
    assert forgotten.entry is not None
    assert other_runs(tmp_path / "theirs") == []


def test_a_free_entry_of_another_host_proves_nothing(tmp_path: Path) -> None:
    """A home on NFS: the other host's process may be alive, and its lock is not seen here."""
    register = Register.of(tmp_path)
    found = FoundSnapshot("snapshot-1", "hypersdk-r-1", "", datetime.now(UTC), "vm-1", "web-01")
    entry = entry_of("r-1", **FACTS)
    claims = []
    for host in (entry.host, "another.example.com"):
        with register.holding(replace(entry, host=host)):
            claims.append(_judged(found, register, {}).claim)
        claims.append(_judged(found, register, {}).claim)
        claims.append(_judged(found, register, {found.name: "job job-1"}).claim)
    assert claims == [RunClaim.USED, RunClaim.LEFT_OVER, RunClaim.USED, RunClaim.USED, RunClaim.UNKNOWN, RunClaim.USED]
