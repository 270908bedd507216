"""The packages as they are installed: the .deb in a root made by mmdebstrap, the .rpm unpacked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.pages import dead_links

ROOT = Path(__file__).parents[2]
BUILD_S = 1200
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
