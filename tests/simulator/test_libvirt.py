"""libvirt's ``vpx`` and ``esx`` drivers, and virt-v2v with the tools that it reads disks by, on a simulator. All
unmodified."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest
from lxml import etree

from hypersdk.simulator import DiskSpec, MachineSpec, Simulator
from hypersdk.units import MiB
from tests.support.simulatorclients import simulated
from tests.support.tools import requires

ISO: Final = "[iso-library] tools/virtio-win.iso"
ODD: Final = 5 * MiB + 512
MACHINES: Final = (
    MachineSpec(
        "alpha", (DiskSpec(4 * MiB), DiskSpec(ODD, datastore="nvme-prod-02")), iso=ISO, annotation='say "no" | yes\nnow'
    ),
    MachineSpec(
        "be ta", (DiskSpec(MiB, controller="lsilogic"),), firmware="efi", power="poweredOn", snapshots=("one",), nics=2
    ),
    MachineSpec(
        "buses", (DiskSpec(MiB, controller="ide"), DiskSpec(2 * MiB, controller="ahci")), cpus=4, memory_mb=1024
    ),
    MachineSpec("sl/ash%", (DiskSpec(MiB, controller="lsilogic-sas"),)),
)


class Libvirt:
    """``virsh`` and ``virt-v2v`` with the simulator's address and password."""

    def __init__(self, server: Simulator, folder: Path) -> None:
        self.server = server
        driver, path = ("esx", "/") if server.config.esxi else ("vpx", "/Amsterdam/prod-cluster/esx01.example.com")
        account = quote(server.username, safe="")
        self.uri = f"{driver}://{account}@{server.host}:{server.port}{path}?no_verify=1"
        self._folder = folder
        self.password = folder / "password"
        self.password.write_text(server.password)
        self._auth = folder / "auth.conf"
        sections = "".join(
            f"[auth-{name}-{server.host}]\ncredentials=it\n" for name in ("esx", "vpx")
        )  # it asks for either
        self._auth.write_text(f"[credentials-it]\nusername={server.username}\npassword={server.password}\n{sections}")

    def run(self, tool: str, *args: str | Path) -> str:
        """Standard output, without blank lines around it; a crash or an error status fails the test."""
        env = {**os.environ, "LIBVIRT_AUTH_FILE": str(self._auth), "HOME": str(self._folder), "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            [requires(tool), *args], env=env, cwd=self._folder, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{args}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def virsh(self, *args: str) -> str:
        return self.run("virsh", "-q", "-c", self.uri, *args)

    def domain(self, name: str) -> etree._Element:
        return etree.fromstring(self.virsh("dumpxml", name))


@pytest.fixture(scope="module", params=["vpx", "esx"])
def libvirt(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Libvirt]:
    with simulated(machines=MACHINES, esxi=request.param == "esx") as running:
        yield Libvirt(running, tmp_path_factory.mktemp("libvirt"))


def test_list(libvirt: Libvirt) -> None:
    listed = {
        line.split(maxsplit=1)[1].rsplit("  ", 1)[0].strip(): line.rsplit("  ", 1)[1].strip()
        for line in libvirt.virsh("list", "--all").splitlines()
    }
    assert listed == {"alpha": "shut off", "be ta": "running", "buses": "shut off", "sl/ash%": "shut off"}


def test_the_host(libvirt: Libvirt) -> None:
    node = dict(line.split(":", 1) for line in libvirt.virsh("nodeinfo").splitlines())
    assert (node["CPU(s)"].strip(), node["Memory size"].strip()) == ("32", "536870912 KiB")
    assert libvirt.virsh("hostname").endswith(".example.com")
    arch = etree.fromstring(libvirt.virsh("capabilities")).xpath("//guest/arch/@name")
    assert arch == ["i686", "x86_64"], "the long mode bit"
    assert "vSwitch0" in libvirt.virsh("net-list")
    network = etree.fromstring(libvirt.virsh("net-dumpxml", "vSwitch0"))
    assert "VM Network" in {group.get("name") for group in network.iter("portgroup")}


def test_a_machine_is_described_whole(libvirt: Libvirt) -> None:
    xml = libvirt.domain("alpha")
    assert xml.findtext("name") == "alpha"
    assert xml.findtext("uuid") == libvirt.server.vm("alpha").uuid
    assert xml.findtext("description") == 'say "no" | yes\nnow'
    assert xml.findtext("memory") == str(2048 * 1024)
    assert xml.find("os").get("firmware") is None
    disks = [
        (disk.get("device"), disk.find("source").get("file"), disk.find("target").get("bus"))
        for disk in xml.findall("devices/disk")
    ]
    assert disks == [
        ("disk", "[nvme-prod-01] alpha/alpha.vmdk", "scsi"),
        ("disk", "[nvme-prod-02] alpha/alpha_1.vmdk", "scsi"),
        ("cdrom", ISO, "ide"),
    ]
    assert xml.xpath("devices/controller[@type='scsi']/@model") == ["vmpvscsi"]
    (nic,) = xml.findall("devices/interface")
    assert (nic.find("source").get("bridge"), nic.find("model").get("type")) == ("VM Network", "vmxnet3")
    (device,) = [device for device in libvirt.server.vm("alpha").device_list if device.macAddress]
    assert nic.find("mac").get("address") == device.macAddress


def test_other_machines(libvirt: Libvirt) -> None:
    xml = libvirt.domain("be ta")
    assert xml.find("os").get("firmware") == "efi"
    assert xml.xpath("devices/disk/source/@file") == ["[nvme-prod-01] be ta/be ta-000001.vmdk"]
    assert xml.xpath("devices/controller[@type='scsi']/@model") == ["lsilogic"]
    assert len(xml.findall("devices/interface")) == 2
    xml = libvirt.domain("buses")
    assert (xml.findtext("vcpu"), xml.findtext("memory")) == ("4", str(1024 * 1024))
    assert sorted(target.get("bus", "") for target in xml.findall("devices/disk/target")) == ["ide", "sata"]
    assert libvirt.domain("sl/ash%").xpath("devices/controller[@type='scsi']/@model") == ["lsisas1068"]


def test_the_description_follows_a_reconfiguration(libvirt: Libvirt) -> None:
    """The .vmx is made of what the machine is now."""
    machine = libvirt.server.vm("alpha")
    with libvirt.server.platform.world.lock:
        kept = machine.device_list
        machine.device_list = [device for device in kept if device.type != "VirtualCdrom" and device.macAddress is None]
        machine.touch()
    try:
        xml = libvirt.domain("alpha")
        assert xml.xpath("devices/disk/@device") == ["disk", "disk"]
        assert xml.findall("devices/interface") == []
    finally:
        with libvirt.server.platform.world.lock:
            machine.device_list = kept
            machine.touch()


def test_power_and_snapshots(libvirt: Libvirt) -> None:
    before = libvirt.server.state()
    libvirt.virsh("start", "buses")
    assert libvirt.virsh("domstate", "buses") == "running"
    libvirt.virsh("suspend", "buses")
    assert libvirt.virsh("domstate", "buses") == "paused"
    libvirt.virsh("resume", "buses")
    libvirt.virsh("destroy", "buses")
    assert libvirt.virsh("domstate", "buses") == "shut off"
    libvirt.virsh("snapshot-create-as", "buses", "first", "of two")
    libvirt.virsh("snapshot-create-as", "buses", "second")
    assert [line.split()[0] for line in libvirt.virsh("snapshot-list", "buses").splitlines()] == ["first", "second"]
    assert libvirt.virsh("snapshot-current", "--name", "buses") == "second"
    libvirt.virsh("snapshot-revert", "buses", "first")
    assert libvirt.virsh("snapshot-current", "--name", "buses") == "first"
    libvirt.virsh("snapshot-delete", "buses", "first", "--children")
    assert libvirt.virsh("snapshot-list", "buses") == ""
    assert libvirt.server.state() == before


def test_what_is_told_of_a_machine(libvirt: Libvirt) -> None:
    """``dominfo`` asks the host which machines start with it; libvirt crashes where the host has nobody to answer
    that."""

    def dominfo() -> dict[str, str]:
        return {
            key: value.strip()
            for key, value in (line.split(":", 1) for line in libvirt.virsh("dominfo", "be ta").splitlines())
        }

    assert (dominfo()["State"], dominfo()["CPU(s)"], dominfo()["Autostart"]) == ("running", "2", "disable")
    libvirt.virsh("autostart", "be ta")
    assert dominfo()["Autostart"] == "enable"
    libvirt.virsh("autostart", "--disable", "be ta")
    assert dominfo()["Autostart"] == "disable"
    assert int(libvirt.virsh("vcpucount", "--maximum", "--live", "be ta")) >= 2


def test_storage(libvirt: Libvirt) -> None:
    pools = {line.split()[0] for line in libvirt.virsh("pool-list", "--all").splitlines()}
    assert {"iso-library", "nvme-prod-01", "nvme-prod-02"} <= pools
    libvirt.virsh("pool-refresh", "nvme-prod-02")
    assert "4.00 TiB" in libvirt.virsh("pool-info", "nvme-prod-02")
    assert "tools/virtio-win.iso" in libvirt.virsh("vol-list", "iso-library")
    volume = etree.fromstring(libvirt.virsh("vol-dumpxml", "--pool", "nvme-prod-02", "alpha/alpha_1.vmdk"))
    assert volume.findtext("capacity") == str((ODD // 1024) * 1024)
    assert volume.find("target/format").get("type") == "vmdk"


def test_virt_v2v_describes_the_source(libvirt: Libvirt) -> None:
    said = libvirt.run("virt-v2v", "-ic", libvirt.uri, "-ip", libvirt.password, "--print-source", "alpha")
    assert "source name: alpha" in said
    assert "memory: 2147483648 (bytes)" in said
    disks = said[said.index("disks:") : said.index("removable media:")]
    assert disks.count("[scsi]") == 2
    assert "CD-ROM [ide]" in said
    assert 'Bridge "VM Network" mac: 00:50:56:' in said


def folder_url(server: Simulator, path: str, store: str) -> str:
    """As virt-v2v writes it: ``_`` escaped too, and the datacenter without a slash before it."""
    datacenter = "ha-datacenter" if server.config.esxi else "Amsterdam"
    return f"https://{server.authority_part}/folder/{path.replace('_', '%5f')}?dcPath={datacenter}&dsName={store}"


@pytest.fixture
def copied(libvirt: Libvirt, tmp_path: Path) -> Callable[[str, str], bytes]:
    """Reads a datastore's file the way virt-v2v 2.2 does: nbdkit's curl plugin behind the filters that it puts before
    it, with a cookie from a HEAD with Basic authorization."""

    requires("nbdcopy")
    requires("curl")

    def copy(path: str, store: str) -> bytes:
        url, server = folder_url(libvirt.server, path, store), libvirt.server
        script = tmp_path / "cookie.sh"
        script.touch(0o700)
        script.write_text(
            f"#!/bin/sh\ncurl -q --head --silent --insecure --url '{url}' --user '{server.username}:{server.password}'"
            " | sed -ne '{ s/^[Ss]et-[Cc]ookie: \\([^;]*\\);.*/\\1/ p }'\n"
        )
        target = tmp_path / "disk.raw"
        libvirt.run(
            "nbdkit",
            "-U",
            "-",
            "--filter",
            "cow",
            "--filter",
            "cacheextents",
            "--filter",
            "retry",
            "curl",
            f"url={url}",
            "timeout=60",
            f"cookie-script={script}",
            "cookie-script-renew=1500",
            "sslverify=false",
            "--run",
            f'nbdcopy "$uri" "{target}"',
        )
        return target.read_bytes()

    return copy


def test_the_disks_are_read_as_virt_v2v_reads_them(
    libvirt: Libvirt, copied: Callable[[str, str], bytes], tmp_path: Path
) -> None:
    for index, (path, store) in enumerate(
        [("alpha/alpha-flat.vmdk", "nvme-prod-01"), ("alpha/alpha_1-flat.vmdk", "nvme-prod-02")]
    ):
        raw = tmp_path / f"{index}.raw"
        libvirt.server.write_raw("alpha", index, raw)
        assert any(raw.read_bytes())
        assert copied(path, store) == raw.read_bytes()
