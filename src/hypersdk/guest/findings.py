"""What virt-v2v's log (``-v``) says about the guest: the result of the inspection and the drivers that it has now.

All versions since 1.42 print both, as ``i_NAME = VALUE`` and ``gcaps_NAME = VALUE``, one a line; ``-O`` of newer ones
has neither bus nor network card.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from hypersdk.guest.report import GuestSystem
from hypersdk.model.guestplan import DiskBus, GuestDrivers, NicModel
from hypersdk.text import clean

_FACT: Final = re.compile(rb"^\s*((?:i|gcaps)_[a-z0-9_]{1,40}) = ([^\n]{0,400})$")
_MAX_LINE: Final = 4096
HAS_VIRTIO: Final = "This guest has virtio drivers installed."
_UNKNOWN: Final = frozenset({"", "unknown"})
_DISK_BUSES: Final = {"virtio-blk": DiskBus.VIRTIO, "virtio-scsi": DiskBus.SCSI}


def read_facts(log: Path) -> Mapping[str, str]:
    """The facts by name. The first value of a name counts: what follows may come from the guest."""
    facts: dict[str, str] = {}
    with log.open("rb") as file:
        while line := file.readline(_MAX_LINE):
            if match := _FACT.match(line.rstrip(b"\n")):
                facts.setdefault(match[1].decode(), clean(match[2].decode(errors="replace").strip(), 200))
    return facts


def system_of(facts: Mapping[str, str]) -> GuestSystem:
    """The operating system that the inspection found."""
    known = {name: value for name, value in facts.items() if value not in _UNKNOWN}
    return GuestSystem(
        type=known.get("i_type", ""),
        distro=known.get("i_distro", ""),
        product=_product(known),
        osinfo=known.get("i_osinfo", ""),
        arch=known.get("i_arch", ""),
        major=_number(known.get("i_major_version")),
        minor=_number(known.get("i_minor_version")),
        root=known.get("i_root", ""),
    )


def _product(known: Mapping[str, str]) -> str:
    """A minimal Debian is only a number in libguestfs's words."""
    product = known.get("i_product_name", "")
    return f"{known.get('i_distro', '')} {product}".strip() if product[:1].isdigit() else product


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 7 else None


def drivers_of(facts: Mapping[str, str], infos: Sequence[str]) -> GuestDrivers:
    """The drivers that the guest has after the conversion: virtio only where virt-v2v says so. An emulated NIC is
    e1000e, which all systems without virtio drivers know better than virt-v2v's rtl8139."""
    system = system_of(facts)
    bus = _DISK_BUSES.get(facts.get("gcaps_block_bus", ""), DiskBus.VIRTIO) if HAS_VIRTIO in infos else DiskBus.SATA
    return GuestDrivers(
        disk_bus=bus,
        nic_model=NicModel.VIRTIO if facts.get("gcaps_net_bus") == "virtio-net" else NicModel.E1000E,
        os_id=system.osinfo or None,
        os_name=system.product or None,
        rng=facts.get("gcaps_virtio_rng") == "true",
        balloon=facts.get("gcaps_virtio_balloon") == "true",
    )
