"""`migrate` and `import` into a storage pool, mostly of another machine: a real libvirtd by real SSH, and uploads."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from hypersdk.simulator import Simulator
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.units import MiB
from tests.support.cli.hyper2kvm import Ended, Program, Running
from tests.support.cli.hypervisord import free_port
from tests.support.guests.bootsectors import boot_sector_guest
from tests.support.guests.guest import MARKER
from tests.support.libvirtd import Libvirtd, running_libvirtd
from tests.support.seeds import SEED
from tests.support.simulator import SimulatorFactory
from tests.support.sshd import SshTarget, ssh_to
from tests.support.tls import Authority
from tests.support.tools import run_tool, sha256

pytestmark = [pytest.mark.waits, pytest.mark.skipif(os.geteuid() != 0, reason="libvirt's system driver needs root")]


@pytest.fixture
def ssh(libvirtd: Libvirtd, lan_network: str) -> Iterator[SshTarget]:
    with ssh_to(libvirtd) as target:
        yield target


@dataclass(frozen=True, slots=True)
class Move:
    """Commands that migrate ``web-01`` by SSH into the pool ``images``, without a guest conversion."""

    program: Program
    source: Simulator
    ssh: SshTarget
    folder: Path
    pool: Path

    def words(self, *more: str | Path) -> list[str | Path]:
        return [
            "migrate", "web-01", "--json", "-o", self.folder, "--to", self.ssh.uri, "--pool", "images",
            "--map", "*=network:lan", "--no-convert", "--acceleration", "tcg", "--power-off", *more,
        ]  # fmt: skip

    def run(self, *more: str | Path) -> Ended:
        return self.program.run(*self.words(*more))

    def volumes(self) -> list[str]:
        return run_tool(*self.ssh.daemon.inside(), "ls", self.pool).split()

    def assert_undone(self) -> None:
        assert (self.ssh.daemon.domains(), self.volumes()) == ([], [])
        assert self.source.vm("web-01").power == "poweredOn"
        assert (self.folder / "artifact-manifest.json").exists(), "the export is kept for the next attempt"


@pytest.fixture
def move(simulator: SimulatorFactory, ssh: SshTarget, guest_folder: Path, tmp_path: Path) -> Callable[..., Move]:
    """``move(size)``: a machine with a boot sector, its disk filled up to ``size``."""

    def start(size: int = 8 * MiB) -> Move:
        image = guest_folder / "source.raw"
        image.write_bytes(boot_sector_guest("marker").image.read_bytes()[:512])
        with image.open("ab") as file:
            file.write(random.Random(SEED).randbytes(size - 512))
        machine = MachineSpec("web-01", (DiskSpec(size, image=image),), power="poweredOn", memory_mb=64)
        server = simulator(machines=(machine,))
        pool = guest_folder / "images"
        pool.mkdir()
        ssh.daemon.virsh("pool-create-as", "images", "dir", "--target", pool)
        program = Program(tmp_path, server, more_env={"PATH": f"{ssh.path}:{os.environ['PATH']}"})
        return Move(program, server, ssh, guest_folder / "out", pool)

    return start


def test_a_machine_is_moved_to_another_host(move: Callable[..., Move]) -> None:
    moved = move()
    done = moved.run("--start", "--prove", "--prove-marker", MARKER)
    result = done.result
    (plan,) = [event for event in done.seen if event["type"] == "plan"]
    assert plan["storage"] == {"pool": "images", "placing": ["upload"], "extra_bytes": 8 * MiB}
    assert result["proof"]["verdict"] == "marker"
    assert Path(result["proof"]["screenshot"]).read_bytes().startswith(b"\x89PNG")
    assert result["disks"] == [str(moved.pool / "web-01-disk1.qcow2")]
    assert "copies" in result["owner"]
    assert moved.ssh.daemon.virsh("list", "--name").split() == ["web-01"]
    assert moved.source.vm("web-01").power == "poweredOff"
    moved.ssh.daemon.virsh("destroy", "web-01")
    assert moved.volumes() == ["web-01-disk1.qcow2"], "no overlay of the proof is left"
    assert sha256(moved.pool / "web-01-disk1.qcow2") == sha256(moved.folder / "web-01-disk1.qcow2")
    assert moved.run("--start").event("skipped")["reason"] == "migrated"


def test_disks_that_an_undefined_machine_left_are_not_deleted(move: Callable[..., Move]) -> None:
    """They may hold what its guest wrote; their owner may have taken them to another domain, or to another host."""
    moved = move()
    assert moved.run().status == 0
    moved.ssh.daemon.virsh("undefine", "web-01")
    for _ in range(2):
        refused = moved.run()
        assert (refused.status, refused.error["code"]) == (6, "landed_disks_left"), refused.explain()
        assert moved.volumes() == ["web-01-disk1.qcow2"]
    moved.ssh.daemon.virsh("vol-delete", moved.pool / "web-01-disk1.qcow2")
    assert moved.run().status == 0
    assert moved.ssh.daemon.domains() == ["web-01"]


def test_an_image_is_imported_to_another_host(move: Callable[..., Move], guest_folder: Path) -> None:
    moved = move()
    words = ["--cpus", "1", "--memory", "64MiB", "--prove", "--prove-marker", MARKER]
    target = ["--to", moved.ssh.uri, "--pool", "images", "--no-convert", "--acceleration", "tcg"]
    image = guest_folder / "source.raw"
    result = moved.program.run("import", image, "--json", "-o", moved.folder, *target, *words).result
    assert (result["proof"]["verdict"], result["disks"]) == ("marker", [str(moved.pool / "source-disk1.qcow2")])
    assert moved.ssh.daemon.domains() == ["source"]


CERTIFICATES: Final = """
listen_tls = 1
listen_tcp = 0
listen_addr = "127.0.0.1"
tls_port = "{port}"
auth_tls = "none"
ca_file = "{authority}"
cert_file = "{server}"
key_file = "{server}"
"""
MOUNTED: Final = 'mkdir -p /etc/pki && mount --bind "$0" /etc/pki && exec "$@"'
"""libvirt's clients read their certificates from ``/etc/pki``."""


def pki_of(folder: Path, authority: Authority) -> Path:
    """What an administrator installs for libvirt's clients."""
    for below in ("CA", "libvirt/private"):
        (folder / below).mkdir(parents=True)
    client = authority.identity("client").pem.read_bytes()
    (folder / "CA/cacert.pem").write_bytes(authority.bundle.read_bytes())
    (folder / "libvirt/clientcert.pem").write_bytes(client)
    (folder / "libvirt/private/clientkey.pem").write_bytes(client)
    return folder


def test_an_image_is_imported_to_a_host_that_is_known_by_its_certificate(
    simulator: SimulatorFactory, guest_folder: Path, tmp_path: Path
) -> None:
    """One of another authority gets nothing."""
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    port, server = free_port(), simulator()
    settings = CERTIFICATES.format(port=port, authority=ours.bundle, server=ours.identity("server", "localhost").pem)
    image = guest_folder / "source.raw"
    image.write_bytes(boot_sector_guest("marker").image.read_bytes())
    words: list[str | Path] = [
        "import", image, "--json", "-o", guest_folder / "out", "--to", f"qemu+tls://localhost:{port}/system",
        "--pool", "images", "--no-convert", "--acceleration", "tcg", "--cpus", "1", "--memory", "64MiB",
        "--prove", "--prove-marker", MARKER,
    ]  # fmt: skip
    with running_libvirtd(settings=settings, listens=True) as target:
        (pool := guest_folder / "images").mkdir()
        target.virsh("pool-create-as", "images", "dir", "--target", pool)

        def run(pki: Path) -> Ended:
            through = ("unshare", "--mount", "sh", "-c", MOUNTED, str(pki))
            return Program(tmp_path / "home", server, through).run(*words)

        (nothing := tmp_path / "nothing").mkdir()
        for pki in (nothing, pki_of(tmp_path / "unknown", theirs)):
            refused = run(pki)
            assert refused.error["code"] == "libvirt_certificate", refused.explain()
        assert (target.domains(), list(pool.iterdir())) == ([], [])
        result = run(pki_of(tmp_path / "known", ours)).result
        assert (result["proof"]["verdict"], result["disks"]) == ("marker", [str(pool / "source-disk1.qcow2")])
        assert target.domains() == ["source"]


def test_a_pool_of_this_host_gets_the_image_itself_and_gives_it_back(move: Callable[..., Move]) -> None:
    moved = move()
    here = ["--to", moved.ssh.daemon.uri]
    failed = moved.run(*here, "--prove", "--prove-marker", "never printed", "--prove-timeout", "5")
    (plan,) = [event for event in failed.seen if event["type"] == "plan"]
    assert plan["storage"] == {"pool": "images", "placing": ["move"], "extra_bytes": 0}
    assert failed.error["code"] == "boot_unproved"
    moved.assert_undone()
    image = moved.folder / "web-01-disk1.qcow2"
    before = sha256(image)
    result = moved.run(*here, "--prove", "--prove-marker", MARKER).result
    assert result["disks"] == [str(moved.pool / image.name)]
    assert sha256(moved.pool / image.name) == before
    assert not image.exists()


def uploading(moved: Move, *more: str | Path) -> Running:
    """A command in the middle of an upload, which does not go on: its ssh is stopped."""
    running = moved.program.start(*moved.words(*more))
    running.until(lambda: bool(moved.volumes()))
    for session in moved.ssh.sessions():
        os.kill(session, signal.SIGSTOP)
    assert not is_complete(moved), "it was faster than the test"
    return running


def is_complete(moved: Move) -> bool:
    image = moved.folder / "web-01-disk1.qcow2"
    volume = run_tool(*moved.ssh.daemon.inside(), "stat", "--format=%b", moved.pool / image.name)
    return int(volume) >= image.stat().st_blocks


def test_a_connection_that_breaks_in_an_upload_is_made_again_for_the_undo(move: Callable[..., Move]) -> None:
    moved = move(96 * MiB)
    running = uploading(moved, "--start")
    moved.ssh.cut()
    error = running.wait().error
    assert error["code"] == "libvirt_unreachable", error
    moved.assert_undone()
    assert moved.run("--start").result["started"]


def test_a_cancel_in_an_upload_leaves_nothing(move: Callable[..., Move]) -> None:
    moved = move(96 * MiB)
    running = uploading(moved, "--start")
    running.process.send_signal(signal.SIGINT)
    for session in moved.ssh.sessions():
        os.kill(session, signal.SIGCONT)
    assert running.wait().status == 130
    moved.assert_undone()


def test_killed_in_an_upload_the_next_run_begins_it_anew(move: Callable[..., Move]) -> None:
    moved = move(96 * MiB)
    running = uploading(moved, "--start")
    running.process.kill()
    running.wait()
    moved.ssh.cut()
    assert moved.source.vm("web-01").power == "poweredOff"
    done = moved.run("--start")
    assert done.result["started"]
    (plan,) = [event for event in done.seen if event["type"] == "plan"]
    assert plan["export"] is None, "nothing was copied again from the source"
    assert moved.volumes() == ["web-01-disk1.qcow2"]
    assert sha256(moved.pool / "web-01-disk1.qcow2") == sha256(moved.folder / "web-01-disk1.qcow2")


def test_what_is_in_the_way_of_an_upload_is_told_before_the_export(move: Callable[..., Move]) -> None:
    moved = move()
    (moved.pool / "web-01-disk1.qcow2").write_bytes(b"precious")
    assert moved.run().error["code"] == "volume_exists"
    assert (moved.pool / "web-01-disk1.qcow2").read_bytes() == b"precious"
    (moved.pool / "web-01-disk1.qcow2").unlink()
    moved.ssh.daemon.virsh("pool-define-as", "off", "dir", "--target", moved.pool / "off")
    assert moved.run("--pool", "off").error["code"] == "pool_inactive"
    assert moved.run("--pool", "none").error["code"] == "no_such_pool"
    run_tool(*moved.ssh.daemon.inside(), "mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", moved.pool)
    try:
        error = moved.run().error
        assert (error["code"], error["available_bytes"] <= 4 * MiB) == ("pool_too_small", True)
    finally:
        run_tool(*moved.ssh.daemon.inside(), "umount", moved.pool)
    assert not moved.folder.exists()
