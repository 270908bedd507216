"""The daemon as it is: processes, a simulator, the programs that users have."""

from __future__ import annotations

import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from hypersdk.client import Client
from hypersdk.secret import Secret
from hypersdk.simulator import MachineSpec
from tests.support.cli.commandline import terminal
from tests.support.cli.hyperctl import Hyperctl
from tests.support.cli.hypervisord import START_S, children_of, daemon, free_port
from tests.support.simulator import SimulatorFactory
from tests.support.tls import Authority
from tests.support.vsphere import environ_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.waits


@pytest.mark.slow
def test_a_machine_is_exported_by_the_programs_that_users_have(simulator: SimulatorFactory, tmp_path: Path) -> None:
    server = simulator(vms=1, machines=(MachineSpec("web01"),), password=Secret("planted-3Hs8"))
    with daemon(tmp_path, "--export-root", tmp_path / "exports", env=environ_of(server)) as (url, process):
        assert (tmp_path / "state" / "admin.token").stat().st_mode & 0o777 == 0o600
        ctl = Hyperctl(url, tmp_path, None)  # finds the token by itself
        state = {"STATE_DIRECTORY": str(tmp_path / "state")}
        file = tmp_path / "job.yaml"
        file.write_text(f"name: example-vm-export\nvm_path: web01\noutput_path: {tmp_path}/exports/web01\n")
        done = ctl("submit", "-file", file, "--watch", env=state)
        assert done.status == 0, done.err + (tmp_path / "log").read_text()
        assert (tmp_path / "exports/web01/artifact-manifest.json").exists()
        assert "completed" in ctl("query", "-all", env=state).out
        token = (tmp_path / "state/admin.token").read_text().strip()
        with Client(url, token=token, environ={}) as client:
            job = client.submit({"vm_path": "web01", "output_path": f"{tmp_path}/exports/again", "format": "qcow2"}).job
            assert client.wait(job.id, timeout_s=120).raise_for_failure().files
            assert "completed" in "".join(client.follow_logs(job.id))
        _old_polling(url, token, tmp_path)
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_S) == 0
    log = (tmp_path / "log").read_text()
    assert token not in log
    assert (
        server.password not in log.replace("simulator", "", log.count("hypersdk.simulator"))
        or server.password == "simulator"
    )


def _old_polling(url: str, token: str, folder: Path) -> None:
    """The loop that users have, with a token."""
    headers = {"Authorization": f"Bearer {token}"}
    definition = {"vm_path": "web01", "output_path": f"{folder}/exports/polled"}
    job_id = httpx.post(f"{url}/jobs/submit", json=definition, headers=headers).json()["job_ids"][0]
    while True:
        job = httpx.post(f"{url}/jobs/query", json={"job_ids": [job_id]}, headers=headers).json()["jobs"][0]
        assert job["progress"]["percent_complete"] >= 0
        if job["status"] in ("completed", "failed", "cancelled"):
            break
        time.sleep(0.2)
    assert job["status"] == "completed"


@pytest.mark.slow
def test_at_a_terminal_there_is_a_banner_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "hypersdk.cli.hypervisord",
        "-addr",
        f"localhost:{port}",
        "--role",
        "api",
        "--state-dir",
        str(tmp_path / "state"),
    ]
    with terminal(command, {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "COLUMNS": "120"}) as shown:
        shown.wait_for("HYPERVISORD_TOKEN", START_S)
        shown.settle()
        _, _, banner = shown.text.partition("is ready\n")
        *table, empty, line, rest = banner.split("\n")
        assert [row.split()[0] for row in table] == ["API", "Database", "Exports"]
        assert (empty, rest) == ("", "")
        token = subprocess.run(["bash", "-c", f'{line}; echo "$HYPERVISORD_TOKEN"'], capture_output=True, text=True)
        assert token.stdout == (tmp_path / "state/admin.token").read_text()
        assert token.stdout.strip() not in shown.shown
        shown.type("\x03")
        assert shown.finish(START_S) == 0


@pytest.mark.slow
def test_without_a_terminal_the_banner_is_lines_of_the_log(tmp_path: Path) -> None:
    with daemon(tmp_path, "--role", "api", "--no-auth") as (url, _):
        pass  # it says it is ready before the last lines are written
    lines = [line.partition("banner: ")[2] for line in (tmp_path / "log").read_text().splitlines()]
    told = [line for line in lines if line]
    assert told[0] == f"API: {url}"
    assert "Access: NO AUTHENTICATION: every local user is administrator" in told
    assert told[-1] == f"ready, serving {url}"


@pytest.mark.slow
@pytest.mark.parametrize("kept", [False, True])
def test_a_closed_terminal_ends_it_unless_it_was_told_to_stay(tmp_path: Path, kept: bool) -> None:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "hypersdk.cli.hypervisord",
        "-addr",
        f"localhost:{port}",
        "--no-auth",
        "--state-dir",
        str(tmp_path / "state"),
    ]
    # Whoever runs the tests may have been told to stay, by nohup.
    how = "--ignore-signal=HUP" if kept else "--default-signal=HUP"
    command = ["env", how, *command]
    with terminal(command, {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}) as shown:
        shown.wait_for("is ready", START_S)
        parts = children_of(shown.process.pid)
        assert set(parts) == {"api", "worker:0"}
        shown.close()
        if kept:
            time.sleep(2)
            assert httpx.get(f"http://localhost:{port}/health").status_code == 200
            assert children_of(shown.process.pid) == parts
            shown.process.send_signal(signal.SIGTERM)
        assert shown.process.wait(START_S) == 0
        assert not [pid for pid in parts.values() if Path(f"/proc/{pid}").exists()]


@pytest.mark.slow
def test_without_a_terminal_sighup_reads_the_certificate_again(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    first, second = (authority.identity("localhost", "127.0.0.1") for _ in range(2))
    live = tmp_path / "live.pem"
    live.write_bytes(first.pem.read_bytes())
    with daemon(tmp_path, "--role", "api", "--tls-cert", live, "--tls-key", live) as (url, process):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        assert ssl.get_server_certificate(address) == ssl.DER_cert_to_PEM_cert(first.der)
        live.write_bytes(second.pem.read_bytes())
        process.send_signal(signal.SIGHUP)
        eventually(lambda: ssl.get_server_certificate(address) == ssl.DER_cert_to_PEM_cert(second.der))
        assert process.poll() is None


@pytest.mark.slow
def test_a_second_daemon_on_the_same_state_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with daemon(tmp_path, "--role", "api") as (_, process):
        command = [
            sys.executable,
            "-m",
            "hypersdk.cli.hypervisord",
            "-addr",
            f"127.0.0.1:{free_port()}",
            "--state-dir",
            str(tmp_path / "state"),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, env={"HOME": str(tmp_path)}, check=False, timeout=START_S
        )
        assert done.returncode == 12
        assert f"process {process.pid} runs a daemon" in done.stderr
