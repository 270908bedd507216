"""The progress display during an export: percentage and bottleneck."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from hypersdk.formats.image import Buffer
from hypersdk.migration.spec import Compression, Method
from hypersdk.model import Basis, Bottleneck, DiskProgress, Phase
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.transfer.blockfile import FdFile
from hypersdk.units import MiB
from tests.support.exporter import Engine, EngineFactory, succeeded

FULL: Final = MachineSpec("web-01", disks=(DiskSpec(48 * MiB, allocated_bytes=48 * MiB),))


def disk_states(engine: Engine, phase: Phase | None = None) -> list[DiskProgress]:
    """The reported progress of the machine's only disk, in order."""
    disks = [progress.disks[0] for progress in engine.seen]
    return [disk for disk in disks if phase is None or disk.phase is phase]


def named(engine: Engine) -> Bottleneck | None:
    """The bottleneck that was shown most, while data moved."""
    seen = Counter(disk.bottleneck for disk in disk_states(engine, Phase.TRANSFERRING) if disk.bottleneck)
    assert seen, "it ended before there was anything to see"
    (most, count), *_ = seen.most_common(1)
    assert count > 0.6 * seen.total(), seen
    return most


@pytest.mark.slow
@pytest.mark.parametrize("method", [Method.LEASE, Method.DATASTORE], ids=str)
def test_a_slow_source_is_named(method: Method, engine: EngineFactory, tmp_path: Path) -> None:
    rate = {Method.LEASE: 12 * MiB, Method.DATASTORE: 4 * MiB}[method]  # datastores give four streams
    ran = engine(machines=(FULL,), rate_bytes_s=rate)
    succeeded(ran.export("web-01", tmp_path / "out", method=method))
    assert named(ran) is Bottleneck.SOURCE


@pytest.mark.slow
@pytest.mark.parametrize("method", [Method.LEASE, Method.DATASTORE], ids=str)
def test_a_slow_target_is_named(
    method: Method, engine: EngineFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = FdFile.pwrite

    def slowly(file: FdFile, buffers: Sequence[Buffer], offset: int) -> None:
        time.sleep(sum(memoryview(buffer).nbytes for buffer in buffers) / (8 * MiB))
        whole(file, buffers, offset)

    monkeypatch.setattr(FdFile, "pwrite", slowly)
    ran = engine(machines=(FULL,))
    succeeded(ran.export("web-01", tmp_path / "out", method=method))
    assert named(ran) is Bottleneck.TARGET


@pytest.mark.slow
def test_a_busy_processor_is_named(engine: EngineFactory, tmp_path: Path) -> None:
    """Recompressing takes far more CPU time than sending."""
    ran = engine(machines=(MachineSpec("web-01", disks=(DiskSpec(96 * MiB, allocated_bytes=96 * MiB),)),))
    succeeded(ran.export("web-01", tmp_path / "out", method=Method.LEASE, compress=Compression.REPACK))
    assert named(ran) is Bottleneck.CPU


@pytest.mark.slow
@pytest.mark.parametrize("method", [Method.LEASE, Method.DATASTORE], ids=str)
def test_a_limit_of_ones_own_is_named(method: Method, engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(FULL,), settings={"bandwidth_limit": 12 * MiB})
    began = time.monotonic()
    result = succeeded(ran.export("web-01", tmp_path / "out", method=method))
    assert result.wire_bytes / (time.monotonic() - began) < 12 * MiB * 1.1
    assert named(ran) is Bottleneck.LIMIT


def assert_steady(states: Sequence[DiskProgress]) -> None:
    """The percentage never falls and never passes 1; it is 1 only at the end."""
    fractions = [disk.fraction for disk in states]
    assert fractions == sorted(fractions)
    assert max(fractions) <= 1
    assert all(disk.phase is Phase.DONE for disk in states if disk.fraction == 1)
    assert states[-1].fraction == 1


@pytest.mark.slow
@pytest.mark.parametrize("spec", [{}, {"compress": Compression.CHECKED}], ids=["plain", "compressed"])
def test_half_way_is_called_half_way_without_a_length(
    spec: dict[str, Any], engine: EngineFactory, tmp_path: Path
) -> None:
    """A tenth of the disk is allocated, half of that at its front: neither position nor capacity tells."""
    sparse = MachineSpec("web-01", disks=(DiskSpec(480 * MiB, allocated_bytes=48 * MiB),))
    ran = engine(machines=(sparse,), rate_bytes_s=8 * MiB)
    succeeded(ran.export("web-01", tmp_path / "out", method=Method.LEASE, **spec))
    moving = disk_states(ran, Phase.TRANSFERRING)
    assert {disk.basis for disk in moving[1:]} == {Basis.ALLOCATED}
    total = moving[-1].wire_bytes
    half = min(moving, key=lambda disk: abs(disk.wire_bytes - total / 2))
    assert abs(half.wire_bytes / total - 0.5) < 0.1, "nobody looked at half time"
    assert abs(half.fraction - half.wire_bytes / total) < 0.1
    assert_steady(disk_states(ran))


@pytest.mark.parametrize("file_size", ["absent", "present"])
def test_the_percentage_is_steady(file_size: str, engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(
        machines=(MachineSpec("web-01", disks=(DiskSpec(64 * MiB, allocated_bytes=16 * MiB),)),), file_size=file_size
    )
    succeeded(ran.export("web-01", tmp_path / "out"))
    assert_steady(disk_states(ran))
