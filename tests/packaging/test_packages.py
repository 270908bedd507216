"""The packages as they are installed: the .deb in a root made by mmdebstrap, the .rpm unpacked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.bootedsystem import booted_system
from tests.support.guests.bootsectors import boot_sector_guest
from tests.support.pages import dead_links
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
BUILD_S = 1200
STATE = "/var/lib/hypersdk"
IMPORT = {
    "kind": "import", "source": f"{STATE}/exports/web-01.raw", "output_path": f"{STATE}/exports/batch/web-01",
    "to": "kvm1", "cpus": 1, "memory": "32MiB", "convert": False, "prove": True, "start": True, "source_off": True,
}  # fmt: skip
"""A job. It runs without a network: an image alone has no card."""
PROGRAMS = ("hyper2kvm", "hyperctl", "hypervisord", "hyperexport", "v2kvmctl", "v2kvmd")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(BUILD_S), pytest.mark.xdist_group("packages")]


def run(*command: str | Path, timeout_s: float = BUILD_S, statuses: Sequence[int] = (0,)) -> str:
    """The output of a command that must end with one of ``statuses``."""
    done = subprocess.run(
        [str(one) for one in command], capture_output=True, text=True, timeout=timeout_s, check=False, cwd=ROOT
    )
    assert done.returncode in statuses, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder with both packages."""
    for tool, package in (("go", "golang"), ("mmdebstrap", "mmdebstrap"), ("rpm2cpio", "rpm2cpio"), ("cpio", "cpio")):
        if shutil.which(tool) is None:
            pytest.fail(f"{tool} is not installed (Debian package {package}); see scripts/test", pytrace=False)
    folder = tmp_path_factory.mktemp("packages")
    run(ROOT / "scripts" / "package", folder)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="mmdebstrap's root mode needs root")
def test_the_deb_is_installed_in_a_clean_debian_and_runs_the_demo(packages: Path, tmp_path: Path) -> None:
    (deb,) = packages.glob("*.deb")
    root = tmp_path / "root"
    run("mmdebstrap", "--mode=root", "--variant=minbase", "--include=python3,libvirt0", "bookworm", root)
    try:
        shutil.copy(deb, root / "hypersdk.deb")
        run("chroot", root, "dpkg", "--install", "/hypersdk.deb")
        for name in PROGRAMS:
            assert "0.1.0" in run("chroot", root, f"/usr/bin/{name}", "--version")
        demo = run(
            "chroot",
            root,
            "env",
            "HOME=/root",
            "LANG=C.UTF-8",
            "hyper2kvm",
            "demo",
            "--machines",
            "3",
            "-o",
            "/tmp/demo",
            timeout_s=300,
        )
        assert "/tmp/demo" in demo
        assert (root / "tmp/demo/artifact-manifest.json").exists()
        # libvirt's own driver for tests needs no daemon: the library in the package found that of the distribution.
        doctor = run("chroot", root, "hyper2kvm", "doctor", "--to", "test:///default", "--json", statuses=(0, 3))
        checks = {
            check["name"]: check for line in doctor.splitlines() if (check := json.loads(line))["type"] == "check"
        }
        assert (checks["connection"]["status"], checks["permission"]["status"]) == ("ok", "ok"), doctor
        assert "apt install" in checks["virt-v2v-in-place"]["next_step"]
        settings = run("chroot", root, "hypervisord", "--config", "/etc/hypersdk/hypervisord.toml", "--show-config")
        assert 'addr = "localhost:8080"' in settings
        assert (root / "usr/share/man/man8/hypervisord.8.gz").exists()
        run("chroot", root, "dpkg", "--remove", "hypersdk")
        assert not (root / "opt/hypersdk/lib").exists()
    finally:
        shutil.rmtree(root)


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")
def test_the_services_of_the_deb_land_and_start_a_machine(packages: Path) -> None:
    """Under systemd, as installed: the workers may use libvirt and let QEMU at the image, the API does not see it."""
    (deb,) = packages.glob("*.deb")
    guest = boot_sector_guest("marker")
    with booted_system([deb, guest.image]) as system:
        system.run("dpkg", "--install", f"/root/{deb.name}")
        assert {"kvm", "libvirt"} <= set(system.run("id", "--groups", "--name", "hypersdk").split())
        system.run("systemctl", "start", "virtlogd.socket", "libvirtd.socket", "libvirtd-ro.socket", "hypervisord")
        eventually(lambda: system.is_active("hypervisord-worker"), explain=lambda: system.log_of("hypervisord-worker"))
        api = system.run("systemctl", "show", "--property=MainPID", "--value", "hypervisord").strip()
        assert system.run("ls", f"/proc/{api}/root/run/libvirt") == ""
        as_user = ("setpriv", "--reuid=hypersdk", "--regid=hypersdk", "--init-groups")
        target = ("--to", "qemu:///system", "-o", f"{STATE}/exports")
        doctor = _checks(system.run(*as_user, "hyper2kvm", "doctor", "--json", *target))
        assert {doctor["permission"], doctor["folder"]} == {"ok"}

        system.run(
            "install", "--owner=hypersdk", "--mode=640", f"/root/{guest.image.name}", f"{STATE}/exports/web-01.raw"
        )
        system.run("sh", "-c", f"printf %s '{json.dumps({**IMPORT, 'prove_marker': guest.marker})}' >/root/job.json")
        system.run("hyperctl", "endpoints", "add", "kvm1", "qemu:///system")
        system.run("hyperctl", "submit", "-file", "/root/job.json")
        job = lambda: json.loads(system.run("hyperctl", "query", "--json").splitlines()[0])  # noqa: E731
        eventually(
            lambda: job()["status"] in ("completed", "failed"), explain=lambda: system.log_of("hypervisord-worker")
        )
        assert job()["status"] == "completed", system.run("hyperctl", "logs", job()["id"])
        assert system.run("virsh", "--connect", "qemu:///system", "domstate", "web-01").strip() == "running"

        system.run("systemctl", "restart", "hypervisord")
        assert "NRestarts=0" in system.run("systemctl", "show", "hypervisord-worker")
        system.run("systemctl", "stop", "hypervisord")
        assert not system.is_active("hypervisord-worker")


def _checks(lines: str) -> dict[str, str]:
    """The status of each check of ``doctor --json``."""
    events = [json.loads(line) for line in lines.splitlines()]
    return {event["name"]: event["status"] for event in events if event["type"] == "check"}


def test_the_rpm_unpacks_and_its_programs_run(packages: Path, tmp_path: Path) -> None:
    (rpm,) = packages.glob("*.rpm")
    root = tmp_path / "root"
    root.mkdir()
    archive = tmp_path / "archive"
    with archive.open("wb") as file:
        subprocess.run(["rpm2cpio", rpm], stdout=file, check=False)  # may end with 1 though all is there; cpio judges
    # The names in the archive are absolute: without the last flag they would be written into the system of whoever runs
    # the test.
    command = ["cpio", "--extract", "--make-directories", "--quiet", "--no-absolute-filenames"]
    with archive.open("rb") as file:
        done = subprocess.run(command, stdin=file, stderr=subprocess.PIPE, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    names = {
        path.relative_to(root).as_posix() for path in root.rglob("*") if "/opt/hypersdk/lib" not in path.as_posix()
    }
    assert {
        "usr/lib/systemd/system/hypervisord.service",
        "usr/lib/systemd/system/hypervisord-worker.service",
        "usr/lib/sysusers.d/hypersdk.conf",
        "usr/lib/tmpfiles.d/hypersdk.conf",
        "etc/hypersdk/hypervisord.toml",
        "usr/share/man/man1/hyperctl.1.gz",
        "usr/share/doc/hypersdk/docs/daemon.md",
        "usr/share/doc/hypersdk/packaging/monitoring/rules/hypersdk.yml",
    } <= names
    assert dead_links(root / "usr/share/doc/hypersdk") == []
    assert {f"usr/bin/{name}" for name in PROGRAMS} <= names
    for module in ("hypersdk.cli.main", "hypersdk.cli.hyperctl.main", "hypersdk.cli.hypervisord.main"):
        assert "0.1.0" in run(root / "opt/hypersdk/bin/python", "-I", "-m", module, "--version")
    assert str(ROOT) not in (root / "usr/bin/hyperctl").read_text()
