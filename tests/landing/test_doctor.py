"""What `doctor` says of a host that converts guests: libguestfs's appliance and the kernel that it needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hypersdk.guest import appliance
from hypersdk.guest.appliance import boot_appliance, unreadable_kernels
from hypersdk.guest.faults import ConversionError
from hypersdk.guest.tools import GuestTools, find_tools
from hypersdk.kvm.address import parse_libvirt_address
from hypersdk.landing.doctor import examine_landing
from hypersdk.model.check import CheckStatus, DoctorCheck
from hypersdk.remedies import advice
from hypersdk.transfer.cancel import CancelToken
from tests.support.guestprograms import script

TARGET = parse_libvirt_address("test:///default")


def tools_with(guestfish: Path) -> GuestTools:
    found = find_tools()
    return replace(found, paths={**found.paths, "guestfish": str(guestfish)})


def examined(tools: GuestTools, *, appliance: bool) -> dict[str, DoctorCheck]:
    checks = examine_landing(TARGET, tools, None, appliance=appliance, cancel=CancelToken())
    return {check.name: check for check in checks}


def test_an_appliance_that_boots_is_told_with_its_time(tmp_path: Path) -> None:
    """It is run as for a conversion: without a disk, with the settings of this host."""
    said = tmp_path / "said"
    tools = tools_with(script(tmp_path / "guestfish", f'echo "$* $LIBGUESTFS_BACKEND" >{said}'))
    found = examined(tools, appliance=True)["appliance"]
    assert (found.status, "boots" in found.detail) == (CheckStatus.OK, True)
    assert said.read_text() == "-a /dev/null run direct\n"
    said.unlink()
    assert "appliance" not in examined(tools, appliance=False), "it takes long: only where it is asked for"
    assert not said.exists()


def test_one_that_does_not_boot_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    broken = script(tmp_path / "guestfish", "echo 'supermin exited with error status 1' >&2; exit 1")
    found = examined(tools_with(broken), appliance=True)["appliance"]
    assert found.status is CheckStatus.FAIL
    assert "libguestfs-test-tool" in advice(found.remedies)
    with pytest.raises(ConversionError):
        boot_appliance(tools_with(broken), accelerated=False, cancel=CancelToken())


def test_one_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appliance, "LIMIT_S", 0.2)
    found = examined(tools_with(script(tmp_path / "guestfish", "sleep 1000")), appliance=True)["appliance"]
    assert (found.status, "did not boot" in found.detail) == (CheckStatus.FAIL, True)


def test_a_kernel_that_nobody_but_root_may_read_is_found(tmp_path: Path) -> None:
    assert unreadable_kernels({}, tmp_path) == (), "there is none: the appliance may have its own"
    kernel, other = tmp_path / "boot/vmlinuz-6.8", tmp_path / "lib/modules/6.1/vmlinuz"
    kernel.parent.mkdir()
    kernel.symlink_to("nowhere")  # root, who runs the tests, may read every file
    assert unreadable_kernels({}, tmp_path) == (kernel,)
    assert unreadable_kernels({"SUPERMIN_KERNEL": "/srv/vmlinuz"}, tmp_path) == ()
    other.parent.mkdir(parents=True)
    other.touch()
    assert unreadable_kernels({}, tmp_path) == ()
