"""What a conversion is asked to do. Sizes in bytes; secrets are never in an argument list."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from hypersdk.formats.guestdisk.assess import EVERY_VOLUME
from hypersdk.model.guestplan import Acceleration, SourceGuest
from hypersdk.secret import Secret

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


ANY_DEVICE: Final = EVERY_VOLUME
ONLY_ROOT: Final = "single"
FIRST_ROOT: Final = "first"


@dataclass(frozen=True, slots=True)
class DiskKey:
    """A LUKS passphrase, or a file whose first line it is: virt-v2v reads no binary key files.

    ``device`` is a libguestfs device (``/dev/sda2``, ``/dev/vg/root``), the UUID of the LUKS header, or ``all``.
    """

    secret: Secret | Path
    device: str = ANY_DEVICE


@dataclass(frozen=True, slots=True)
class StaticAddress:
    """An address that a network card keeps. virt-v2v sets it in Windows guests; Linux guests keep theirs anyway. Raises
    ValueError for an address with a zone (RFC 4007), which is a name of this host, and may hold any characters."""

    mac: str
    address: IPAddress
    gateway: IPAddress | None = None
    prefix_length: int | None = None
    nameservers: tuple[IPAddress, ...] = ()

    def __post_init__(self) -> None:
        for address in (self.address, self.gateway, *self.nameservers):
            if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
                raise ValueError(f"an address with a zone: {str(address)!r}")


@dataclass(frozen=True, slots=True)
class Customization:
    """An operation of virt-customize, by the name of its option without dashes: ``firstboot``, ``run-command``. The
    order is kept. With ``is_content``, ``value`` is the content of the file that the operation takes."""

    operation: str
    value: str
    is_content: bool = False


@dataclass(frozen=True, slots=True)
class ConversionRequest:
    """``guest`` is the source, its disks with the files that are to be changed in place: overlays.

    ``encrypted`` are the encrypted volumes that are known, as libguestfs names them: a key for ``all`` is given for
    each.

    ``require_virtio``: end with ``no_virtio_win`` where virt-v2v could not install virtio drivers; None means for
    Windows only. ``root`` is the device of the operating system that is converted where the disks hold several, or
    ``first``; ``single`` refuses such a guest.
    """

    guest: SourceGuest
    keys: tuple[DiskKey, ...] = ()
    encrypted: tuple[str, ...] = ()
    static_addresses: tuple[StaticAddress, ...] = ()
    customizations: tuple[Customization, ...] = ()
    require_virtio: bool | None = None
    root: str = ONLY_ROOT
    acceleration: Acceleration = Acceleration.AUTO
