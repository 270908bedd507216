"""The kinds of endpoints. A new kind is a module here and a line in ``KINDS``."""

from __future__ import annotations

from typing import Final

from hypersdk.access.kinds.base import ENDPOINT_INVALID, EndpointKind
from hypersdk.access.kinds.libvirt import Libvirt
from hypersdk.access.kinds.vsphere import Vsphere
from hypersdk.errors import UsageError

KINDS: Final[dict[str, EndpointKind]] = {kind.name: kind for kind in (Vsphere(), Libvirt())}


def kind_of(name: str) -> EndpointKind:
    """The kind of that name. Raises UsageError ``endpoint_invalid``."""
    if name not in KINDS:
        raise UsageError(f"kind: must be {' or '.join(sorted(KINDS))}", code=ENDPOINT_INVALID)
    return KINDS[name]
