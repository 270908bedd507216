"""Raw images: holes stay holes, also far out."""

from __future__ import annotations

from pathlib import Path

from hypersdk.formats.image import BLOCK, Piece
from hypersdk.formats.raw import RawWriter
from hypersdk.units import TiB
from tests.support.writers import block_bytes, block_file


def test_a_new_image_forgets_what_the_file_held(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"old" * BLOCK)
    with block_file(image) as file:
        writer = RawWriter.create(file, BLOCK + 512)
        assert list(writer.stored()) == []
        writer.finish()
    assert image.read_bytes() == bytes(BLOCK + 512)


def test_a_resumed_image_keeps_it_and_gets_its_size_back(tmp_path: Path) -> None:
    data = block_bytes("random", 1, BLOCK)
    with block_file(image := tmp_path / "image") as file:
        RawWriter.create(file, 3 * BLOCK).write(0, data)
        file.truncate(BLOCK)
        RawWriter.resume(file, 3 * BLOCK).write(2 * BLOCK, data)
    assert image.read_bytes() == data + bytes(BLOCK) + data


def test_deflated_blocks_come_back(tmp_path: Path) -> None:
    with block_file(tmp_path / "image") as file:
        pieces = [Piece(0, BLOCK, b"x")]
        assert RawWriter.create(file, BLOCK).write_deflated(pieces) == pieces


def test_data_beyond_2_tib_takes_only_its_own_room(tmp_path: Path) -> None:
    data = block_bytes("random", 1, BLOCK)
    offsets = [0, 2 * TiB - BLOCK, 2 * TiB, 4 * TiB - BLOCK]
    with block_file(image := tmp_path / "image") as file:
        writer = RawWriter.create(file, 4 * TiB)
        for offset in offsets:
            writer.write(offset, data)
        writer.finish()
        assert [file.pread(BLOCK, offset) == data for offset in offsets] == [True] * 4
    assert image.stat().st_size == 4 * TiB
    assert image.stat().st_blocks * 512 < 8 * BLOCK
