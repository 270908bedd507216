"""Verification of exports: qemu-img decodes the image, and the content digest is recomputed from its output.

Nothing of the product's own readers, digests or ledgers is used here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from blake3 import blake3

from hypersdk.simulator import Simulator
from tests.support.tools import run_tool

BLOCK: Final = 1 << 16
GROUP: Final = 1 << 29
STEP: Final = 1 << 22
PARTIAL: Final = ".partial"
RUN_FILE: Final = ".hypersdk-run.json"
MANIFEST: Final = "artifact-manifest.json"
STAMP: Final = 64
"""The simulator's blocks begin with what they are."""
ZERO_BLOCK: Final = blake3(bytes(BLOCK)).digest()
IMAGE_FORMATS: Final = {".qcow2": "qcow2", ".raw": "raw", ".vmdk": "vmdk"}


def recomputed_digest(raw: Path) -> str:
    """The guest-content digest as its definition says (docs: a tree of BLAKE3 over blocks and groups), of a raw file;
    holes are zeros."""
    capacity = raw.stat().st_size
    groups: dict[int, dict[int, bytes]] = {}
    for index, digest in _block_hashes(raw).items():
        groups.setdefault(index * BLOCK // GROUP, {})[index * BLOCK % GROUP // BLOCK] = digest
    disk = blake3(capacity.to_bytes(8, "little"), derive_key_context="hypersdk guest content disk 1")
    whole_group_of_zeros = _group(ZERO_BLOCK * (GROUP // BLOCK))
    for start in range(0, capacity, GROUP):
        blocks = -(-min(GROUP, capacity - start) // BLOCK)
        if start // GROUP not in groups and blocks == GROUP // BLOCK:
            disk.update(whole_group_of_zeros)
            continue
        hashes = bytearray(ZERO_BLOCK * blocks)
        for index, digest in groups.get(start // GROUP, {}).items():
            hashes[index * len(digest) : (index + 1) * len(digest)] = digest
        disk.update(_group(bytes(hashes)))
    return disk.hexdigest()


def _group(hashes: bytes) -> bytes:
    return blake3(hashes, derive_key_context="hypersdk guest content group 1").digest()


def _block_hashes(raw: Path) -> dict[int, bytes]:
    """BLAKE3 of each block that takes room in the file, padded with zeros at the end of the disk."""
    found = {}
    with raw.open("rb") as file:
        for start, end in _extents(file.fileno(), raw.stat().st_size):
            for index in range(start // BLOCK, -(-end // BLOCK)):
                if index not in found:
                    file.seek(index * BLOCK)
                    found[index] = blake3(file.read(BLOCK).ljust(BLOCK, b"\0")).digest()
    return found


def _extents(handle: int, size: int) -> Iterator[tuple[int, int]]:
    position = 0
    while position < size:
        try:
            start = os.lseek(handle, position, os.SEEK_DATA)
        except OSError:  # nothing but a hole up to the end
            return
        position = os.lseek(handle, start, os.SEEK_HOLE)
        yield start, position


def expected_raw(simulator: Simulator, machine: str, folder: Path, *, snapshot: str | None = None) -> list[Path]:
    """The expected content of each disk, as raw files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(len(simulator.vm(machine).disks)):
        paths.append(folder / f"expected-{index}.raw")
        simulator.write_raw(machine, index, paths[-1], snapshot=snapshot)
    return paths


def unpacked(folder: Path) -> list[Path]:
    """The images of an export in the order of their disks; those of an OVA are taken out by tar."""
    for archive in folder.glob("*.ova"):
        place = folder.with_name(f"{folder.name}.unpacked")
        place.mkdir(exist_ok=True)
        run_tool("tar", "-xf", archive, "-C", place)
        return _images(place)
    return _images(folder)


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in IMAGE_FORMATS)


def as_raw(image: Path, raw: Path) -> Path:
    """``image`` decoded by qemu-img."""
    run_tool("qemu-img", "convert", "-f", IMAGE_FORMATS[image.suffix], "-O", "raw", image, raw)
    return raw


def differences(wanted: Path, found: Path, most: int = 40) -> str:
    """The blocks in which two raw files differ, with how each begins: an image that is wrong once in a thousand runs
    must say how."""
    lines: list[str] = []
    with wanted.open("rb") as one, found.open("rb") as other:
        for index in range(-(-wanted.stat().st_size // BLOCK)):
            right, wrong = one.read(BLOCK), other.read(BLOCK)
            if right != wrong and len(lines) < most:
                at = next(at for at, (a, b) in enumerate(zip(right, wrong, strict=False)) if a != b)
                kind = "zeros" if not any(wrong) else repr(wrong[:STAMP])
                lines.append(f"block {index} from byte {at}: {kind} instead of {right[:STAMP]!r}")
    return "\n".join(lines)


def assert_holds(
    folder: Path, expected: list[Path], digests: Mapping[str, str | None], scratch: Path, *, convert: bool = True
) -> None:
    """The images in ``folder`` are, bit by bit, ``expected``; ``digests`` are those of the data that qemu-img
    reads from them.

    Without ``convert`` qemu-img compares them where they lie, which says the same in less time.
    """
    images = unpacked(folder)
    assert len(images) == len(expected)
    scratch.mkdir(exist_ok=True)
    for image, wanted in zip(images, expected, strict=True):
        kind = IMAGE_FORMATS[image.suffix]
        digest = recomputed_digest(wanted)
        try:
            run_tool("qemu-img", "compare", "-f", "raw", "-F", kind, wanted, image)
        except pytest.fail.Exception as error:
            facts = differences(wanted, as_raw(image, scratch / f"{image.name}.differs"))
            same = "that of the source" if digests[image.name] == digest else "another one"
            pytest.fail(f"{error}\n{facts}\nthe reported digest is {same}", pytrace=False)
        if kind == "qcow2":
            run_tool("qemu-img", "check", "-q", image)
        if convert:
            assert recomputed_digest(as_raw(image, scratch / f"{image.name}.raw")) == digest
        assert digests[image.name] == digest, f"{image.name}: the reported digest is not that of the image"
    assert sorted(digests) == [image.name for image in images]


def manifest_of(folder: Path) -> dict[str, Any]:
    """The artifact manifest, as JSON."""
    found: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    return found


def run_of(folder: Path) -> dict[str, Any] | None:
    """The run file, as JSON; None where there is none."""
    place = folder / RUN_FILE
    if not place.exists():
        return None
    found: dict[str, Any] = json.loads(place.read_bytes())
    return found


def content_in_manifest(folder: Path) -> dict[str, str | None]:
    """The content digests that the manifest tells, by image."""
    disks = manifest_of(folder)["disks"]
    return {
        (disk["hypersdk"]["member"] or {"name": disk["local_path"]})["name"]: disk["hypersdk"]["content_digest"]
        for disk in disks
    }


def assert_finished(folder: Path) -> None:
    """Nothing unfinished lies there: no partial file, ledger, run file or lock; and the manifest does."""
    assert (folder / MANIFEST).exists()
    left = [path.name for path in folder.iterdir() if PARTIAL in path.name or path.name.startswith(".")]
    assert left == [], left


def assert_no_final_names(folder: Path) -> None:
    """An export that failed left nothing that looks like a result: only partial files, their ledgers and the run
    file."""
    finished = (
        [path.name for path in folder.iterdir() if PARTIAL not in path.name and path.name != RUN_FILE]
        if folder.exists()
        else []
    )
    assert finished == []


CHANGES: Final = (
    "CreateSnapshot_Task",
    "PowerOffVM_Task",
    "ShutdownGuest",
    "ReconfigVM_Task",
    "ExportVm",
    "ExportSnapshot",
)


def assert_left_alone(simulator: Simulator) -> None:
    """Since the counters were reset no disk was read, and nothing was done to the machine."""
    counters = simulator.counters
    assert (dict(counters.opened), dict(counters.ranges)) == ({}, {})
    assert {name: counters.calls[name] for name in CHANGES if counters.calls[name]} == {}
