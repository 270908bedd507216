"""The value of ``--machine``: a machine whose disks are raw images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from hypersdk.errors import UsageError
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.simulator.machine_view import GUESTS
from hypersdk.units import MiB, TiB, parse_size

MAX_NAME: Final = 80
"""As in vCenter."""
MAX_DISKS: Final = 60
MAX_MEMORY_BYTES: Final = 24 * TiB
_EXAMPLE: Final = "Write it like web=web.raw,data.raw,firmware=efi."


def read_machine(text: str) -> MachineSpec:
    """Reads ``NAME=IMAGE[,IMAGE]...[,OPTION=VALUE]...``; an entry that begins with no option's name is an image.

    Raises UsageError for what is no machine, and for images that are no raw images.
    """
    name, is_there, rest = text.partition("=")
    images: list[Path] = []
    options: dict[str, Any] = {}
    for entry in rest.split(","):
        key, given, value = entry.partition("=")
        if given and key in _OPTIONS:
            field, read = _OPTIONS[key]
            options[field] = read(value)
        else:
            images.append(Path(entry))
    if not (is_there and 0 < len(name) <= MAX_NAME and 0 < len(images) <= MAX_DISKS and rest):
        raise UsageError("that is no machine with an image", next_step=_EXAMPLE)
    return MachineSpec(name, tuple(DiskSpec(image=image) for image in images), **options)


def _firmware(text: str) -> str:
    if text not in ("bios", "efi"):
        raise UsageError("the firmware is neither bios nor efi", next_step="Write firmware=efi or firmware=bios.")
    return text


def _memory_mb(text: str) -> int:
    size = parse_size(text)
    if not 4 * MiB <= size <= MAX_MEMORY_BYTES or size % (4 * MiB):
        raise UsageError("a machine cannot have that memory", next_step="Write a multiple of 4MiB, such as 512MiB.")
    return size // MiB


def _guest(text: str) -> str:
    if text not in GUESTS:
        raise UsageError("the simulator does not know that guest", next_step=f"It knows {', '.join(sorted(GUESTS))}.")
    return text


_OPTIONS: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "firmware": ("firmware", _firmware),
    "memory": ("memory_mb", _memory_mb),
    "guest": ("guest_id", _guest),
}
