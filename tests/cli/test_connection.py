"""Where vSphere is and who asks: flags, environment, configuration, prompts; and that the password shows up nowhere."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from hypersdk.secret import Secret
from hypersdk.simulator import DiskSpec, Simulator
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.units import MiB
from tests.support.cli.commandline import environment, program, run, terminal
from tests.support.cli.shell import login, small
from tests.support.simulator import SimulatorFactory

SECRET = "pl4nted-S3cret"


@pytest.fixture
def server(simulator: SimulatorFactory) -> Simulator:
    disk = DiskSpec(capacity_bytes=32 * MiB, allocated_bytes=32 * MiB)
    return simulator(machines=(small("web"), small("big", disks=(disk,))), password=Secret(SECRET))


def listed(env: dict[str, str], *flags: str, stdin: str = "") -> int:
    return run("list", "--json", *flags, env=env, stdin=stdin).status


def test_each_way_to_give_the_password(server: Simulator, tmp_path: Path) -> None:
    base = {**login(server, tmp_path), "GOVC_PASSWORD": ""}
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\nsecond line\n")
    assert listed(base) == 2
    assert listed({**base, "GOVC_PASSWORD": SECRET}) == 0
    assert listed(base, "--password-file", str(secret)) == 0
    assert listed(base, "--password-stdin", stdin=f"{SECRET}\n") == 0
    assert listed({**base, "GOVC_PASSWORD": "wrong"}) == 4
    assert listed({**base, "GOVC_PASSWORD": "wrong"}, "--password-file", str(secret)) == 0, "a flag wins"


def test_each_way_to_trust_the_certificate(server: Simulator, tmp_path: Path) -> None:
    base = {**login(server, tmp_path), "GOVC_INSECURE": ""}
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(server.ca_pem)
    known = tmp_path / "known"
    known.write_text(f"127.0.0.1:{server.port} {server.thumbprint_sha256}\n")
    assert run("list", "--json", env=base).error["code"] == "certificate_unknown"
    assert listed(base, "--insecure") == 0
    assert listed(base, "--thumbprint", server.thumbprint_sha256) == 0
    assert listed(base, "--thumbprint", server.thumbprint_sha1) == 0
    assert listed(base, "--ca-bundle", str(bundle)) == 0
    assert listed({**base, "GOVC_TLS_CA_CERTS": str(bundle)}) == 0
    assert listed({**base, "GOVC_TLS_KNOWN_HOSTS": str(known)}) == 0
    changed = run("list", "--json", "--thumbprint", "AB" * 32, env=base)
    assert (changed.status, changed.error["code"]) == (3, "certificate_changed")


def test_the_configuration_file_counts_below_environment_and_flags(server: Simulator, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    config = tmp_path / ".config" / "hypersdk" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(
        f'[connection]\nurl = "{server.url}"\nusername = "{server.username}"\npassword_file = "{secret}"\ninsecure ='
        " true\n"
    )
    home = {"HOME": str(tmp_path)}
    assert listed(home) == 0
    other = run("list", "--json", env={**home, "GOVC_URL": "127.0.0.1:9"})
    assert other.error["code"] == "no_password", "the file's password is not for another server"
    assert listed({**home, "GOVC_URL": "127.0.0.1:9", "GOVC_USERNAME": "me", "GOVC_PASSWORD": "x"}) == 3
    assert listed(home, "--username", "somebody.else") == 4
    assert listed({**home, "GOVC_URL": server.authority_part}) == 0, "a bare host and port"


def test_without_a_terminal_nothing_is_asked(tmp_path: Path) -> None:
    done = run("list", "--json", env={"HOME": str(tmp_path)})
    assert (done.status, done.error["code"]) == (2, "no_endpoint")
    done = run("list", "--json", "-u", "127.0.0.1:9", "--username", "me", env={"HOME": str(tmp_path)})
    assert (done.status, done.error["code"]) == (2, "no_password")


# --- at a terminal


def asking(server: Simulator, home: Path) -> dict[str, str]:
    return environment(home, GOVC_URL=server.authority_part, GOVC_USERNAME=server.username)


def test_first_use_trust_comes_before_the_password_and_is_asked_once(server: Simulator, tmp_path: Path) -> None:
    env = asking(server, tmp_path)
    with terminal(program("list"), env) as screen:
        screen.wait_for("Type yes: ")
        assert "Password" not in screen.shown, "no password for a server that is not trusted"
        halves = server.thumbprint_sha256[:48], server.thumbprint_sha256[48:]
        assert all(half in screen.shown for half in halves)
        screen.type("yes\n")
        screen.wait_for("Password for")
        screen.type("wrong\n")
        screen.wait_for("were refused. Try again.")
        screen.shown = screen.shown.partition("Try again.")[2]
        screen.wait_for("Password for")
        screen.type(f"{SECRET}\n")
        assert screen.finish() == 0
        assert "Type yes" not in screen.shown
        assert "web" in screen.shown
        assert SECRET not in screen.shown
    with terminal(program("list"), env) as screen:
        screen.wait_for("Password for")
        assert "certificate" not in screen.shown
        screen.type(f"{SECRET}\n")
        assert screen.finish() == 0


def test_a_certificate_that_is_not_trusted_ends_it(server: Simulator, tmp_path: Path) -> None:
    with terminal(program("list"), asking(server, tmp_path)) as screen:
        screen.wait_for("Type yes: ")
        screen.type("no\n")
        assert screen.finish() == 3
        assert "certificate_unknown" in screen.shown
    assert not (tmp_path / ".config").exists()


def test_an_account_is_not_locked_by_typing_on(server: Simulator, tmp_path: Path) -> None:
    with terminal(program("list", "--insecure"), asking(server, tmp_path)) as screen:
        for _ in range(3):
            screen.wait_for("Password for")
            screen.shown = ""
            screen.type("wrong\n")
        assert screen.finish() == 4
        assert "login_refused" in screen.shown


@pytest.mark.parametrize("keys", ["\x03", "\x04"])
def test_ctrl_c_and_ctrl_d_at_the_prompt(server: Simulator, tmp_path: Path, keys: str) -> None:
    with terminal(program("list", "--insecure"), asking(server, tmp_path)) as screen:
        screen.wait_for("Password for")
        time.sleep(0.2)  # getpass switches the echo off after it has asked
        screen.type(keys)
        status = screen.finish()
        assert status == (130 if keys == "\x03" else 2)
        assert "Traceback" not in screen.shown
        assert "Stopping" not in screen.shown, "nothing was under way"
        assert "\nStopped: " in screen.text or "\nError: " in screen.text, "on a line of its own"
        assert "--resume" not in screen.shown


def test_no_password_is_asked_for_a_server_that_does_not_answer(tmp_path: Path) -> None:
    env = environment(tmp_path, GOVC_URL="127.0.0.1:9", GOVC_USERNAME="me")
    with terminal(program("list"), env) as screen:
        assert screen.finish() == 3
        assert "connection_refused" in screen.shown
        assert "Password" not in screen.shown


def test_ctrl_c_ends_a_connection_to_a_server_that_says_nothing(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = environment(
            tmp_path, GOVC_URL=f"127.0.0.1:{silent.getsockname()[1]}", GOVC_USERNAME="me", GOVC_INSECURE="1"
        )
        with terminal(program("list"), env) as screen:
            screen.wait_for("Connecting to")
            time.sleep(0.3)
            screen.type("\x03")
            assert screen.finish() == 130


def test_ctrl_c_ends_an_inventory_that_a_vcenter_does_not_finish(simulator: SimulatorFactory, tmp_path: Path) -> None:
    server = simulator(machines=(small("one"),))
    server.set_faults(Fault(FaultKind.STALL, method="RetrievePropertiesEx", seconds=120))
    with terminal(program("list"), login(server, tmp_path)) as screen:
        screen.wait_for("Reading the inventory")
        time.sleep(0.3)
        screen.type("\x03")
        assert screen.finish() == 130
        assert "Nothing was changed" in screen.shown


# --- secrets


def everything_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "secret")


@pytest.mark.parametrize("how", ["environment", "file", "stdin", "job"])
def test_the_password_shows_up_nowhere(simulator: SimulatorFactory, tmp_path: Path, how: str) -> None:
    disk = DiskSpec(capacity_bytes=32 * MiB, allocated_bytes=32 * MiB)
    machines = (small("big", disks=(disk,)),)
    server = simulator(machines=machines, password=Secret(SECRET), rate_bytes_s=4 * MiB)
    env = environment(tmp_path, **{key: value for key, value in login(server, tmp_path).items() if key != "HOME"})
    out = tmp_path / "out"
    flags, stdin = ["big", "-o", str(out)], ""
    if how != "environment":
        del env["GOVC_PASSWORD"]
    if how == "file":
        (tmp_path / "secret").write_text(SECRET)
        flags += ["--password-file", str(tmp_path / "secret")]
    elif how == "stdin":
        flags, stdin = [*flags, "--password-stdin"], f"{SECRET}\n"
    elif how == "job":
        import json

        part = {"server": server.url, "username": server.username, "password": SECRET, "insecure": True}
        flags, stdin = ["-f", "-"], json.dumps({"vm_path": "big", "output_path": str(out), "vcenter": part})
    command = [*program("--debug", "export", *flags)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    ) as process:
        assert process.stdin is not None
        process.stdin.write(stdin.encode())
        process.stdin.close()
        process.stdin = None
        deadline = time.monotonic() + 60
        while not list(out.glob("*.partial*")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert SECRET.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        running = everything_below(tmp_path)  # the run file and the pointer to it exist now
        process.terminate()
        told, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors.decode()
    assert b"big" in running, "the run file was looked at"
    for where in (told, errors, running, everything_below(tmp_path)):
        assert SECRET.encode() not in where


def test_a_crash_file_holds_no_password(server: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr("hypersdk.cli.machines.read_inventory", broken)
    done = run("list", "--json", env=login(server, tmp_path))
    assert done.status == 1
    crash = Path(done.error["crash_file"]).read_text()
    assert "ZeroDivisionError: inside" in crash
    assert SECRET not in crash + done.out + done.err


def test_a_refused_login_does_not_show_what_was_tried(server: Simulator, tmp_path: Path) -> None:
    env = {**login(server, tmp_path), "GOVC_PASSWORD": "wrong-" + SECRET}
    for flags in ([], ["--json"], ["--debug"]):
        done = run("list", *flags, env=env)
        assert done.status == 4
        assert SECRET not in done.out + done.err


def test_session_expiry_in_the_middle_is_silent(server: Simulator, tmp_path: Path) -> None:
    server.set_faults(Fault(FaultKind.SESSION_EXPIRY, method="RetrievePropertiesEx", times=1))
    assert listed(login(server, tmp_path)) == 0
