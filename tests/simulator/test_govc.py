"""Unmodified govc on a vCenter and on an ESXi host of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hypersdk.simulator import DiskSpec, MachineSpec, Simulator
from hypersdk.simulator.machine import SimulatedMachine
from hypersdk.units import GiB, MiB
from tests.support.peers import govc, run_govc
from tests.support.simulatorclients import govc_url, simulated
from tests.support.tools import run_tool
from tests.support.waiting import eventually

ODD = 3 * MiB + 512
MACHINES = (
    MachineSpec("alpha", (DiskSpec(4 * MiB), DiskSpec(ODD, allocated_bytes=2 * MiB)), annotation="first"),
    MachineSpec("beta", power="poweredOn", nics=2, folder="Team/Sub", cpus=4, memory_mb=8192),
    MachineSpec("slash/per%cent", disks=(DiskSpec(2 * MiB),)),
    MachineSpec("power", disks=(DiskSpec(MiB),)),
    MachineSpec("snap", (DiskSpec(4 * MiB),), power="poweredOn"),
    MachineSpec("cd", (DiskSpec(MiB),)),
    MachineSpec("points", (DiskSpec(MiB),), snapshots=("one", "two")),
)


@pytest.fixture(scope="module", params=["vcenter", "esxi"])
def server(request: pytest.FixtureRequest) -> Iterator[Simulator]:
    with simulated(machines=MACHINES, esxi=request.param == "esxi", seed=7) as running:
        yield running


def run(server: Simulator, *args: str | Path) -> str:
    return run_govc(govc_url(server), *args)


def as_json(server: Simulator, command: str, *args: str) -> Any:
    return json.loads(run(server, command, "-json", *args))


def refused(server: Simulator, *args: str | Path) -> str:
    """What govc says when it fails, as it must."""
    tried = govc(govc_url(server), *args)
    assert tried.returncode == 1, tried.stdout + tried.stderr
    return tried.stderr


def power(server: Simulator, name: str) -> str:
    state: str = as_json(server, "vm.info", name)["virtualMachines"][0]["runtime"]["powerState"]
    return state


def root(server: Simulator) -> str:
    return "/ha-datacenter" if server.config.esxi else "/Amsterdam"


def test_about(server: Simulator) -> None:
    about = as_json(server, "about")["about"]
    kinds = ("HostAgent", "embeddedEsx") if server.config.esxi else ("VirtualCenter", "vpx")
    assert (about["apiType"], about["productLineId"]) == kinds
    assert about["apiVersion"] == "8.0.3.0"


def test_ls_and_find(server: Simulator) -> None:
    base = root(server)
    folders = [f"{base}/{kind}" for kind in ("vm", "host", "datastore", "network")]
    assert run(server, "ls").split() == folders
    beta = f"{base}/vm/beta" if server.config.esxi else f"{base}/vm/Team/Sub/beta"
    found = run(server, "find", "/", "-type", "m").splitlines()
    assert sorted(found) == sorted(
        [
            beta,
            *(f"{base}/vm/{m.name}" for m in MACHINES if m.name not in ("beta", "slash/per%cent")),
            f"{base}/vm/slash%2fper%25cent",
        ]
    )
    assert f"{base}/vm/alpha" in run(server, "ls", f"{base}/vm").splitlines()
    hosts = run(server, "find", "/", "-type", "h").splitlines()
    assert len(hosts) == (1 if server.config.esxi else server.config.hosts)
    assert len(run(server, "find", "/", "-type", "s").splitlines()) == 4


def test_vm_info(server: Simulator) -> None:
    shown = run(server, "vm.info", "beta")
    assert "Memory:       8192MB" in shown
    assert "CPU:          4 vCPU(s)" in shown
    assert "Power state:  poweredOn" in shown
    everything = run(server, "vm.info", "*")
    assert everything.count("Name:  ") == len(MACHINES)
    long = run(server, "vm.info", "-e", "-r", "-t", "alpha")
    assert "Storage:              " in long
    assert "nvram" in long
    machine = as_json(server, "vm.info", "alpha")["virtualMachines"][0]
    disks = [d for d in machine["config"]["hardware"]["device"] if "capacityInBytes" in d]
    assert [disk["capacityInBytes"] for disk in disks] == [4 * MiB, ODD]
    assert machine["config"]["annotation"] == "first"
    assert machine["summary"]["vm"] == machine["self"]


def test_vm_by_inventory_path(server: Simulator) -> None:
    assert "Name:           alpha" in run(server, "vm.info", "-vm.ipath", f"{root(server)}/vm/alpha")


def test_power(server: Simulator) -> None:
    for flag, state in (
        ("-on", "poweredOn"),
        ("-suspend", "suspended"),
        ("-on", "poweredOn"),
        ("-reset", "poweredOn"),
        ("-off", "poweredOff"),
    ):
        run(server, "vm.power", flag, "power")
        assert power(server, "power") == state
    assert "current state (Powered off)" in refused(server, "vm.power", "-off", "power")
    run(server, "vm.power", "-on", "power")
    run(server, "vm.power", "-s", "power")
    eventually(lambda: power(server, "power") == "poweredOff")


def test_snapshots(server: Simulator) -> None:
    before = server.state()["machines"]
    path = f"{root(server)}/vm/snap"
    run(server, "snapshot.create", "-vm", "snap", "-d", "the first", "-m=false", "one")
    server.change_disk("snap", 0, range(4))
    run(server, "snapshot.create", "-vm", "snap", "two")
    assert run(server, "snapshot.tree", "-vm", "snap").split() == ["one", "two", "."]
    run(server, "snapshot.revert", "-vm", "snap", "one")
    assert power(server, "snap") == "poweredOff"  # taken without memory
    assert run(server, "snapshot.tree", "-vm", "snap").split() == ["one", ".", "two"]
    run(server, "snapshot.revert", "-vm", "snap", "two")
    assert power(server, "snap") == "poweredOn"
    run(server, "snapshot.revert", "-vm", "snap")
    run(server, "snapshot.remove", "-vm", "snap", "one")
    assert run(server, "snapshot.tree", "-vm", "snap").split() == ["two", "."]
    run(server, "snapshot.remove", "-vm", "snap", "*")
    assert run(server, "snapshot.tree", "-vm", "snap") == ""
    after = server.state()["machines"]
    assert after[path]["files"] == before[path]["files"], "a delta was left"
    assert {k: v for k, v in after.items() if k != path} == {k: v for k, v in before.items() if k != path}


def test_devices(server: Simulator) -> None:
    assert "disk-1000-1" in run(server, "device.ls", "-vm", "alpha")
    shown = run(server, "device.info", "-vm", "alpha", "disk-1000-0")
    assert "[nvme-prod-01] alpha/alpha.vmdk" in shown
    assert run(server, "device.info", "-vm", "beta", "ethernet-*").count(" 00:50:56:") == 2


def test_cdroms(server: Simulator) -> None:
    before = server.state()
    added = run(server, "device.cdrom.add", "-vm", "cd").strip()
    assert added.startswith("cdrom-")
    run(server, "device.cdrom.insert", "-vm", "cd", "-device", added, "-ds", "iso-library", "tools/virtio-win.iso")
    assert "ISO [iso-library] tools/virtio-win.iso" in run(server, "device.info", "-vm", "cd", added)
    run(server, "device.cdrom.eject", "-vm", "cd", "-device", added)
    assert "virtio-win" not in run(server, "device.info", "-vm", "cd", added)
    run(server, "device.remove", "-vm", "cd", added)
    assert added not in run(server, "device.ls", "-vm", "cd")
    assert server.state() == before


def test_datastores(server: Simulator, tmp_path: Path) -> None:
    assert run(server, "datastore.ls", "-ds", "iso-library").split() == ["linux", "tools", "windows"]
    assert run(server, "datastore.ls", "-ds", "iso-library", "too*").split() == ["tools"]
    assert "nosuch was not found" in refused(server, "datastore.ls", "-ds", "iso-library", "nosuch")
    deep = run(server, "datastore.ls", "-R", "-ds", "iso-library")
    assert "[iso-library] tools" in deep
    assert "virtio-win.iso" in deep
    listed = as_json(server, "datastore.ls", "-l", "-ds", "nvme-prod-01", "alpha")
    names = {file["path"] for folder in listed for file in folder["file"]}
    assert {"alpha.vmx", "alpha.vmdk", "alpha-flat.vmdk", "alpha_1-flat.vmdk", "alpha.nvram"} <= names
    info = as_json(server, "datastore.info", "nvme-prod-01")["datastores"][0]["summary"]
    assert (info["type"], info["accessible"]) == ("VMFS", True)
    assert 0 < info["freeSpace"] < info["capacity"] == server.config.datastore_bytes

    raw, fetched = tmp_path / "disk.raw", tmp_path / "flat.vmdk"
    server.write_raw("alpha", 1, raw)
    run(server, "datastore.download", "-ds", "nvme-prod-01", "alpha/alpha_1-flat.vmdk", fetched)
    assert fetched.read_bytes() == raw.read_bytes()

    sent, back = tmp_path / "up.bin", tmp_path / "down.bin"
    sent.write_bytes(bytes(range(256)) * 1000)
    run(server, "datastore.upload", "-ds", "iso-library", sent, "own/ü p.bin")
    run(server, "datastore.download", "-ds", "iso-library", "own/ü p.bin", back)
    assert back.read_bytes() == sent.read_bytes()
    run(server, "datastore.rm", "-ds", "iso-library", "own/ü p.bin")
    assert "not found" in refused(server, "datastore.ls", "-ds", "iso-library", "own")


def exported(server: Simulator, folder: Path, name: str, index: int, snapshot: str | None = None) -> None:
    """Holds what govc wrote against what the disk is known to hold, by qemu-img's reading."""
    (vmdk,) = folder.glob(f"*/*disk-{index}.vmdk")
    want, have = folder / f"want-{index}.raw", folder / f"have-{index}.raw"
    server.write_raw(name, index, want, snapshot=snapshot)
    run_tool("qemu-img", "convert", "-f", "vmdk", "-O", "raw", vmdk, have)
    assert have.stat().st_size == want.stat().st_size
    run_tool("qemu-img", "compare", "-f", "raw", "-F", "raw", want, have)


def test_export(server: Simulator, tmp_path: Path) -> None:
    before = server.state()
    run(server, "export.ovf", "-vm", "alpha", "-sha", "256", tmp_path)
    exported(server, tmp_path, "alpha", 0)
    exported(server, tmp_path, "alpha", 1)
    text = (tmp_path / "alpha" / "alpha.ovf").read_text()
    assert text.count("<Disk ") == 2
    assert f'ovf:capacity="{ODD}"' in text
    assert server.state() == before


def test_export_of_a_name_with_slash(server: Simulator, tmp_path: Path) -> None:
    run(server, "export.ovf", "-vm", "slash%2fper%25cent", "-name", "plain", tmp_path)
    exported(server, tmp_path, "slash/per%cent", 0)


def test_export_of_a_snapshot(server: Simulator, tmp_path: Path) -> None:
    assert "(Powered on)" in refused(server, "export.ovf", "-vm", "beta", tmp_path)
    run(server, "snapshot.create", "-vm", "beta", "point")
    server.change_disk("beta", 0, range(3))
    run(server, "export.ovf", "-vm", "beta", "-snapshot", "point", tmp_path)
    exported(server, tmp_path, "beta", 0, snapshot="point")
    now, then = server.disk_image("beta"), server.disk_image("beta", snapshot="point")
    assert now.block(0) != then.block(0), "the test would prove nothing"
    run(server, "snapshot.remove", "-vm", "beta", "*")


def test_events_and_tasks(server: Simulator) -> None:
    run(server, "vm.power", "-on", "cd")
    run(server, "vm.power", "-off", "cd")
    said = run(server, "events", "-n", "5", f"{root(server)}/vm/cd")
    assert said.index("cd on esx01.example.com is powered on") < said.index("is powered off")
    assert "logged in" in run(server, "events", "-n", "100")
    tasks = run(server, "tasks")
    assert "PowerOffVM" in tasks
    assert "success" in tasks


def test_object_collect(server: Simulator) -> None:
    path = f"{root(server)}/vm/alpha"
    assert run(server, "object.collect", "-s", path, "name", "runtime.powerState").split() == ["alpha", "poweredOff"]
    names = run(server, "object.collect", "-type", "m", "/", "name")
    assert names.count("VirtualMachine:vm-") == len(MACHINES)
    assert "serverClock" in run(server, "object.collect")
    assert "The property 'bogus' does not exist" in refused(server, "object.collect", path, "bogus")


def test_pools_and_sessions(server: Simulator) -> None:
    pools = run(server, "pool.info", "*")
    assert pools.count("Name:               Resources") == (1 if server.config.esxi else 2)
    sessions = as_json(server, "session.ls")
    assert sessions["currentSession"]["userName"] == server.username
    assert sessions["currentSession"]["key"] in [session["key"] for session in sessions["sessionList"]]


LOOKS = (
    "about.cert",
    "tree",
    "ls -l {root}/vm",
    "ls {root}/host",
    "find / -type p",
    "find / -type m -runtime.powerState poweredOn",
    "vm.info -json *",
    "vm.ip -a -wait 20s beta",
    "device.ls -vm alpha -boot",
    "device.info -vm alpha -json",
    "datastore.ls -l -ds nvme-prod-01",
    "datastore.ls -l -R -ds iso-library",
    "datastore.ls -R -a -ds nvme-prod-01",
    "datastore.info",
    "datastore.tail -ds nvme-prod-01 alpha/vmware.log",
    "snapshot.tree -D -i -f -s -vm points",
    "events -l",
    "tasks -l",
    "object.collect {root}/vm/alpha",
    "object.collect -json {root}/vm/alpha",
    "object.collect {root}/datastore/nvme-prod-01",
    "object.collect -s {root}/vm/alpha name customValue tag value triggeredAlarmState",
    "object.collect -type HostSystem / hardware.cpuFeature",
    "object.collect -type ComputeResource / configurationEx",
    "pool.info -json *",
    "host.info -json *",
    "datacenter.info",
    "session.ls",
    "vm.info -g -e -r -t *",
    "role.ls",
    "version -l",
)


@pytest.mark.parametrize("command", LOOKS)
def test_what_only_looks(server: Simulator, command: str) -> None:
    """The rest of govc that a site's inventory is read by. Each says something, and none crashes."""
    before = server.state()
    assert run(server, *command.format(root=root(server)).split()).strip()
    assert server.state() == before


def test_a_known_property_that_is_not_modelled_is_no_fault(server: Simulator) -> None:
    path = f"{root(server)}/vm/alpha"
    assert run(server, "object.collect", "-s", path, "name", "runtime.question", "layout").split() == ["alpha"]


def test_clusters() -> None:
    with simulated() as server:
        for what in ("rule.ls", "group.ls", "override.info"):
            run(server, f"cluster.{what}", "-cluster", "prod-cluster")
        assert "CPU usage" in run(server, "cluster.usage", "prod-cluster")
        assert (
            run(server, "object.collect", "-s", "host/prod-cluster", "configurationEx.drsConfig.enabled").strip()
            == "false"
        )


def test_it_is_the_whole_of_govc() -> None:
    """Not a choice of commands that happen to work: as many packages of commands as the module has."""
    shown = run_govc("https://127.0.0.1:1/sdk", "-h")
    assert {
        "cluster.rule.ls",
        "host.esxcli",
        "library.import",
        "namespace.create",
        "sso.user.ls",
        "vm.rdm.attach",
        "vsan.info",
    } <= set(shown.split())


def test_a_wrong_password_is_refused(server: Simulator) -> None:
    tried = govc(f"https://root:wrong@{server.authority_part}/sdk", "about")
    assert tried.returncode == 1
    assert "incorrect user name or password" in tried.stderr


def test_clone_and_template(tmp_path: Path) -> None:
    with simulated(machines=(MachineSpec("origin", (DiskSpec(2 * MiB),)),)) as server:
        run(
            server,
            "vm.clone",
            "-vm",
            "origin",
            "-ds",
            "nvme-prod-02",
            "-pool",
            "prod-cluster/Resources",
            "-on=false",
            "copy",
        )
        assert server.disk_image("copy").key() == server.disk_image("origin").key()
        run(server, "vm.markastemplate", "copy")
        assert "template" in refused(server, "vm.power", "-on", "copy").lower()
        run(server, "vm.markasvm", "-pool", "prod-cluster/Resources", "copy")
        run(server, "vm.power", "-on", "copy")
        run(server, "vm.power", "-off", "copy")
        run(server, "vm.destroy", "copy")
        assert [machine.name for machine in server.platform.world.all(SimulatedMachine)] == ["origin"]


def test_a_big_disk_in_little_time(tmp_path: Path) -> None:
    """Sizes behind 32 bits: 4 TiB with one block in each 512 GiB."""
    spec = MachineSpec("huge", (DiskSpec(4096 * GiB, stride_bytes=512 * GiB),))
    with simulated(machines=(spec,)) as server:
        run(server, "export.ovf", "-vm", "huge", tmp_path)
        (vmdk,) = tmp_path.glob("*/*.vmdk")
        assert json.loads(run_tool("qemu-img", "info", "--output=json", vmdk))["virtual-size"] == 4096 * GiB
        assert vmdk.stat().st_size < 2 * MiB
        offset = 1024 * GiB
        block = server.disk_image("huge").read(offset, 512)
        assert any(block)
        out = run_tool("qemu-io", "-r", "-f", "vmdk", "-c", f"read -v {offset} 512", vmdk)
        assert block[:16].hex(" ") in out
