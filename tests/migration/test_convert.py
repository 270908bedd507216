"""Local conversion, with qemu-img as the independent encoder and decoder."""

from __future__ import annotations

import hashlib
import random
import subprocess
import tarfile
from contextlib import nullcontext
from pathlib import Path

import pytest

from hypersdk.errors import HyperSDKError
from hypersdk.migration import convert as convert_module
from hypersdk.migration.convert import LOCAL_ENDPOINT, convert_file
from hypersdk.migration.formats import FORMATS
from hypersdk.migration.manifest import read_manifest
from hypersdk.migration.publish import Publishing
from hypersdk.migration.runfile import DiskRecord, FolderRuns, RunFile
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import Compression, ExportSpec, OutputFormat
from hypersdk.migration.verify import verify_directory
from hypersdk.model import ExportProgress
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import new_path
from hypersdk.units import KiB, MiB
from tests.support.conversions import convert
from tests.support.killed import Killed
from tests.support.tools import requires, sha256
from tests.support.treedigest import tree_digest_of_file

CAPACITY = 40 * MiB + 17 * 512


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk of an odd size: data that shrinks, data that does not, holes."""
    path = tmp_path_factory.mktemp("raw") / "disk.raw"
    rng = random.Random(7)
    with path.open("wb") as file:
        file.truncate(CAPACITY)
        for block in range(0, CAPACITY // (64 * KiB), 3):
            file.seek(block * 64 * KiB)
            file.write(rng.randbytes(64 * KiB) if block % 2 else bytes([block % 251 + 1]) * 60_000)
        file.seek(CAPACITY - 100)
        file.write(b"the very end".ljust(100, b"."))
    return path


def vmdk_of(raw: Path, folder: Path, subformat: str) -> Path:
    path = folder / "machine.vmdk"
    run(requires("qemu-img"), "convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={subformat}", raw, path)
    return path


def run(*command: object) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


def assert_same(image: Path, image_format: str, raw: Path) -> None:
    requires("qemu-img")
    run("qemu-img", "compare", "-f", image_format, "-F", "raw", image, raw)


@pytest.mark.parametrize("subformat", ["streamOptimized", "monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse"])
@pytest.mark.parametrize(
    ("output", "compress"),
    [
        (OutputFormat.QCOW2, Compression.NONE),
        (OutputFormat.QCOW2, Compression.CHECKED),
        (OutputFormat.RAW, Compression.NONE),
        (OutputFormat.VMDK, Compression.NONE),
    ],
)
def test_every_kind_into_every_format(
    raw: Path, tmp_path: Path, subformat: str, output: OutputFormat, compress: Compression
) -> None:
    source = vmdk_of(raw, tmp_path, subformat)
    result = convert(source, tmp_path / "out", output, tmp_path / "state", compress=compress)
    image = tmp_path / "out" / f"machine-disk1.{FORMATS[output].image.suffix}"
    assert_same(image, FORMATS[output].image.suffix, raw)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["artifact-manifest.json", image.name]
    manifest = read_manifest((tmp_path / "out" / "artifact-manifest.json").read_bytes())
    assert manifest.source.provider == "file"
    (disk,) = manifest.disks
    assert disk.hypersdk is not None
    if output is OutputFormat.VMDK:
        assert (disk.checksum, disk.hypersdk.tree) == (f"sha256:{sha256(image)}", None)
    else:
        assert disk.checksum is None
        assert disk.hypersdk.tree is not None
        assert disk.hypersdk.tree.model_dump() == {
            "algorithm": "blake3-tree-4m", "leaf_bytes": 4 * MiB, "digest": tree_digest_of_file(image)
        }  # fmt: skip

    assert result.proof.startswith("unproved: ")
    assert not list((tmp_path / "state" / "runs").iterdir())


def test_content_digests_are_equal_in_all_formats(raw: Path, tmp_path: Path) -> None:
    source = vmdk_of(raw, tmp_path, "streamOptimized")
    digests = set()
    for number, (output, compress) in enumerate(
        [
            (OutputFormat.QCOW2, Compression.NONE),
            (OutputFormat.QCOW2, Compression.CHECKED),
            (OutputFormat.QCOW2, Compression.REPACK),
            (OutputFormat.RAW, Compression.NONE),
            (OutputFormat.VMDK, Compression.CHECKED),
        ]
    ):
        result = convert(source, tmp_path / str(number), output, tmp_path / "state", compress=compress)
        digests |= set(result.content.values())
    assert len(digests) == 1
    assert None not in digests


def test_an_ovf_goes_through_ova_and_back(raw: Path, tmp_path: Path) -> None:
    """vmdk with descriptor -> ova -> ovf -> qcow2: the guest's bytes stay, and verify agrees at each stop."""
    folder = tmp_path / "first"
    folder.mkdir()
    vmdk_of(raw, folder, "streamOptimized")
    (folder / "machine.ovf").write_text(OVF.format(size=(folder / "machine.vmdk").stat().st_size, capacity=CAPACITY))
    state = tmp_path / "state"
    convert(folder / "machine.ovf", tmp_path / "ova", OutputFormat.OVA, state)
    ova = tmp_path / "ova" / "web-01.ova"
    with tarfile.open(ova) as archive:
        assert archive.getnames() == ["web-01.ovf", "web-01-disk1.vmdk", "web-01.mf"]
        sums = dict(line.split("= ") for line in member(archive, "web-01.mf").decode().splitlines())
        for name in ("web-01.ovf", "web-01-disk1.vmdk"):
            assert sums[f"SHA256({name})"] == hashlib.sha256(member(archive, name)).hexdigest()
    convert(ova, tmp_path / "ovf", OutputFormat.OVF, state)
    assert sorted(path.name for path in (tmp_path / "ovf").iterdir()) == [
        "artifact-manifest.json",
        "web-01-disk1.vmdk",
        "web-01.mf",
        "web-01.ovf",
    ]
    convert(tmp_path / "ovf" / "web-01.ovf", tmp_path / "qcow2", OutputFormat.QCOW2, state)
    assert_same(tmp_path / "qcow2" / "web-01-disk1.qcow2", "qcow2", raw)
    for stop in ("ova", "ovf", "qcow2"):
        report = verify_directory(tmp_path / stop, cancel=CancelToken(), observer=None)
        assert report.findings == ()


def test_what_an_interrupted_conversion_left_goes_whatever_its_format_was(raw: Path, tmp_path: Path) -> None:
    folder, state = tmp_path / "out", tmp_path / "state"
    folder.mkdir()
    record = DiskRecord(2000, "Hard disk 1", "web-01-disk1.vmdk", CAPACITY, start=1536)
    RunFile.create(
        folder,
        FolderRuns(state),
        endpoint=LOCAL_ENDPOINT,
        moref="",
        machine="web-01",
        format=OutputFormat.OVA,
        compress=Compression.NONE,
        disks=[record],
    )
    for name in ("web-01.ova.partial", "web-01-disk1.vmdk.partial.blocks"):
        (folder / name).touch()
    convert(vmdk_of(raw, tmp_path, "streamOptimized"), folder, OutputFormat.QCOW2, state)
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".qcow2"]


@pytest.mark.parametrize("first", [OutputFormat.RAW, OutputFormat.QCOW2])
def test_killed_while_files_get_their_names_it_begins_anew(
    first: OutputFormat, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files that had theirs are its own, and not another export's that it would have to be forced over."""
    source, folder, state = vmdk_of(raw, tmp_path, "streamOptimized"), tmp_path / "out", tmp_path / "state"

    def dies(publishing: Publishing) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Publishing, "_check_own", dies)
        patch.setattr(convert_module, "_removed_on_failure", lambda *_: nullcontext())
        with pytest.raises(Killed):
            convert(source, folder, first, state)
    (pointer,) = (state / "runs").iterdir()
    new_path(pointer).touch()  # as a kill leaves it while the run is made known
    assert (folder / f"machine-disk1.{FORMATS[first].image.suffix}").exists()
    convert(source, folder, OutputFormat.QCOW2, state)
    assert sorted(path.name for path in folder.iterdir()) == ["artifact-manifest.json", "machine-disk1.qcow2"]
    assert_same(folder / "machine-disk1.qcow2", "qcow2", raw)
    assert list((state / "runs").iterdir()) == []


@pytest.mark.parametrize("where", [0.3, 0.6, 0.9])
def test_a_damaged_input_leaves_nothing(raw: Path, tmp_path: Path, where: float) -> None:
    source = vmdk_of(raw, tmp_path, "streamOptimized")
    data = bytearray(source.read_bytes())
    data[int(len(data) * where)] ^= 0x10
    source.write_bytes(data)
    with pytest.raises(HyperSDKError) as caught:
        convert(source, tmp_path / "out", OutputFormat.QCOW2, tmp_path / "state")
    assert caught.value.exit_status == 8
    assert list((tmp_path / "out").iterdir()) == []


def test_a_lone_disk_has_no_machine_to_describe(raw: Path, tmp_path: Path) -> None:
    source = vmdk_of(raw, tmp_path, "streamOptimized")
    with pytest.raises(HyperSDKError) as caught:
        convert(source, tmp_path / "out", OutputFormat.OVF, tmp_path / "state")
    assert caught.value.code == "no_description"
    assert not (tmp_path / "out").exists()


def test_progress_rises_to_the_end(raw: Path, tmp_path: Path) -> None:
    seen: list[ExportProgress] = []
    spec = ExportSpec(machine="", output_dir=tmp_path / "out", format=OutputFormat.RAW)
    settings = RunSettings(state=tmp_path / "state", progress_interval_s=0.01)
    source = vmdk_of(raw, tmp_path, "streamOptimized")
    convert_file(source, spec, cancel=CancelToken(), observer=seen.append, settings=settings)
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


OVF = """<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
 xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
 <References><File ovf:id="file1" ovf:href="machine.vmdk" ovf:size="{size}"/></References>
 <DiskSection><Info>disks</Info><Disk ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:capacity="{capacity}"
  ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/></DiskSection>
 <NetworkSection><Info>networks</Info><Network ovf:name="VM Network">
  <Description>lan</Description></Network></NetworkSection>
 <VirtualSystem ovf:id="web-01"><Info>a machine</Info><Name>web-01</Name>
  <OperatingSystemSection ovf:id="96"><Info>os</Info></OperatingSystemSection>
  <VirtualHardwareSection><Info>hardware</Info>
   <Item><rasd:ElementName>2 CPUs</rasd:ElementName><rasd:InstanceID>1</rasd:InstanceID>
    <rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
   <Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:ElementName>1024 MB</rasd:ElementName>
    <rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType>
    <rasd:VirtualQuantity>1024</rasd:VirtualQuantity></Item>
   <Item><rasd:Address>0</rasd:Address><rasd:ElementName>SCSI 0</rasd:ElementName><rasd:InstanceID>3</rasd:InstanceID>
    <rasd:ResourceSubType>lsilogic</rasd:ResourceSubType><rasd:ResourceType>6</rasd:ResourceType></Item>
   <Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:ElementName>Hard disk 1</rasd:ElementName>
    <rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource><rasd:InstanceID>4</rasd:InstanceID>
    <rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>
  </VirtualHardwareSection></VirtualSystem>
</Envelope>
"""
