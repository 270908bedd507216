"""What a crash may leave of a stream that was being written."""

from __future__ import annotations

from array import array
from pathlib import Path

from hypersdk.formats.image import BLOCK
from hypersdk.formats.vmdk.layout import ENTRIES_PER_TABLE, MarkerType, bytes_of, meta_marker
from hypersdk.formats.vmdk.writer import StreamOptimizedWriter
from hypersdk.units import MiB
from tests.support.vmdkstreams import decode
from tests.support.writers import block_file

CAPACITY = 40 * MiB


def test_a_table_that_names_what_is_not_there_any_more_is_passed_over(tmp_path: Path) -> None:
    """Damage can leave a table whose grains are behind the end that the file has now."""
    path = tmp_path / "disk.vmdk"
    with block_file(path) as file:
        writer = StreamOptimizedWriter.create(file, CAPACITY)
        writer.write(0, b"a" * BLOCK)
        entries = array("I", [0]) * ENTRIES_PER_TABLE
        entries[1] = 1_000_000
        table = bytes_of(entries)
        file.pwrite([meta_marker(MarkerType.GRAIN_TABLE, len(table) // 512), table], file.size())
        again = StreamOptimizedWriter.resume(file, CAPACITY, trusted=lambda block: block == 0)
        again.write(BLOCK, b"b" * BLOCK)
        again.finish()
    with path.open("rb") as stream:
        raw = decode([stream.read()])
    assert raw[: 2 * BLOCK] == b"a" * BLOCK + b"b" * BLOCK
    assert not any(raw[2 * BLOCK :])
