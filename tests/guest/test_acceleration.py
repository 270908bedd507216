"""KVM is used where it works, not where its device exists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hypersdk.guest import acceleration
from hypersdk.guest.acceleration import BOOT_SECTOR, KvmProbe, probe_kvm, try_accelerator, use_kvm
from hypersdk.guest.tools import GuestTools, find_tools
from hypersdk.model.guestplan import Acceleration
from hypersdk.transfer.cancel import CancelToken
from tests.support.guestprograms import script
from tests.support.tools import requires


def test_the_boot_sector_reaches_64_bit_mode() -> None:
    """Under emulation, which always works: so a failure under KVM is KVM's."""
    assert len(BOOT_SECTOR) == 512
    qemu = str(requires("qemu-system-x86_64"))
    assert try_accelerator(qemu, "tcg", cancel=CancelToken(), limit_s=120) == KvmProbe(True)


def test_a_guest_that_hangs_and_a_qemu_that_aborts(tmp_path: Path) -> None:
    hangs = script(tmp_path / "hangs", "sleep 600")
    found = try_accelerator(str(hangs), "kvm", cancel=CancelToken(), limit_s=0.2)
    assert not found.works
    assert "hung" in found.reason
    aborts = script(tmp_path / "aborts", "echo 'failed to set MSR 0x10a' >&2; kill -ABRT $$")
    found = try_accelerator(str(aborts), "kvm", cancel=CancelToken())
    assert found == KvmProbe(False, "qemu ended with status 134: failed to set MSR 0x10a")


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A device that can be opened, whatever this host has."""
    path = tmp_path / "kvm"
    path.touch()
    monkeypatch.setattr(acceleration, "DEVICE", path)
    return path


def counting(tmp_path: Path, status: int) -> GuestTools:
    qemu = script(tmp_path / "qemu", f"echo x >>{tmp_path}/runs; exit {status}")
    return GuestTools({acceleration.QEMU: str(qemu)}, None, None)


@pytest.mark.parametrize(("status", "works"), [(acceleration.PASSED, True), (1, False)])
def test_it_is_tried_once_in_a_boot(tmp_path: Path, device: Path, status: int, works: bool) -> None:
    tools, environ = counting(tmp_path, status), {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    for _process in range(2):
        assert probe_kvm(tools, cancel=CancelToken(), environ=environ).works is works
    assert (tmp_path / "runs").read_text() == "x\n"
    kept = tmp_path / "cache/hypersdk/kvm-probe.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    changed = json.loads(kept.read_text()) | {"identity": "an earlier boot", "works": not works}
    kept.write_text(json.dumps(changed))
    assert probe_kvm(tools, cancel=CancelToken(), environ=environ).works is works
    assert (tmp_path / "runs").read_text() == "x\n" * 2


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"identity": 1}'])
def test_a_damaged_cache_is_no_result(tmp_path: Path, device: Path, content: str) -> None:
    cache = tmp_path / "cache/hypersdk"
    cache.mkdir(parents=True)
    (cache / "kvm-probe.json").write_text(content)
    environ = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert probe_kvm(counting(tmp_path, acceleration.PASSED), cancel=CancelToken(), environ=environ).works


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, device: Path) -> None:
    (tmp_path / "file").touch()
    environ = {"XDG_CACHE_HOME": str(tmp_path / "file")}
    assert probe_kvm(counting(tmp_path, acceleration.PASSED), cancel=CancelToken(), environ=environ).works


def test_without_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration, "DEVICE", tmp_path / "missing")
    assert "does not exist" in probe_kvm(find_tools(), cancel=CancelToken()).reason


def test_a_choice_is_not_checked(tmp_path: Path, device: Path) -> None:
    tools, cancel = counting(tmp_path, 1), CancelToken()
    assert use_kvm(Acceleration.KVM, tools, cancel=cancel)
    assert not use_kvm(Acceleration.TCG, tools, cancel=cancel)
    forbidden = {"LIBGUESTFS_BACKEND_SETTINGS": "a:force_tcg"}
    assert not use_kvm(Acceleration.AUTO, tools, cancel=cancel, environ=forbidden)
    assert not (tmp_path / "runs").exists()
    assert not use_kvm(Acceleration.AUTO, tools, cancel=cancel, environ={"XDG_CACHE_HOME": str(tmp_path)})
