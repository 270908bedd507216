"""The disk that is copied: the same bytes for the same seed, a fifth of its data incompressible, a third of it
holes."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

from hypersdk.units import MiB

WORDS = 4096
SEED = 7


def make_disk(folder: Path, capacity: int) -> Path:
    """A streamOptimized VMDK of ``capacity`` bytes in ``folder``, made by qemu-img, so that no part of ours made what
    ours reads."""
    raw, vmdk = folder / "source.raw", folder / "source.vmdk"
    rng = random.Random(SEED)
    words = [rng.randbytes(rng.randint(3, 10)) for _ in range(WORDS)]
    with raw.open("wb") as file:
        file.truncate(capacity)
        for offset in range(0, capacity, MiB):
            dice = rng.random()
            if dice < 1 / 3:
                continue
            file.seek(offset)
            file.write(rng.randbytes(MiB) if dice < 1 / 3 + 2 / 15 else _text(rng, words))
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, vmdk],
        check=True,
        timeout=900,
    )
    raw.unlink()
    return vmdk


def _text(rng: random.Random, words: list[bytes]) -> bytes:
    """A MiB that deflates to somewhat less than half, as programs and databases do."""
    data = b"".join(rng.choices(words, k=MiB // 5))
    return data[:MiB]
