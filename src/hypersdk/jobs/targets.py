"""The libvirt that a job lands its machine at: a stored endpoint, or an address that the administrator allows.

Who may define domains at ``qemu:///system`` is root on that host. So a job does not name an address of its own choice.
"""

from __future__ import annotations

from typing import Final

from hypersdk.access.endpoints import EndpointStore
from hypersdk.access.kinds.libvirt import LIBVIRT, address_of
from hypersdk.errors import Refused, register
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.kvm.address import LibvirtAddress, parse_libvirt_address

TARGET_NOT_ALLOWED: Final = register(
    "target_not_allowed",
    "Jobs may land machines at stored endpoints of the kind libvirt, and at the addresses in the daemon's setting"
    " `allowed_targets`: who may define domains is root on that host.",
    "Have an administrator store it: `hyperctl endpoints add NAME URI`; then name that endpoint.",
)


def known_target(to: str, endpoints: EndpointStore, settings: DaemonSettings) -> tuple[str, LibvirtAddress]:
    """How a job remembers its target (the id of the endpoint, or the address), and its address. Raises Refused
    ``target_not_allowed``, LookupFailed ``endpoint_unknown``, UsageError."""
    if "/" not in to:  # which no name has
        stored = endpoints.get(to)
        return stored.id, address_of(endpoints.login_of(stored.id, kind=LIBVIRT))
    address = parse_libvirt_address(to)
    if str(address) not in {str(parse_libvirt_address(allowed)) for allowed in settings.allowed_targets}:
        raise Refused(f"jobs may not name {address}", code=TARGET_NOT_ALLOWED, key="allowed_targets")
    return str(address), address
