"""Domains that we define, find again, start and remove."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

from hypersdk.errors import LookupFailed, Refused, register
from hypersdk.kvm.connection import Connection
from hypersdk.kvm.document import parsed
from hypersdk.kvm.domainxml import landing_of
from hypersdk.kvm.library import libvirt
from hypersdk.remedies import First, Retry

T = TypeVar("T")


class BootState(StrEnum):
    """What a domain does."""

    OFF = "off"
    STARTS_WITH_HOST = "starts with its host"  # and is off now
    RUNS = "runs"


DOMAIN_RUNS: Final = register(
    "domain_runs",
    "The landed domain is running, and was not started by this landing. Whoever started it may need it.",
    First("shut it down, if it is not needed"),
    Retry(),
)
START_TIMEOUT_S: Final = 120.0
_UNDEFINE_FLAGS: Final = ("MANAGED_SAVE", "SNAPSHOTS_METADATA", "NVRAM", "CHECKPOINTS_METADATA", "TPM")


def define_domain(connection: Connection, xml: str) -> None:
    """Defines the domain; libvirt validates it against its schema. Raises Refused ``libvirt_xml_refused``,
    ``libvirt_exists``."""
    connection.call(
        "cannot define the domain", lambda raw: raw.defineXMLFlags(xml, libvirt().VIR_DOMAIN_DEFINE_VALIDATE) and None
    )


def is_ours(connection: Connection, uuid: str, landing: str) -> bool:
    """Whether a domain of this UUID exists that this landing defined."""
    text = _of_domain(connection, uuid, "cannot read the domain", lambda domain: str(domain.XMLDesc(0)))
    return text is not None and landing_of(text) == landing


def boot_state(connection: Connection, uuid: str, landing: str) -> BootState | None:
    """What the domain of ``landing`` with this UUID does; None where it does not exist."""
    if not is_ours(connection, uuid, landing):
        return None

    def state(domain: Any) -> BootState:
        if domain.isActive():
            return BootState.RUNS
        return BootState.STARTS_WITH_HOST if domain.autostart() else BootState.OFF

    return _of_domain(connection, uuid, "cannot read the domain's state", state)


def domain_text(connection: Connection, uuid: str) -> str:
    """The domain's definition, as it is for its next start. Raises LookupFailed where it does not exist."""
    flags = libvirt().VIR_DOMAIN_XML_INACTIVE
    return connection.call("cannot read the domain", lambda raw: str(raw.lookupByUUIDString(uuid).XMLDesc(flags)))


def set_autostart(connection: Connection, uuid: str) -> None:
    """Starts the domain with its host from now on."""
    connection.call(
        "cannot set the domain's autostart", lambda raw: raw.lookupByUUIDString(uuid).setAutostart(1) and None
    )


def start_domain(connection: Connection, uuid: str) -> None:
    """Starts the domain; one that is running is no error."""

    def start(raw: Any) -> None:
        domain = raw.lookupByUUIDString(uuid)
        if not domain.isActive():
            domain.create()

    connection.call("cannot start the domain", start, timeout_s=START_TIMEOUT_S)


def stop_domain(connection: Connection, uuid: str) -> None:
    """Ends the guest at once; one that is off or does not exist is no error."""

    def stop(domain: Any) -> None:
        with suppress(
            libvirt().libvirtError
        ):  # it may end by itself meanwhile; what is left shows when it is undefined
            domain.destroy()

    _of_domain(connection, uuid, "cannot stop the domain", stop)


def remove_domain(connection: Connection, uuid: str, landing: str) -> None:
    """Undefines the domain with its firmware variables, TPM and saved state; its disks are left. One that does not
    exist is no error, and a domain that is not of ``landing`` is left alone.

    Raises Refused ``domain_runs``.
    """
    try:
        text = domain_text(connection, uuid)
    except LookupFailed:
        return
    if landing_of(text) != landing:
        return
    running = _of_domain(connection, uuid, "cannot read the domain's state", lambda domain: bool(domain.isActive()))
    if running:
        name = parsed(text).findtext("name")
        raise Refused(f"the domain '{name}' is running", code=DOMAIN_RUNS, name=name)
    _of_domain(connection, uuid, "cannot undefine the domain", _undefine)
    _remove_variables(connection, text)


def _undefine(domain: Any) -> None:
    """With all that libvirt keeps for it. Flags that this libvirt does not have are left out."""
    module = libvirt()
    flags = 0
    for name in _UNDEFINE_FLAGS:
        flags |= getattr(module, f"VIR_DOMAIN_UNDEFINE_{name}", 0)
    for known in (flags, flags & ~getattr(module, "VIR_DOMAIN_UNDEFINE_TPM", 0), 0):
        try:
            domain.undefineFlags(known)
        except module.libvirtError as error:
            if not known or error.get_error_code() != module.VIR_ERR_INVALID_ARG:
                raise
        else:
            return


def _remove_variables(connection: Connection, text: str) -> None:
    """libvirt looks for the variables by the domain's name: after a rename they would stay."""
    path = parsed(text).findtext("os/nvram")
    if path and connection.address.is_local:
        with suppress(OSError):  # gone with the domain, or not ours to see
            Path(path).unlink()


def _of_domain(connection: Connection, uuid: str, what: str, call: Callable[[Any], T]) -> T | None:
    """``call`` with the domain; None where it does not exist."""
    try:
        return connection.call(what, lambda raw: call(raw.lookupByUUIDString(uuid)))
    except LookupFailed:
        return None
