"""Damage to the files of an earlier run: the resumed export has the source's content, whatever was damaged, or ends
with a clear error.

A run is interrupted in its second disk; then one thing is damaged in the first one (finished) or the second one
(growing), and it is resumed. What is damaged where is drawn from the seed of the run.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from hypersdk.cli.remedies import next_step
from hypersdk.errors import IntegrityError
from hypersdk.formats.image import BLOCK
from hypersdk.migration.export import Outcome
from hypersdk.migration.publish import ExportResult, Publishing
from hypersdk.migration.spec import Compression, Method, OutputFormat, ResumeMode
from hypersdk.migration.takeover import CHANGED
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.transfer import takeover
from hypersdk.transfer.blockfile import FdFile
from hypersdk.units import KiB, MiB
from tests.support.exportchecks import (
    MANIFEST,
    RUN_FILE,
    assert_finished,
    assert_holds,
    assert_no_final_names,
    expected_raw,
    recomputed_digest,
    run_of,
)
from tests.support.exporter import Engine, EngineFactory, succeeded
from tests.support.killed import Killed
from tests.support.seeds import SEED
from tests.support.tools import run_tool
from tests.support.treedigest import tree_digest_of

MACHINE: Final = MachineSpec(
    "web-01",
    disks=(DiskSpec(4 * MiB, allocated_bytes=2 * MiB), DiskSpec(4 * MiB, allocated_bytes=3 * MiB)),
)
BREAK: Final = Fault(FaultKind.SHORT, disk="web-01:1", after_bytes=MiB, times=None)

KINDS: Final[dict[str, dict[str, Any]]] = {
    "ovf": {"format": OutputFormat.OVF},
    "ova": {"format": OutputFormat.OVA},
    "vmdk": {"format": OutputFormat.VMDK},
    "raw": {"format": OutputFormat.RAW},
    "qcow2": {"format": OutputFormat.QCOW2},
    "compressed": {"format": OutputFormat.QCOW2, "compress": Compression.CHECKED},
    "repacked": {"format": OutputFormat.QCOW2, "compress": Compression.REPACK},
    "unchecked": {"format": OutputFormat.QCOW2, "compress": Compression.UNCHECKED},
}


@dataclass(frozen=True)
class Place:
    """A file and the part of it that is a disk."""

    path: Path
    start: int
    end: int


@dataclass(frozen=True)
class Broken:
    """An interrupted export: its first disk is finished, its second one is not."""

    folder: Path
    kind: str

    @property
    def run(self) -> dict[str, Any]:
        found = run_of(self.folder)
        assert found is not None
        return found

    def place(self, index: int) -> Place:
        disk = self.run["disks"][index]
        path = self.folder / f"{'web-01.ova' if self.kind == 'ova' else disk['file_name']}.partial"
        start = disk["start"] or 0
        if not path.exists():  # it was published
            path = path.with_name(path.name.removesuffix(".partial"))
        return Place(path, start, start + disk["size_bytes"] if disk["size_bytes"] else path.stat().st_size)

    def ledger(self) -> Path:
        return self.folder / f"{self.run['disks'][1]['file_name']}.partial.blocks"

    def note_digest(self, known: str | None) -> None:
        """Which digest of the finished disk's file the process recorded: ``tree``, ``sha256`` as an earlier release, or
        none."""
        run, place = self.run, self.place(0)
        with place.path.open("rb") as file:
            file.seek(place.start)
            data = file.read(place.end - place.start)
        run.pop("checksum", None)  # as an earlier release wrote it
        digests = {"tree": tree_digest_of(data), "sha256": hashlib.sha256(data).hexdigest()}
        run["disks"][0] |= {name: digest if name == known else None for name, digest in digests.items()}
        (self.folder / RUN_FILE).write_text(json.dumps(run))


Damage = Callable[[Broken, int, random.Random], None]


def flip(path: Path, offset: int, draw: random.Random) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        [byte] = file.read(1) or b"\0"
        file.seek(offset)
        file.write(bytes([byte ^ 1 << draw.randrange(8)]))


def one_bit(broken: Broken, index: int, draw: random.Random) -> None:
    place = broken.place(index)
    flip(place.path, draw.randrange(place.start, place.end), draw)


def bit_in_the_data(broken: Broken, index: int, draw: random.Random) -> None:
    """A position that is not in a hole."""
    place = broken.place(index)
    behind_header = place.start + (0 if broken.kind == "raw" else BLOCK)
    with place.path.open("rb") as file:
        runs = list(FdFile(file.fileno()).data_runs(behind_header))
    run = draw.choice([run for run in runs if run.start < place.end])
    flip(place.path, draw.randrange(run.start, min(run.stop, place.end)), draw)


def bit_in_the_header(broken: Broken, index: int, draw: random.Random) -> None:
    place = broken.place(index)
    flip(place.path, place.start + draw.randrange(KiB), draw)


def bit_in_the_tables(broken: Broken, index: int, draw: random.Random) -> None:
    """Refcounts and the tables behind the header of a qcow2, in the bytes that are used; markers and first grain of a
    VMDK."""
    place = broken.place(index)
    flip(place.path, min(place.end - 1, place.start + draw.randrange(1, 6) * BLOCK + draw.randrange(64)), draw)


def bit_at_the_end(broken: Broken, index: int, draw: random.Random) -> None:
    """Directory and footer of a finished VMDK."""
    place = broken.place(index)
    flip(place.path, place.end - 1 - draw.randrange(2 * KiB), draw)


def zeroed_cluster(broken: Broken, index: int, draw: random.Random) -> None:
    place = broken.place(index)
    at = place.start + draw.randrange(max(1, (place.end - place.start) // BLOCK)) * BLOCK
    with place.path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(min(BLOCK, place.end - at)))


def hole(broken: Broken, index: int, draw: random.Random) -> None:
    place = broken.place(index)
    at = place.start + draw.randrange(max(1, (place.end - place.start) // BLOCK)) * BLOCK
    with place.path.open("r+b") as file:
        FdFile(file.fileno()).discard(at, min(BLOCK, place.end - at))


def cut(broken: Broken, index: int, draw: random.Random) -> None:
    place = broken.place(index)
    os.truncate(place.path, draw.randrange(place.start, place.end))


def other_file(broken: Broken, index: int, draw: random.Random) -> None:
    """The data of the other disk, of the same size."""
    ours, theirs = broken.place(index), broken.place(1 - index)
    with theirs.path.open("rb") as file:
        file.seek(theirs.start)
        data = file.read(min(theirs.end - theirs.start, ours.end - ours.start))
    with ours.path.open("r+b") as file:
        file.seek(ours.start)
        file.write(data.ljust(ours.end - ours.start, b"\0"))


def bit_in_the_ledger(broken: Broken, index: int, draw: random.Random) -> None:
    flip(broken.ledger(), draw.choice([draw.randrange(128), 4 * KiB + draw.randrange(40 * 40)]), draw)


def no_ledger(broken: Broken, index: int, draw: random.Random) -> None:
    broken.ledger().unlink(missing_ok=True)


def cut_ledger(broken: Broken, index: int, draw: random.Random) -> None:
    os.truncate(broken.ledger(), draw.randrange(5 * KiB))


ANYWHERE: Final = (
    one_bit,
    bit_in_the_data,
    bit_in_the_header,
    bit_in_the_tables,
    zeroed_cluster,
    hole,
    cut,
    other_file,
)
GROWING: Final = (*ANYWHERE, bit_in_the_ledger, no_ledger, cut_ledger)
FINISHED: Final = (*ANYWHERE, bit_at_the_end)


@dataclass(frozen=True)
class Site:
    """One simulator for all cases of a kind, and the folder of an interrupted export."""

    engine: Engine
    first: Broken
    expected: list[Path]
    scratch: Path

    def copied(self, name: str) -> Broken:
        """A copy in a separate folder."""
        folder = self.scratch / name
        run_tool("cp", "-a", self.first.folder, folder)  # with its holes
        return Broken(folder, self.first.kind)

    def resume(self, broken: Broken, method: Method = Method.LEASE) -> Outcome:
        return self.engine.export(
            "web-01", broken.folder, resume=ResumeMode.RESUME, parallel=1, method=method, **KINDS[broken.kind]
        )

    def assert_right(self, broken: Broken, outcome: Outcome) -> None:
        result = succeeded(outcome)
        digests = result.content
        if broken.kind == "unchecked":  # grains of a lease pass unseen
            digests = {
                name: digests[name] or digest for name, digest in zip(sorted(digests), self.digests, strict=True)
            }
        assert_holds(broken.folder, self.expected, digests, self.scratch / "judged", convert=False)
        assert_finished(broken.folder)
        shutil.rmtree(broken.folder)

    @property
    def digests(self) -> list[str]:
        return [recomputed_digest(path) for path in self.expected]


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, engine: EngineFactory, tmp_path: Path) -> Site:
    ran = engine(machines=(MACHINE,))
    expected = expected_raw(ran.simulator, "web-01", tmp_path / "expected")
    ran.simulator.set_faults(BREAK)
    folder = tmp_path / "broken"
    outcome = ran.export("web-01", folder, retries=0, parallel=1, method=Method.LEASE, **KINDS[request.param])
    assert outcome.error is not None
    ran.simulator.set_faults()
    broken = Broken(folder, request.param)
    assert [disk["receipt"] is not None for disk in broken.run["disks"]] == [True, False]
    return Site(ran, broken, expected, tmp_path)


@pytest.mark.slow
def test_what_an_earlier_run_left_is_not_published_damaged(site: Site) -> None:
    """Each damage to the growing disk, at the same time one to the finished one."""
    growings, count = (
        (ANYWHERE, 2) if site.first.kind == "unchecked" else (GROWING, 8)
    )  # without a ledger all is begun again
    digests = ["sha256", None] if site.first.kind in ("ovf", "ova", "vmdk") else ["tree", "sha256", None]
    for number, growing in enumerate(random.Random(f"{SEED}/{site.first.kind}").sample(growings, count)):
        finished = FINISHED[(SEED + number) % len(FINISHED)]
        draw = random.Random(f"{SEED}/{site.first.kind}/{growing.__name__}")
        method = draw.choice([Method.LEASE, Method.DATASTORE])
        known = draw.choice(digests)
        print(f"seed {SEED}: {growing.__name__}, finished disk: {finished.__name__}, {method}, {known=}")
        broken = site.copied(growing.__name__)
        broken.note_digest(known)
        growing(broken, 1, draw)
        finished(broken, 0, draw)
        site.assert_right(broken, site.resume(broken, method))


only_qcow2 = pytest.mark.parametrize("site", ["qcow2"], indirect=True)


@only_qcow2
def test_a_damaged_block_is_fetched_again_and_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only that block, and what was missing anyway."""
    compare = takeover._Check._compare

    def compare_once_it_is_told(*arguments: Any) -> None:
        until = time.monotonic() + 20
        while not _is_told(site) and time.monotonic() < until:
            time.sleep(0.01)
        compare(*arguments)

    monkeypatch.setattr(takeover._Check, "_compare", compare_once_it_is_told)
    whole, broken = site.copied("whole"), site.copied("damaged")
    flip(broken.place(1).path, 5 * BLOCK + 4 * BLOCK + 77, random.Random(1))  # the fourth cluster of data
    ran = site.engine.simulator
    ran.reset_counters()
    undamaged = succeeded(site.resume(whole, Method.DATASTORE))
    first = sum(length for parts in ran.counters.ranges.values() for _, length in parts)
    ran.reset_counters()
    outcome = site.resume(broken, Method.DATASTORE)
    again = sum(length for parts in ran.counters.ranges.values() for _, length in parts)
    assert (undamaged.warnings, again - first) == ((), BLOCK)
    result = succeeded(outcome)
    assert result.blocks_skipped == undamaged.blocks_skipped - 1
    assert result.warnings == (
        (
            "Hard disk 2: 64.0 KiB copied by the earlier run was damaged in the unfinished image and was copied again;"
            " check the drive that it is on"
        ),
    )
    assert _is_told(site)
    site.assert_right(broken, outcome)


def _is_told(site: Site) -> bool:
    return any(note.startswith("checking what an earlier run copied") for note in site.engine.notes)


@only_qcow2
def test_a_finished_disk_that_is_damaged_is_copied_again_and_told(site: Site) -> None:
    broken = site.copied("damaged")
    broken.note_digest("tree")
    flip(broken.place(0).path, 9 * BLOCK, random.Random(1))
    outcome = site.resume(broken)
    assert succeeded(outcome).warnings == (
        f"Hard disk 1 was finished by an earlier run and is copied again: {CHANGED}",
    )
    site.assert_right(broken, outcome)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    ("kind", "last"), [("qcow2", "publish"), ("ova", "publish"), ("ova", "_manifest"), ("raw", "_manifest")]
)
def test_damage_after_all_was_copied_ends_the_run_and_the_next_one_copies(
    kind: str, last: str, index: int, engine: EngineFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run was planned to leave the machine alone, so it must not begin to copy. Before ``_manifest`` the files have
    their names already."""

    def dies(*_: object) -> ExportResult:
        raise Killed

    ran, folder = engine(machines=(MACHINE,)), tmp_path / "out"
    expected = expected_raw(ran.simulator, "web-01", tmp_path / "expected")
    with monkeypatch.context() as patch:
        patch.setattr(Publishing, last, dies)
        with pytest.raises(Killed):
            ran.export("web-01", folder, **KINDS[kind])
    place = Broken(folder, kind).place(index)
    flip(place.path, place.end - 3 * BLOCK, random.Random(1))
    ran.simulator.reset_counters()
    error = ran.export("web-01", folder, resume=ResumeMode.RESUME, **KINDS[kind]).error
    assert error is not None
    assert (error.code, error.exit_status) == ("finished_disk_damaged", 8)
    assert error.fields["disks"] == [f"Hard disk {index + 1}"]
    assert dict(ran.simulator.counters.opened) == {}
    assert not (folder / MANIFEST).exists()
    result = succeeded(ran.export("web-01", folder, resume=ResumeMode.RESUME, method=Method.LEASE, **KINDS[kind]))
    again = range(index, 2) if kind == "ova" else [index]  # in an archive those behind it lie where it ends
    assert dict(ran.simulator.counters.opened) == {f"web-01:{number}": 1 for number in again}
    assert_holds(folder, expected, result.content, tmp_path / "judged", convert=False)
    assert_finished(folder)


def test_a_running_machine_is_copied_again_from_a_new_snapshot(
    engine: EngineFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one is gone by the time that the damage is seen."""

    def dies(_: Publishing) -> ExportResult:
        raise Killed

    ran, folder = engine(machines=(replace(MACHINE, power="poweredOn"),)), tmp_path / "out"
    expected = expected_raw(ran.simulator, "web-01", tmp_path / "expected")
    with monkeypatch.context() as patch:
        patch.setattr(Publishing, "publish", dies)
        with pytest.raises(Killed):
            ran.export("web-01", folder, **KINDS["qcow2"])
    place = Broken(folder, "qcow2").place(1)
    flip(place.path, place.end - 3 * BLOCK, random.Random(1))
    ran.simulator.reset_counters()
    error = ran.export("web-01", folder, resume=ResumeMode.RESUME, **KINDS["qcow2"]).error
    assert error is not None
    assert error.code == "finished_disk_damaged"
    assert ran.simulator.counters.calls["CreateSnapshot_Task"] == 0
    assert_no_final_names(folder)
    result = succeeded(ran.export("web-01", folder, resume=ResumeMode.RESUME, **KINDS["qcow2"]))
    assert ran.simulator.counters.calls["CreateSnapshot_Task"] == 1
    assert any("every disk was copied again" in warning for warning in result.warnings)
    assert_holds(folder, expected, result.content, tmp_path / "judged", convert=False)
    assert_finished(folder)


@pytest.mark.parametrize("kind", ["raw", "ova"])
def test_a_run_whose_record_cannot_be_read_can_be_given_up(kind: str, engine: EngineFactory, tmp_path: Path) -> None:
    """Otherwise the machine could never be exported there again, and the damage would not be reported."""
    ran, folder = engine(machines=(MACHINE,)), tmp_path / "out"
    ran.simulator.set_faults(BREAK)
    assert ran.export("web-01", folder, parallel=1, retries=0, **KINDS[kind]).error is not None
    ran.simulator.set_faults()
    record = folder / RUN_FILE
    record.write_text(record.read_text().replace("web-01-disk1", "web-01-disk2"))  # two bits
    with pytest.raises(IntegrityError) as refused:
        ran.export("web-01", folder, resume=ResumeMode.RESUME, **KINDS[kind])
    assert refused.value.code == "run_unreadable"
    assert "--discard" in next_step(refused.value)
    result = succeeded(ran.export("web-01", folder, resume=ResumeMode.DISCARD, **KINDS[kind]))
    assert any("snapshots named hypersdk-*" in warning for warning in result.warnings)
    expected = expected_raw(ran.simulator, "web-01", tmp_path / "expected")
    assert_holds(folder, expected, result.content, tmp_path / "judged")
    assert_finished(folder)


def test_given_up_while_its_files_get_their_names_it_leaves_none(
    engine: EngineFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another format has other names: nothing would ever replace those."""
    ran, folder = engine(machines=(MACHINE,)), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Publishing, "_check_own", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ran.export("web-01", folder, format=OutputFormat.OVF)
    assert (folder / "web-01-disk2.vmdk").exists()
    assert (folder / "web-01.mf").exists()
    result = succeeded(ran.export("web-01", folder, resume=ResumeMode.DISCARD, format=OutputFormat.RAW))
    names = {file.name for file in result.files}
    assert names == {"web-01.ovf", "web-01-disk1.raw", "web-01-disk2.raw"}
    assert {path.name for path in folder.iterdir()} == {*names, MANIFEST}
