"""The program with vcsim, an independent vCenter simulator, and govc to inspect what it left there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from hypersdk.units import KiB, MiB
from tests.support.cli.hyper2kvm import Program
from tests.support.exportchecks import assert_finished, assert_holds
from tests.support.peers import Vcsim
from tests.support.tools import run_tool
from tests.support.writers import Guest

pytestmark = pytest.mark.slow

VM: Final = "DC0_H0_VM0"
KINDS: Final = ("random", "text", "half", "thin", "full")
GUEST: Final = Guest(24 * MiB + 512, {index: KINDS[index % 5] for index in range(0, 385, 2)})


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of the guest's disk."""
    return GUEST.write_raw(tmp_path_factory.mktemp("guest") / "expected.raw")


@pytest.fixture
def site(vcsim: Callable[..., Vcsim], raw: Path, tmp_path: Path) -> Callable[..., tuple[Vcsim, Program]]:
    """A vcsim with one machine whose disk lies in its datastore, as a stream (for leases) and flat (for ranges); and
    the program."""
    folder = tmp_path / "disks" / VM
    folder.mkdir(parents=True)
    run_tool(
        "qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, folder / "disk1.vmdk"
    )
    (folder / "disk1-flat.vmdk").write_bytes(raw.read_bytes())

    def start(**flags: Any) -> tuple[Vcsim, Program]:
        server = vcsim(vm=1, cluster=0, standalone_host=1, disks=tmp_path / "disks", **flags)
        return server, Program(tmp_path / "home", server)

    return start


def as_found(server: Vcsim) -> dict[str, Any]:
    """The machine as seen by govc."""
    (machine,) = json.loads(server.govc("vm.info", "-json", VM))["virtualMachines"]
    devices = json.loads(server.govc("device.ls", "-vm", VM, "-json"))["devices"]
    return {
        "power": machine["runtime"]["powerState"],
        "snapshots": server.govc("snapshot.tree", "-vm", VM).replace(".", " ").split(),  # a dot marks the present
        "devices": sorted(device["name"] for device in devices),
        "files": [backing_of(device) for device in devices],
    }


def backing_of(device: dict[str, Any]) -> str:
    """The file behind a device, if any."""
    return str((device.get("backing") or {}).get("fileName", ""))


def exported(hyper2kvm: Program, raw: Path, folder: Path, *flags: str) -> dict[str, Any]:
    """Exports the machine, verifies the image, and returns the result."""
    ended = hyper2kvm.export(VM, "-o", folder, "--datastore-floor", "0%", *flags)
    assert_holds(folder, [raw], ended.result["content"], folder.parent / "judged")
    assert_finished(folder)
    return ended.result


def test_list_and_inspect(site: Callable[..., tuple[Vcsim, Program]]) -> None:
    _, hyper2kvm = site()
    machines = hyper2kvm.run("list", "--json").seen
    assert [machine["name"] for machine in machines] == [VM]
    ended = hyper2kvm.run("inspect", VM, "--json")
    assert ended.status == 0, ended.explain()
    (disk,) = ended.seen[-1]["disks"]
    assert disk["capacity_bytes"] == GUEST.capacity


@pytest.mark.parametrize("kind", ["qcow2", "ovf", "ova"])
def test_a_machine_that_is_off(
    kind: str, site: Callable[..., tuple[Vcsim, Program]], raw: Path, tmp_path: Path
) -> None:
    server, hyper2kvm = site(autostart=False)
    before = as_found(server)
    result = exported(hyper2kvm, raw, tmp_path / "out", "--format", kind)
    assert result["proof"] == "unproved: the server gave no manifest"
    assert as_found(server) == before
    assert hyper2kvm.run("verify", "--json", tmp_path / "out").status == 0


def test_a_running_machine_through_a_snapshot_that_goes_again(
    site: Callable[..., tuple[Vcsim, Program]], raw: Path, tmp_path: Path
) -> None:
    server, hyper2kvm = site()
    before = as_found(server)
    assert before["power"] == "poweredOn"
    exported(hyper2kvm, raw, tmp_path / "out")
    assert as_found(server) == before


def test_a_named_snapshot(site: Callable[..., tuple[Vcsim, Program]], raw: Path, tmp_path: Path) -> None:
    server, hyper2kvm = site()
    server.govc("snapshot.create", "-vm", VM, "monday")
    before = as_found(server)
    exported(hyper2kvm, raw, tmp_path / "out", "--from-snapshot", "monday")
    assert as_found(server) == before
    assert before["snapshots"] == ["monday"]


def test_a_named_snapshot_has_the_machine_as_it_was_then(
    site: Callable[..., tuple[Vcsim, Program]], raw: Path, tmp_path: Path
) -> None:
    """Since the snapshot, its disk was replaced by another one and CPUs were added: the current device list would miss
    its data."""
    server, hyper2kvm = site(autostart=False)
    cpus = hyper2kvm.run("inspect", VM, "--json").seen[-1]["cpus"]
    server.govc("snapshot.create", "-vm", VM, "monday")
    (disk,) = server.govc("device.ls", "-vm", VM, "disk-*").split()[:1]
    server.govc("device.remove", "-vm", VM, "-keep", disk)
    for number in (1, 2):
        server.govc("vm.disk.create", "-vm", VM, "-name", f"{VM}/later{number}", "-size", "1M")
    server.govc("vm.change", "-vm", VM, "-c", str(cpus + 3))
    exported(hyper2kvm, raw, tmp_path / "out", "--from-snapshot", "monday", "--format", "ovf")
    envelope = (tmp_path / "out" / f"{VM}.ovf").read_text()
    assert f"<rasd:VirtualQuantity>{cpus}</rasd:VirtualQuantity>" in envelope


def test_powered_off_for_the_export(site: Callable[..., tuple[Vcsim, Program]], raw: Path, tmp_path: Path) -> None:
    server, hyper2kvm = site()
    before = as_found(server)
    exported(hyper2kvm, raw, tmp_path / "out", "--power-off")
    assert as_found(server) == before


def test_ranges_go_on_after_a_kill(site: Callable[..., tuple[Vcsim, Program]], raw: Path, tmp_path: Path) -> None:
    server, hyper2kvm = site(autostart=False)
    folder, flags = tmp_path / "out", ("--source", "datastore", "--bwlimit", "8MiB")
    running = hyper2kvm.start("export", "--json", VM, "-o", folder, *flags)
    ledger = folder / f"{VM}-disk1.qcow2.partial.blocks"
    assert running.kill_when(lambda: ledger.exists() and ledger.stat().st_size > 4096 + 40 * 100)
    result = exported(hyper2kvm, raw, folder, "--source", "datastore", "--resume")
    assert result["blocks_skipped"] > 50
    assert result["wire_bytes"] == GUEST.capacity - result["blocks_skipped"] * 64 * KiB
    assert result["proof"].startswith("unproved: read as datastore ranges")
    assert as_found(server)["power"] == "poweredOff"


def test_a_lease_goes_on_after_a_kill(site: Callable[..., tuple[Vcsim, Program]], raw: Path, tmp_path: Path) -> None:
    server, hyper2kvm = site()
    before = as_found(server)
    folder = tmp_path / "out"
    running = hyper2kvm.start(
        "export", "--json", VM, "-o", folder, "--source", "lease", "--bwlimit", "3MiB", "--datastore-floor", "0%"
    )
    ledger = folder / f"{VM}-disk1.qcow2.partial.blocks"
    assert running.kill_when(lambda: ledger.exists() and ledger.stat().st_size > 4096 + 40 * 100)
    assert len(as_found(server)["snapshots"]) == 1
    result = exported(hyper2kvm, raw, folder, "--source", "lease", "--resume")
    assert result["blocks_skipped"] > 30
    assert as_found(server) == before
