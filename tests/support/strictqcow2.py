"""A second reading of the qcow2 specification, as strict as the narrowest readers: compressed clusters inflate with a 4
KiB window, piece by piece."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

CLUSTER: Final = 65536


class StrictImage:
    """A qcow2 image without backing file, snapshots or encryption."""

    def __init__(self, path: Path, window_bits: int = 12) -> None:
        self._data = path.read_bytes()
        self._window_bits = window_bits
        magic, version = struct.unpack_from(">4sI", self._data)
        assert (magic, version) == (b"QFI\xfb", 3)
        cluster_bits, self.capacity, encrypted, l1_size, l1_offset = struct.unpack_from(">IQIIQ", self._data, 20)
        assert (cluster_bits, encrypted) == (16, 0)
        self._l1 = struct.unpack_from(f">{l1_size}Q", self._data, l1_offset)

    def entries(self) -> Iterator[tuple[int, int]]:
        """``(guest cluster, L2 entry)`` of all that is mapped."""
        for number, entry in enumerate(self._l1):
            if table := entry & 0x00FFFFFFFFFFFE00:
                page = self._data[table : table + CLUSTER].ljust(CLUSTER, b"\0")
                yield from (
                    (number * 8192 + index, word) for index, word in enumerate(struct.unpack(">8192Q", page)) if word
                )

    def compressed(self) -> set[int]:
        """The guest clusters that are compressed."""
        return {index for index, entry in self.entries() if entry >> 62 & 1}

    def content(self) -> bytes:
        """The guest's bytes."""
        disk = bytearray(-(-self.capacity // CLUSTER) * CLUSTER)
        for index, entry in self.entries():
            disk[index * CLUSTER : (index + 1) * CLUSTER] = self._cluster(entry)
        return bytes(disk[: self.capacity])

    def _cluster(self, entry: int) -> bytes:
        if not entry >> 62 & 1:
            offset = entry & 0x00FFFFFFFFFFFE00
            return self._data[offset : offset + CLUSTER].ljust(CLUSTER, b"\0")
        offset = entry & (1 << 54) - 1
        sectors = entry >> 54 & 0xFF
        return self._inflate(self._data[offset : offset - offset % 512 + (sectors + 1) * 512])

    def _inflate(self, data: bytes) -> bytes:
        codec = zlib.decompressobj(-self._window_bits)
        cluster = b""
        while len(cluster) < CLUSTER and not codec.eof:
            piece = codec.decompress(data, 1000)
            data = codec.unconsumed_tail
            assert piece or codec.eof
            cluster += piece
        assert len(cluster) == CLUSTER
        return cluster
