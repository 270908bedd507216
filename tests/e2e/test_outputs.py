"""Every output format, read back by qemu-img and ``hyper2kvm verify``; and what ``verify`` reports after tampering."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from hypersdk.migration.spec import Compression, Method, OutputFormat
from hypersdk.simulator import Simulator
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.simulator.content import BlockKind
from hypersdk.units import GiB, MiB, TiB
from tests.support.cli.commandline import Run, run
from tests.support.cli.hyper2kvm import HYPER2KVM, ProgramFactory
from tests.support.exportchecks import BLOCK, assert_finished, assert_holds, expected_raw, recomputed_digest
from tests.support.exporter import Engine, EngineFactory, succeeded
from tests.support.tools import run_tool
from tests.support.writers import virtual_size

MACHINE: Final = MachineSpec(
    "web-01",
    disks=(
        DiskSpec(12 * MiB + 512, allocated_bytes=6 * MiB),
        DiskSpec(4 * MiB),
        DiskSpec(64 * MiB, allocated_bytes=MiB),
    ),
)
OUTPUTS: Final[dict[str, dict[str, Any]]] = {
    "ovf": {"format": OutputFormat.OVF},
    "ovf unchecked": {"format": OutputFormat.OVF, "compress": Compression.UNCHECKED},
    "ova": {"format": OutputFormat.OVA},
    "ova unchecked": {"format": OutputFormat.OVA, "compress": Compression.UNCHECKED},
    "vmdk": {"format": OutputFormat.VMDK},
    "raw": {"format": OutputFormat.RAW},
    "qcow2": {"format": OutputFormat.QCOW2},
    "qcow2 compressed": {"format": OutputFormat.QCOW2, "compress": Compression.CHECKED},
    "qcow2 unchecked": {"format": OutputFormat.QCOW2, "compress": Compression.UNCHECKED},
    "qcow2 repacked": {"format": OutputFormat.QCOW2, "compress": Compression.REPACK},
}


def verify(folder: Path) -> Run:
    """``hyper2kvm verify --json``."""
    return run("verify", "--json", str(folder), env={"HOME": str(folder.parent)})


def findings(folder: Path) -> set[str]:
    """Codes of what ``verify`` finds; its exit status must say so."""
    ended = verify(folder)
    report = next(event for event in ended.events if event["type"] == "verified")
    found = {finding["code"] for finding in report["findings"]}
    assert ended.status == (8 if found else 0)
    return found


@pytest.mark.parametrize("method", [Method.LEASE, Method.DATASTORE], ids=str)
@pytest.mark.parametrize("name", OUTPUTS)
def test_every_output_holds_the_disks(name: str, method: Method, engine: EngineFactory, tmp_path: Path) -> None:
    spec = OUTPUTS[name]
    ran = engine(machines=(MACHINE,))
    expected = expected_raw(ran.simulator, "web-01", tmp_path / "expected")
    folder = tmp_path / "out"
    result = succeeded(ran.export("web-01", folder, method=method, **spec))
    digests = dict(result.content)
    if spec.get("compress") is Compression.UNCHECKED and method is Method.LEASE:
        assert set(digests.values()) == {None}, "nobody looked inside, so nobody knows"
        digests = dict(zip(digests, map(recomputed_digest, expected), strict=True))
    assert_holds(folder, expected, digests, tmp_path / "judged")
    assert_finished(folder)
    assert findings(folder) == set()


def flip(path: Path, place: int) -> None:
    """One bit."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def swap(one: Path, other: Path) -> None:
    """The names of two files."""
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def rewrite(path: Path, old: bytes, new: bytes) -> None:
    """Some text in a small file."""
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


TAMPERED: Final[dict[str, tuple[Callable[[Path], object], str]]] = {
    "first bit": (lambda folder: flip(folder / "web-01-disk1.vmdk", 0), "verify_flipped"),
    "a bit inside": (lambda folder: flip(folder / "web-01-disk1.vmdk", 1_000_003), "verify_flipped"),
    "last bit": (
        lambda folder: flip(folder / "web-01-disk2.vmdk", (folder / "web-01-disk2.vmdk").stat().st_size - 1),
        "verify_flipped",
    ),
    "bit of the descriptor": (lambda folder: flip(folder / "web-01.ovf", 500), "verify_flipped"),
    "swapped disks": (
        lambda folder: swap(folder / "web-01-disk1.vmdk", folder / "web-01-disk2.vmdk"),
        "verify_swapped_disk",
    ),
    "missing": (lambda folder: (folder / "web-01-disk3.vmdk").unlink(), "verify_missing"),
    "extra": (lambda folder: (folder / "web-01-disk4.vmdk").write_bytes(b"x"), "verify_extra"),
    "truncated": (
        lambda folder: os.truncate(folder / "web-01-disk2.vmdk", (folder / "web-01-disk2.vmdk").stat().st_size - 1),
        "verify_truncated",
    ),
    "grown": (
        lambda folder: os.truncate(folder / "web-01-disk2.vmdk", (folder / "web-01-disk2.vmdk").stat().st_size + 1),
        "verify_grown",
    ),
    "manifest gone": (lambda folder: (folder / "artifact-manifest.json").unlink(), "verify_no_manifest"),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OVF export, made once."""
    from hypersdk.simulator import SimulatorConfig

    base = tmp_path_factory.mktemp("exported")
    with Simulator(SimulatorConfig(machines=(MACHINE,))) as simulator:
        succeeded(Engine(simulator, base / "state").export("web-01", base / "out", format=OutputFormat.OVF))
    return base / "out"


@pytest.mark.parametrize("name", TAMPERED)
def test_verify_names_what_is_wrong(name: str, exported: Path, tmp_path: Path) -> None:
    tamper, code = TAMPERED[name]
    folder = tmp_path / "out"
    shutil.copytree(exported, folder)
    assert findings(folder) == set()
    tamper(folder)
    assert code in findings(folder)
    others = {wrong for _, wrong in TAMPERED.values()} - {code, "verify_mf_line"}
    assert not findings(folder) & others, "one thing is wrong and another is told"


@pytest.mark.parametrize("change", ["digest", "line"])
def test_verify_finds_a_wrong_line_in_the_mf(change: str, exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(exported, folder)
    mf = folder / "web-01.mf"
    first = next(line for line in mf.read_bytes().splitlines(keepends=True) if b"disk1" in line)
    digest = first.split(b"= ")[1][:8]
    if change == "digest":
        rewrite(mf, digest, bytes(reversed(digest)) if digest != bytes(reversed(digest)) else b"00000000")
    else:
        rewrite(mf, first, b"")
    assert "verify_mf_line" in findings(folder)


# Beyond two terabytes

WIDE: Final = 4 * TiB
STRIDE: Final = 512 * MiB
PEAK_BYTES: Final = 160 * MiB


def mapped(image: Path, kind: str) -> list[tuple[int, int]]:
    """``(offset, length)`` of what qemu-img takes for data; comparing four terabytes of holes takes it minutes."""
    areas = json.loads(run_tool("qemu-img", "map", "-f", kind, "--output=json", image))
    return [(area["start"], area["length"]) for area in areas if area["data"]]


def window(image: Path, kind: str, start: int, scratch: Path) -> str:
    """The digest of a GiB of the guest, as qemu-img reads it."""
    place = f"driver=raw,offset={start},size={GiB},file.driver={kind},file.file.driver=file,file.file.filename={image}"
    run_tool("qemu-img", "convert", "--image-opts", place, "-O", "raw", scratch)
    return recomputed_digest(scratch)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--format", "qcow2"), ("--format", "raw")], ids=["qcow2", "raw"])
def test_four_terabytes_in_bounded_memory(flags: tuple[str, ...], program: ProgramFactory, tmp_path: Path) -> None:
    """One block in each 512 MiB: everything that grows with capacity would show."""
    wide = MachineSpec("wide", disks=(DiskSpec(WIDE, stride_bytes=STRIDE),))
    simulator, hyper2kvm = program(machines=(wide,))
    hyper2kvm.prefix = (sys.executable, "-c", MEASURED)
    folder, began = tmp_path / "out", time.monotonic()
    ended = hyper2kvm.run("export", "--json", "wide", "-o", folder, "--source", "lease", *flags)
    print(f"exported after {time.monotonic() - began:.1f} s")
    image = folder / f"wide-disk1.{flags[1]}"
    (raw,) = expected_raw(simulator, "wide", tmp_path / "expected")
    assert ended.result["content"][image.name] == recomputed_digest(raw)
    assert [file["tree"] is not None for file in ended.result["files"]] == [False, True]
    assert virtual_size(image, flags[1]) == WIDE
    assert image.stat().st_blocks * 512 < 2 * GiB
    disk = simulator.disk_image("wide")
    assert mapped(image, flags[1]) == [
        (index * BLOCK, BLOCK) for index in disk.allocated_blocks() if disk.kind(index) is not BlockKind.ZERO
    ]
    print(f"judged after {time.monotonic() - began:.1f} s")
    for start in (0, WIDE // 2 - GiB, WIDE - GiB):
        assert window(image, flags[1], start, tmp_path / "ours") == window(raw, "raw", start, tmp_path / "theirs")
    peak = int(ended.err.rpartition("peak=")[2])
    print(f"peak memory {peak / MiB:.0f} MiB")
    assert peak <= PEAK_BYTES, f"{peak / MiB:.0f} MiB"


MEASURED: Final = """
import os, resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
print(f"peak={peak}", file=sys.stderr)
sys.exit(status)
"""


def test_the_measure_measures() -> None:
    """The memory measurement includes child processes."""
    hungry = [
        sys.executable,
        "-c",
        MEASURED,
        sys.executable,
        "-c",
        f"x = bytearray({200 * MiB}); x[::4096] = b'1' * len(x[::4096])",
    ]
    done = subprocess.run(hungry, capture_output=True, text=True, check=True)
    assert int(done.stderr.rpartition("peak=")[2]) > 200 * MiB
    assert HYPER2KVM.exists()
