"""The simulator as a person starts it."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from tests.support.peers import govc, run_govc

COMMAND = [sys.executable, "-m", "hypersdk.simulator"]
LIMIT_S = 60


@contextmanager
def started(*flags: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The process and its banner; ended by its pid."""
    with subprocess.Popen(
        [*COMMAND, "--listen", "127.0.0.1:0", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            lines = []
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                if line.startswith("Press Ctrl-C"):
                    break
            yield process, lines
        finally:
            process.kill() if process.poll() is None else None


def refused(*flags: str) -> str:
    """The three lines of an error, which is all that is said."""
    done = subprocess.run([*COMMAND, *flags], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    message, cause, following = done.stderr.splitlines()
    assert message.startswith("error: ")
    assert message.endswith("[usage]")
    assert cause.startswith("  cause: ")
    assert following.startswith("  next:  ")
    return done.stderr


@pytest.mark.parametrize(("how", "flags"), [(signal.SIGINT, ()), (signal.SIGTERM, ("--esxi",))])
def test_the_lines_to_copy_work_and_it_ends_cleanly(
    how: signal.Signals, flags: tuple[str, ...], tmp_path: Path
) -> None:
    authority = tmp_path / "ca.pem"
    with started("--vms", "3", "--ca-file", str(authority), *flags) as (process, lines):
        assert max(map(len, lines)) <= 79
        exports = dict(line.strip().removeprefix("export ").split("=", 1) for line in lines if "export GOVC_" in line)
        values = {key: value.strip("'") for key, value in exports.items()}
        url = values["GOVC_URL"].replace(
            "://", f"://{quote(values['GOVC_USERNAME'], safe='')}:{values['GOVC_PASSWORD']}@"
        )
        trusting = {"GOVC_INSECURE": "false", "GOVC_TLS_CA_CERTS": str(authority)}
        assert len(run_govc(url, "find", "/", "-type", "m", env=trusting).splitlines()) == 3
        start = next(n for n, line in enumerate(lines) if "SHA-256" in line)
        shown = lines[start].split()[1] + lines[start + 1].strip()
        parts = urlsplit(url)
        pem = ssl.get_server_certificate((parts.hostname or "", parts.port or 0))
        import hashlib

        assert hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest().upper() == shown.replace(":", "")
        os.kill(process.pid, how)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_password_file_is_used_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret\n")
    with started("--vms", "1", "--username", "me", "--password-file", str(file)) as (_process, lines):
        assert "s3cret" not in "\n".join(lines)
        (url,) = [line.partition("=")[2] for line in lines if "GOVC_URL" in line]
        assert run_govc(url.replace("://", "://me:s3cret@"), "about")


def _about(lines: list[str], login: str) -> bool:
    (url,) = [line.partition("=")[2] for line in lines if "GOVC_URL" in line]
    return govc(url.replace("://", f"://{login}@"), "about").returncode == 0


def test_any_login_gets_in_if_it_is_not_empty() -> None:
    with started("--vms", "1") as (_process, lines):
        assert "Any other user name and password are accepted too." in lines
        assert _about(lines, "someone:anything")
        assert not _about(lines, "someone:")


@pytest.mark.parametrize("given", ["username", "password"])
def test_an_account_that_is_named_is_the_only_one(tmp_path: Path, given: str) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret\n")
    flags, login = (
        (("--username", "me"), "me:simulator")
        if given == "username"
        else (("--password-file", str(file)), f"{quote('administrator@vsphere.local', safe='')}:s3cret")
    )
    with started("--vms", "1", *flags) as (_process, lines):
        assert "Any other" not in "\n".join(lines)
        assert _about(lines, login)
        assert not _about(lines, "someone:anything")


def test_a_machine_is_made_from_an_image(tmp_path: Path) -> None:
    (image := tmp_path / "disk.raw").write_bytes(b"data".ljust(4096))
    flags = ("--vms", "0", "--machine", f"my guest={image},{image},firmware=efi", "--machine", f"other={image}")
    with started(*flags) as (_process, lines):
        assert "Simulated vCenter with 2 machines on 4 hosts" in lines
        assert "  hyper2kvm export 'my guest' -o /tmp/images --format qcow2" in lines
        (url,) = [line.partition("=")[2] for line in lines if "GOVC_URL" in line]
        login = url.replace("://", "://me:me@")
        devices = run_govc(login, "device.info", "-vm", "my guest", "disk-*")
        assert devices.count("4 KB") == 2
        assert "efi" in run_govc(login, "object.collect", "-s", "vm/my guest", "config.firmware")


def test_a_machine_without_a_usable_image_is_refused(tmp_path: Path) -> None:
    os.mkfifo(fifo := tmp_path / "fifo")
    (image := tmp_path / "disk.raw").write_bytes(b"data")
    assert "fifo cannot be used as a disk: it is not a regular file. Give" in refused("--machine", f"a={fifo}")
    assert "missing.raw cannot be used as a disk: No such file or directory. Give" in refused(
        "--machine", f"a={tmp_path}/missing.raw"
    )
    assert "two machines are named 'a'" in refused("--machine", f"a={image}", "--machine", f"a={image}")


def test_help_fits_a_terminal_and_names_every_fault() -> None:
    from hypersdk.simulator import FaultKind

    done = subprocess.run(
        [*COMMAND, "--help"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env={**os.environ, "COLUMNS": "80"},
        check=True,
    )
    assert max(map(len, done.stdout.splitlines())) <= 80
    for kind in FaultKind:
        assert kind in done.stdout


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = refused("--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert "Another program listens there" in said
    assert "--listen" in said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--listen", "foo"], "127.0.0.1:8989"),
        (["--listen", "0.0.0.0:0"], "all addresses"),
        (["--listen", "127.0.0.1:70000"], "70000"),
        (["--vms", "-1"], "--vms"),
        (["--fault", "bogus"], "reset"),
        (["--fault", "call"], "method"),
        (["--nope"], "--nope"),
        (["--listen", "127.0.0.1:0", "--fault", "reset,disk=web-1"], "web-01"),
        (["--listen", "127.0.0.1:0", "--deny", "Nope"], "Datastore.Browse"),
        (["--listen", "127.0.0.1:0", "--fault", "reset,host=nope"], "esx01.example.com"),
        (["--password-file", "/nope"], "/nope"),
        (["--listen", "127.0.0.1:0", "--fault", "datastore_full,disk=web-01"], "nvme-prod-01"),
        (["--rate", "0"], "20MiB"),
        (["--lease-timeout", "nan"], "--lease-timeout"),
        (["--hosts", "200", "--datacenters", "50"], "--hosts"),
        (["--listen", "127.0.0.1:0", "--ca-file", "/nope/ca.pem"], "/nope/ca.pem"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_done_is_told_with_cause_and_next_step(flags: list[str], words: str) -> None:
    assert words in refused(*flags)
