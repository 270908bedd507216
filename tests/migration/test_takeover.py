"""Finished disks of an earlier process: only those whose bytes are what was recorded may be published."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from hypersdk.errors import Cancelled
from hypersdk.formats.image import BLOCK
from hypersdk.migration.formats import outputs_for
from hypersdk.migration.runfile import DiskRecord, RunRecord
from hypersdk.migration.spec import Compression, ExportSpec, OutputFormat
from hypersdk.migration.takeover import CHANGED, UNPROVABLE, damage_of
from hypersdk.model import Basis, Phase
from hypersdk.transfer.blockfile import FdFile
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.digest import content_digest_of
from hypersdk.transfer.progress import Meter
from hypersdk.units import KiB
from tests.support.receipts import make_receipt
from tests.support.seeds import SEED
from tests.support.tools import run_tool
from tests.support.treedigest import tree_digest_of
from tests.support.writers import Guest, Step, assert_clean, perform

GUEST: Final = Guest(20 * BLOCK + 1536, {0: "random", 1: "text", 4: "half", 9: "full", 19: "thin", 20: "random"})
KINDS: Final = {
    "ova": (OutputFormat.OVA, Compression.NONE),
    "vmdk": (OutputFormat.VMDK, Compression.NONE),
    "raw": (OutputFormat.RAW, Compression.NONE),
    "qcow2": (OutputFormat.QCOW2, Compression.NONE),
    "compressed": (OutputFormat.QCOW2, Compression.CHECKED),
    "repacked": (OutputFormat.QCOW2, Compression.REPACK),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


class Bytes:
    """The guest's, to be read at random."""

    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()

    def read(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self._data[offset : offset + len(buffer)]


class Finished:
    """One finished disk in ``folder``, with the file hash not known yet."""

    def __init__(self, folder: Path, kind: str) -> None:
        output, compress = KINDS[kind]
        self.format = output
        self.spec = ExportSpec(machine="m", output_dir=folder, format=output, compress=compress)
        self.record = DiskRecord(2000, "Hard disk 1", f"m-disk1.{output.value}", GUEST.capacity)
        self.raw = GUEST.write_raw(folder / "expected")
        run = RunRecord(
            run_id="r",
            endpoint="e",
            moref="vm-1",
            machine="m",
            folder=folder,
            format=output,
            compress=compress,
            started_at="2026-01-01T00:00:00+00:00",
            disks=[self.record],
        )
        self.outputs = outputs_for(run, self.spec)
        with self.outputs.open(self.record, "point", lambda file: file) as disk:
            for index in GUEST.blocks:
                perform(disk.writer, GUEST, Step(index, index, deflated=True))
            disk.writer.finish()
            self.record.size_bytes = disk.file.size()
        self.record.receipt = make_receipt(
            capacity_bytes=GUEST.capacity, content=content_digest_of(Bytes(self.raw), GUEST.capacity)
        )
        self.outputs.close_disk(self.record)
        name = "m.ova" if output is OutputFormat.OVA else self.record.file_name
        self.path = folder / f"{name}.partial"
        self.start = self.record.start or 0
        self.meter = Meter("Hard disk 1", self.record.file_name, GUEST.capacity)

    @property
    def size(self) -> int:
        assert self.record.size_bytes is not None
        return self.record.size_bytes

    def read(self, offset: int, length: int) -> bytes:
        with self.path.open("rb") as file:
            return FdFile(file.fileno()).pread(length, self.start + offset)

    def write(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(self.start + offset)
            file.write(data)

    def damage(self, cancel: CancelToken | None = None) -> str | None:
        return damage_of(self.outputs, self.record, self.meter, cancel or CancelToken())

    def assert_right(self) -> None:
        """By qemu-img, also the tables."""
        if self.format is OutputFormat.OVA:
            image = self.path.with_name("member.vmdk")
            image.write_bytes(self.read(0, self.size))
        else:
            image = self.path
        kind = "raw" if self.format is OutputFormat.RAW else "qcow2" if self.format is OutputFormat.QCOW2 else "vmdk"
        run_tool("qemu-img", "compare", "-f", "raw", "-F", kind, self.raw, image)
        if kind == "qcow2":
            assert_clean(image)


@every_kind
def test_a_whole_disk_is_told_by_its_content_and_by_its_checksum(kind: str, tmp_path: Path) -> None:
    disk = Finished(tmp_path, kind)
    before = disk.read(0, disk.size)
    assert disk.damage() is None
    disk.assert_right()
    assert disk.read(0, disk.size) == before, "looking at it changes nothing"
    disk.record.sha256 = hashlib.sha256(before).hexdigest()
    assert disk.damage() is None
    disk.record.sha256 = "0" * 64
    assert disk.damage() == CHANGED
    if not disk.outputs.image.appended:  # its file has a tree, which counts before the SHA-256
        disk.record.tree = tree_digest_of(before)
        assert disk.damage() is None
        disk.record.tree = "0" * 64
        assert disk.damage() == CHANGED


@every_kind
def test_no_damage_is_published(kind: str, tmp_path: Path) -> None:
    """Of bits all over the file, many of them where headers and tables are: each is told, or does no harm."""
    disk = Finished(tmp_path, kind)
    whole = disk.read(0, disk.size)
    draw = random.Random(f"{SEED}/{kind}")
    places = [draw.randrange(disk.size) for _ in range(12)]
    places += [draw.randrange(min(disk.size, 2 * KiB)) for _ in range(6)]
    places += [(draw.randrange(1, 6) * BLOCK + draw.randrange(64)) % disk.size for _ in range(8)]
    places += [disk.size - 1 - draw.randrange(min(disk.size, 3 * KiB)) for _ in range(4)]
    told = 0
    for place in places:
        disk.write(place, bytes([whole[place] ^ 1 << draw.randrange(8)]))
        if disk.damage() is None:
            print(f"seed {SEED}: a bit at {place} of {disk.size} changes nothing")
            disk.assert_right()
        else:
            told += 1
        disk.write(0, whole)
    assert told >= 6


def test_what_nothing_is_recorded_of_is_not_published(tmp_path: Path) -> None:
    """Grains passed on unseen, and the run ended before the file was hashed."""
    disk = Finished(tmp_path, "compressed")
    assert disk.record.receipt is not None
    disk.record.receipt = replace(disk.record.receipt, content=None)
    assert disk.damage() == UNPROVABLE


@every_kind
def test_it_can_be_cancelled_and_says_what_it_does(kind: str, tmp_path: Path) -> None:
    disk = Finished(tmp_path, kind)
    token = CancelToken()
    token.cancel("Ctrl-C")
    with pytest.raises(Cancelled):
        disk.damage(token)
    seen = disk.meter.snapshot(1.0)
    assert (seen.phase, seen.basis, seen.fraction) == (Phase.PREPARING, Basis.BYTES_READ, 0.0)
    assert seen.note.startswith("checking what an earlier run copied")
    assert disk.damage() is None, "what was cancelled is done again"
    disk.assert_right()
