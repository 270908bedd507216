"""How a machine is landed: what a user may choose, and the network map."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from hypersdk.errors import UsageError, register
from hypersdk.model.guestplan import DiskBus, NicModel
from hypersdk.text import clean
from hypersdk.units import MiB, parse_size

BAD_NETWORK_MAP: Final = register(
    "bad_network_map",
    "A network map cannot be read.",
    "Write it like 'VM Network=br0' for a bridge of the target, or 'VM Network=network:default' for a network of"
    " libvirt.",
)
MIN_MEMORY_BYTES: Final = 1 * MiB
MAX_NETWORKS: Final = 1000
ALL_OTHERS: Final = "*"
"""In a network map: all networks that no other entry names."""
_BRIDGE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,14}")
"""Names of network interfaces are at most 15 bytes (IFNAMSIZ)."""
_MAX_NETWORK_NAME: Final = 200
_NETWORK, _BRIDGED = "network:", "bridge:"


@dataclass(frozen=True, slots=True)
class NetworkTarget:
    """Where a network card is attached: a bridge of the host, or a network of libvirt."""

    name: str
    bridge: bool

    def __str__(self) -> str:
        return self.name if self.bridge else f"{_NETWORK}{self.name}"


@dataclass(frozen=True, slots=True)
class LandOptions:
    """What a user may choose; None is for what the machine itself tells.

    ``networks`` maps networks of the source, ``default_network`` is for those that it does not name. ``pool`` is a
    storage pool; without one the disks stay where they lie. ``new_macs`` gives all cards new addresses.
    ``accelerated`` demands KVM or forbids it. ``tpm`` False lands without the TPM that the source had, ``secure_boot``
    False without its secure boot.
    """

    name: str | None = None
    cpus: int | None = None
    memory_bytes: int | None = None
    networks: Mapping[str, NetworkTarget] = field(default_factory=dict)
    default_network: NetworkTarget | None = None
    pool: str | None = None
    disk_bus: DiskBus | None = None
    nic_model: NicModel | None = None
    new_macs: bool = False
    accelerated: bool | None = None
    tpm: bool | None = None
    secure_boot: bool | None = None
    autostart: bool = False
    start: bool = False

    def target_of(self, network: str) -> NetworkTarget | None:
        """Where cards of this network of the source go; None where nothing says it."""
        return self.networks.get(network, self.default_network)

    @property
    def bridges(self) -> frozenset[str]:
        """The bridges that it names."""
        targets = (*self.networks.values(), self.default_network)
        return frozenset(target.name for target in targets if target is not None and target.bridge)


def parse_memory(text: str) -> int:
    """The memory of a machine in bytes: ``4GiB``. Raises UsageError."""
    size = parse_size(text)
    if size < MIN_MEMORY_BYTES:
        raise UsageError(f"'{clean(text, 40)}' is too little memory for a machine", next_step="Write it like 4GiB.")
    return size


def parse_network_target(text: str) -> NetworkTarget:
    """``br0`` or ``bridge:br0`` is a bridge, ``network:default`` a network of libvirt. Raises UsageError
    ``bad_network_map``."""
    if text.startswith(_NETWORK):
        name = text.removeprefix(_NETWORK)
        if not 0 < len(name) <= _MAX_NETWORK_NAME or "/" in name or not name.isprintable():
            raise _bad(text, "it names no network of libvirt")
        return NetworkTarget(name, bridge=False)
    name = text.removeprefix(_BRIDGED)
    if not _BRIDGE.fullmatch(name):
        raise _bad(text, "it is not the name of a bridge")
    return NetworkTarget(name, bridge=True)


def parse_network_map(entries: Iterable[str]) -> dict[str, NetworkTarget]:
    """Entries of the form ``SOURCE=TARGET``. A source network may have ``=`` in its name, a bridge may not. Raises
    UsageError ``bad_network_map``."""
    found: dict[str, NetworkTarget] = {}
    for entry in entries:
        source, equals, target = entry.rpartition("=")
        if not equals or not source.strip():
            raise _bad(entry, "it has no '=' between the two networks")
        if source in found and found[source] != parse_network_target(target):
            raise _bad(entry, "another entry sends the same network elsewhere")
        found[source] = parse_network_target(target)
        if len(found) > MAX_NETWORKS:
            raise _bad(entry, f"there are more than {MAX_NETWORKS} entries")
    return found


def _bad(text: str, why: str) -> UsageError:
    return UsageError(f"'{clean(text, 200)}' is not an entry of a network map: {why}", code=BAD_NETWORK_MAP)
