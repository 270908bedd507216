"""What the plan says a disk takes at most is never less than what it takes: real files of every format and mode."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.formats.image import BLOCK
from hypersdk.formats.qcow2.clusters import HostClusters
from hypersdk.formats.qcow2.layout import CLUSTER, DEFLATED_MAX, Geometry
from hypersdk.formats.qcow2.writer import most_bytes as qcow2_most_bytes
from hypersdk.migration.formats import FORMATS, most_bytes
from hypersdk.migration.plan import make_plan
from hypersdk.migration.spec import Compression, ExportSpec, OutputFormat
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import GiB, MiB
from tests.support.exporter import Engine, succeeded
from tests.support.seeds import examples
from tests.support.simulator import SimulatorFactory
from tests.support.writers import ALL_KINDS, BLOCK_KINDS, Guest, Step, WriterKind, block_file, perform

few = examples(25)
MODES: Final[dict[str, dict[str, Any]]] = {
    "raw": {},
    "qcow2-none": {"format": OutputFormat.QCOW2},
    "qcow2-pass": {"format": OutputFormat.QCOW2, "compress": Compression.CHECKED},
    "qcow2-repack": {"format": OutputFormat.QCOW2, "compress": Compression.REPACK},
    "vmdk": {"format": OutputFormat.VMDK},
}
FITTING = [
    (output, compress) for output in OutputFormat for compress in Compression if not FORMATS[output].refusal(compress)
]


def spec(**changes: Any) -> ExportSpec:
    return ExportSpec(**{"machine": "web-01", "output_dir": Path("out"), "format": OutputFormat.RAW, **changes})


def room_of(path: Path, output: OutputFormat) -> int:
    """A raw image is sparse by nature; what any other file's length says has to be there for it to be copied."""
    return path.stat().st_blocks * 512 if output is OutputFormat.RAW else path.stat().st_size


@st.composite
def guests(draw: st.DrawFn) -> Guest:
    """Odd disks with a few blocks, up to those with several tables."""
    sectors = draw(st.integers(1, 64 * BLOCK // 512) | st.integers(1, 3 * GiB // 512))
    last = (sectors * 512 - 1) // BLOCK
    kinds = draw(st.dictionaries(st.integers(0, last), st.sampled_from(BLOCK_KINDS), max_size=70))
    return Guest(sectors * 512, dict(sorted(kinds.items())))


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.name)
@few
@given(guest=guests(), deflated=st.booleans(), level=st.integers(0, 9))
def test_no_image_is_larger_than_was_said(kind: WriterKind, guest: Guest, *, deflated: bool, level: int) -> None:
    wanted = spec(**MODES[kind.name])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        with block_file(path) as file:
            writer = kind.create(file, guest.capacity)
            for index in guest.kinds:
                perform(writer, guest, Step(index, index, deflated, level))
            writer.finish()
        assert room_of(path, wanted.format) <= most_bytes(wanted, guest.capacity, len(guest.kinds) * BLOCK)


@pytest.mark.parametrize(("run", "packed"), [(1, False), (63, False), (64, False), (64, True)])
def test_the_borders_of_refcount_blocks_are_counted(tmp_path: Path, run: int, *, packed: bool) -> None:
    """Runs of clusters that do not fit before the next refcount block leave room behind, every 2 GiB."""
    blocks, geometry = 150_016, Geometry(16 * GiB)
    with block_file(tmp_path / "image") as file:
        clusters = HostClusters.fresh(file, geometry)
        for _ in range(blocks if packed else blocks // run):
            if packed:
                clusters.allocate_bytes(DEFLATED_MAX)
            else:
                clusters.reserve(run)
        for _ in range(geometry.l1_entries):
            clusters.reserve(1)
        clusters.close()
    most = qcow2_most_bytes(16 * GiB, blocks, compressed=packed)
    assert (tmp_path / "image").stat().st_size <= most < 1.05 * blocks * CLUSTER


@pytest.mark.parametrize(("output", "compress"), FITTING)
@pytest.mark.parametrize("allocated", [1 * MiB, 40 * MiB])
def test_no_export_is_larger_than_was_planned(
    simulator: SimulatorFactory, tmp_path: Path, allocated: int, output: OutputFormat, compress: Compression
) -> None:
    disk = DiskSpec(600 * MiB, allocated_bytes=allocated)
    engine = Engine(simulator(machines=(MachineSpec("web-01", disks=(disk, disk)),)), tmp_path / "state")
    asked = spec(output_dir=tmp_path / "out", format=output, compress=compress)
    with engine.log_in() as session:
        plan = make_plan(session, asked, cancel=CancelToken())
    succeeded(engine.export("web-01", asked.output_dir, format=output, compress=compress))
    files = list(asked.output_dir.iterdir())
    assert sum(room_of(path, output) for path in files) <= plan.needs_bytes
    assert plan.needs_bytes < 2 * allocated + 16 * MiB, "an upper bound, and no more than that"
