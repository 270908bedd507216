"""The peers themselves: does the vcsim of ``tests/peers`` export to an unmodified govc, with and without a snapshot?"""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import HTTPSHandler, Request, build_opener

import pytest
from lxml import etree
from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim, vmodl

from tests.support.peers import Vcsim, _go_from_wheel, govc, running_vcsim
from tests.support.tools import run_tool

MACHINE = "DC0_H0_VM0"
CAPACITY = 3 * 1024 * 1024 + 512 * 3
OVF = {"ovf": "http://schemas.dmtf.org/ovf/envelope/1"}

StartVcsim = Callable[..., Vcsim]


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``DC0_H0_VM0/disk1.vmdk``: a streamOptimized disk with a few bytes in it, made by qemu-img."""
    folder = tmp_path_factory.mktemp("disks")
    raw = folder / "guest.raw"
    raw.write_bytes(b"\0" * 70_000 + b"guest data" * 9000 + b"\0" * (CAPACITY - 160_000))
    (folder / MACHINE).mkdir()
    target = folder / MACHINE / "disk1.vmdk"
    run_tool("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, target)
    return folder


def check_export(output: Path, disks: Path) -> None:
    """The export is whole: the disk as it lies there, a descriptor of it, and govc's own digests."""
    exported = output / MACHINE / f"{MACHINE}-disk1.vmdk"
    assert exported.read_bytes() == (disks / MACHINE / "disk1.vmdk").read_bytes()
    run_tool("qemu-img", "compare", "-f", "raw", "-F", "vmdk", disks / "guest.raw", exported)
    descriptor = etree.parse(output / MACHINE / f"{MACHINE}.ovf")
    assert descriptor.xpath("//ovf:References/ovf:File/@ovf:href", namespaces=OVF) == [exported.name]
    assert descriptor.xpath("//ovf:Disk/@ovf:capacity", namespaces=OVF) == [str(CAPACITY // 1024)]
    digests = dict(re.findall(r"SHA256\((.*)\)= (\w+)", (output / MACHINE / f"{MACHINE}.mf").read_text()))
    assert digests[exported.name] == hashlib.sha256(exported.read_bytes()).hexdigest()


def test_govc_exports_a_machine_that_is_off(vcsim: StartVcsim, disks: Path, tmp_path: Path) -> None:
    server = vcsim(disks=disks)
    server.govc("vm.power", "-off", MACHINE)
    server.govc("export.ovf", "-sha", "256", "-vm", MACHINE, tmp_path)
    check_export(tmp_path, disks)


def test_govc_exports_a_snapshot_of_a_running_machine(vcsim: StartVcsim, disks: Path, tmp_path: Path) -> None:
    server = vcsim(disks=disks)
    server.govc("snapshot.create", "-vm", MACHINE, "-m=false", "before")
    server.govc("export.ovf", "-sha", "256", "-vm", MACHINE, "-snapshot", "before", tmp_path)
    check_export(tmp_path, disks)


def test_a_running_machine_is_not_exported(vcsim: StartVcsim, tmp_path: Path) -> None:
    server = vcsim()
    done = govc(server.login_url, "export.ovf", "-vm", MACHINE, tmp_path)
    assert done.returncode == 1
    assert "cannot be performed in the current state" in done.stderr


def test_the_descriptor_refuses_a_file_of_no_device(vcsim: StartVcsim) -> None:
    server = vcsim()
    service = SmartConnect(
        host=server.host, port=server.port, user=server.username, pwd=server.password, disableSslCertValidation=True
    )
    try:
        machine = service.content.searchIndex.FindByInventoryPath(f"DC0/vm/{MACHINE}")
        stray = vim.OvfManager.OvfFile(deviceId="/vm-0/VirtualDisk:7", path="disk.vmdk", size=1)
        params = vim.OvfManager.CreateDescriptorParams(ovfFiles=[stray])
        with pytest.raises(vmodl.fault.InvalidArgument):
            service.content.ovfManager.CreateDescriptor(machine, params)
    finally:
        Disconnect(service)


def test_a_lease_takes_the_checksum_of_its_manifest(vcsim: StartVcsim) -> None:
    server = vcsim(autostart=False, api_version="6.7")
    service = SmartConnect(
        host=server.host, port=server.port, user=server.username, pwd=server.password, disableSslCertValidation=True
    )
    try:
        lease = service.content.searchIndex.FindByInventoryPath(f"DC0/vm/{MACHINE}").ExportVm()
        keys = [url.key for url in lease.info.deviceUrl]
        lease.HttpNfcLeaseSetManifestChecksumType([vim.KeyValue(key=key, value="sha256") for key in keys])
        with pytest.raises(vmodl.fault.InvalidArgument):
            lease.HttpNfcLeaseSetManifestChecksumType([vim.KeyValue(key=keys[0], value="md5")])
        lease.HttpNfcLeaseAbort()
    finally:
        Disconnect(service)


def test_the_time_of_a_request_for_data_is_written_down(vcsim: StartVcsim, disks: Path, tmp_path: Path) -> None:
    server = vcsim(disks=disks, autostart=False, data_requests=str(tmp_path / "log"))
    before = time.time_ns()
    server.govc("export.ovf", "-sha", "256", "-vm", MACHINE, tmp_path)
    check_export(tmp_path, disks)
    (asked,) = (tmp_path / "log").read_text().split()
    assert before < int(asked) < time.time_ns()


def test_an_esxi_host_and_its_own_account(vcsim: StartVcsim) -> None:
    server = vcsim(esx=True, vm=1, username="root", password="a b/c")
    assert "API type:     HostAgent" in server.govc("about")
    refused = govc(server.url.replace("://", "://root:wrong@"), "about")
    assert refused.returncode == 1
    assert "Login failure" in refused.stderr


def test_flags_shape_the_inventory(vcsim: StartVcsim) -> None:
    server = vcsim(dc=2, cluster=1, host=2, standalone_host=0, pool=0, vm=3, folder=1)
    machines = server.govc("find", "/", "-type", "m").splitlines()
    assert len(machines) == 6
    assert sum(path.startswith("/F0/") for path in machines) == 3


def test_datastore_files_are_served_whole_and_in_ranges(vcsim: StartVcsim, tmp_path: Path) -> None:
    server = vcsim()
    payload = bytes(range(256)) * 300
    (server.datastore_dir() / MACHINE / "disk1-flat.vmdk").write_bytes(payload)
    server.govc("datastore.download", f"{MACHINE}/disk1-flat.vmdk", tmp_path / "flat")
    assert (tmp_path / "flat").read_bytes() == payload
    url = f"https://{server.host}:{server.port}/folder/{MACHINE}/disk1-flat.vmdk?dcPath=DC0&dsName=LocalDS_0"
    opener = build_opener(HTTPSHandler(context=ssl._create_unverified_context()))
    with opener.open(Request(url, headers={"Range": "bytes=300-999"}), timeout=10) as answer:
        assert answer.status == 206
        assert answer.read() == payload[300:1000]


def test_nothing_is_left_behind() -> None:
    with running_vcsim(vm=1) as server:
        folder = server.datastore_dir()
        assert folder.is_dir()
    assert not folder.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port), timeout=5)


@pytest.mark.slow
def test_go_comes_from_the_wheel_where_path_has_none() -> None:
    version = subprocess.run(
        [_go_from_wheel(), "version"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert version.startswith("go version go1.")
