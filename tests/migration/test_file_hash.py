"""``--file-hash``: which digests the manifest has, that they are those of the files, and that `verify` uses them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hypersdk.migration.manifest import read_manifest, seal, tree_of
from hypersdk.migration.publish import NO_HASH_WARNING
from hypersdk.migration.spec import FileHash, OutputFormat
from hypersdk.migration.verify import verify_directory
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from tests.support.conversions import convert
from tests.support.packages import descriptor, guest, vmdk, write_folder
from tests.support.tools import sha256
from tests.support.treedigest import tree_digest_of_file

CAPACITY = 24 * MiB


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A package with one disk."""
    image = vmdk(guest(3, CAPACITY), tmp_path)
    return write_folder(
        tmp_path / "in", {"m.ovf": descriptor({"d1.vmdk": len(image)}, capacity=CAPACITY), "d1.vmdk": image}
    )


@pytest.mark.parametrize("output", [OutputFormat.QCOW2, OutputFormat.RAW, OutputFormat.OVF, OutputFormat.OVA])
@pytest.mark.parametrize("file_hash", FileHash)
def test_the_digests_that_were_asked_for(
    source: Path, tmp_path: Path, output: OutputFormat, file_hash: FileHash
) -> None:
    """What the manifest needs anyway it has in any case: a ``.mf`` lists the SHA-256 of each VMDK."""
    out = tmp_path / "out"
    result = convert(source, out, output, tmp_path / "state", file_hash=file_hash)
    manifest = read_manifest((out / "artifact-manifest.json").read_bytes())
    for part in manifest.files:
        small, stream = part.name.endswith((".ovf", ".mf")), part.name.endswith(".vmdk")
        has_sha256 = small or stream or file_hash is FileHash.SHA256
        has_tree = not small and not stream and file_hash is not FileHash.NONE
        assert part.checksum == (f"sha256:{sha256(out / part.name)}" if has_sha256 else None)
        assert tree_of(part) == (tree_digest_of_file(out / part.name) if has_tree else None)
    unhashed = file_hash is FileHash.NONE and output is not OutputFormat.OVF
    assert (NO_HASH_WARNING in result.warnings) == unhashed
    report = verify_directory(out, cancel=CancelToken())
    assert report.ok
    image = manifest.disks[0].local_path
    with (out / image).open("r+b") as file:
        file.seek(70_000)
        (byte,) = file.read(1)
        file.seek(70_000)
        file.write(bytes([byte ^ 16]))
    assert verify_directory(out, cancel=CancelToken()).ok == (unhashed and output is not OutputFormat.OVA)


def test_an_export_of_an_earlier_release_is_verified(source: Path, tmp_path: Path) -> None:
    """Its manifest has the SHA-256 of each image and no tree."""
    out = tmp_path / "out"
    convert(source, out, OutputFormat.QCOW2, tmp_path / "state", file_hash=FileHash.SHA256)
    place = out / "artifact-manifest.json"
    document = json.loads(place.read_bytes())
    for part in (*document["metadata"]["hypersdk"]["files"], *(disk["hypersdk"] for disk in document["disks"])):
        del part["tree"]
    place.write_text(json.dumps(seal(document)))
    report = verify_directory(out, cancel=CancelToken())
    assert (report.ok, report.checked) == (True, ("m.ovf", "m-disk1.qcow2"))
    with (out / "m-disk1.qcow2").open("r+b") as file:
        file.seek(1000)
        file.write(b"!")
    assert [found.code for found in verify_directory(out, cancel=CancelToken()).findings] == ["verify_flipped"]


def test_a_tree_of_a_later_release_is_named_as_not_compared(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(source, out, OutputFormat.RAW, tmp_path / "state")
    place = out / "artifact-manifest.json"
    place.write_bytes(place.read_bytes().replace(b"blake3-tree-4m", b"blake3-tree-9m"))
    place.write_text(json.dumps(seal(json.loads(place.read_bytes()))))
    report = verify_directory(out, cancel=CancelToken())
    assert (report.ok, report.unchecked) == (True, ("m-disk1.raw",))
