"""Checks of the target before anything is changed there. All problems are told at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hypersdk.errors import HyperSDKError, Refused, register
from hypersdk.kvm.connection import Connection
from hypersdk.kvm.document import parsed
from hypersdk.kvm.domainxml import landing_of
from hypersdk.kvm.library import libvirt
from hypersdk.model.guestplan import GuestNic, GuestPlan
from hypersdk.remedies import First, Retry, SetOption
from hypersdk.text import clean
from hypersdk.transfer.files import exists

DOMAIN_EXISTS: Final = register(
    "domain_exists",
    "The target has a domain of that name, which is not of this landing. It is never replaced.",
    SetOption("domain", "NAME"),
    "Or undefine the other domain, if it is not needed: `virsh undefine NAME`.",
)
MAC_TAKEN: Final = register(
    "mac_taken",
    "Another domain of the target has the same MAC address. Two machines with one MAC address disturb each other on a"
    " network.",
    "Land with new MAC addresses, or remove the other domain if it is an earlier landing of the machine.",
)
IMAGE_OF_DOMAIN: Final = register(
    "image_of_domain",
    "A domain of the target uses the image. What it wrote would be lost, or two guests would write one disk.",
    "Undefine that domain if it is not needed. If it is, leave the image with it: export the machine into another"
    " folder, or land it in another pool.",
)
NO_SUCH_NETWORK: Final = register(
    "no_such_network",
    "The target has no network of that name.",
    "Check the name in `virsh net-list`, and correct the network map.",
)
NETWORK_INACTIVE: Final = register(
    "network_inactive",
    "The network is not active, so the guest could not be started.",
    First("start it with `virsh net-start NAME`, and with `virsh net-autostart NAME` for the next start of the host"),
    Retry(),
)
NO_SUCH_BRIDGE: Final = register(
    "no_such_bridge",
    "The target has no bridge of that name.",
    "See its bridges with `ip link show type bridge`, and correct the network map. 'network:NAME' in it is a network of"
    " libvirt.",
)
_INTERFACES: Final = Path("/sys/class/net")


@dataclass(frozen=True, slots=True)
class DomainFacts:
    """A domain of the target. ``files`` are the paths of its disks; ``landing`` is the id of the landing that made it,
    None where it is not ours."""

    uuid: str
    name: str
    macs: frozenset[str]
    files: frozenset[str]
    landing: str | None


@dataclass(frozen=True, slots=True)
class TargetInventory:
    """What is at the target. ``networks`` says of each whether it is active; ``bridges`` are those that were asked for
    and exist, None where neither libvirt nor this machine can tell."""

    domains: tuple[DomainFacts, ...]
    networks: dict[str, bool]
    bridges: frozenset[str] | None


def read_inventory(connection: Connection, *, bridges: Collection[str]) -> TargetInventory:
    """Reads all domains and networks, and looks for ``bridges``. Raises the errors of a connection."""
    return TargetInventory(
        domains=read_domains(connection),
        networks=connection.call(
            "cannot list the networks",
            lambda raw: {network.name(): bool(network.isActive()) for network in raw.listAllNetworks()},
        ),
        bridges=_bridges(connection, bridges),
    )


def read_domains(connection: Connection) -> tuple[DomainFacts, ...]:
    """All domains, running or not. Raises the errors of a connection."""
    found = connection.call("cannot list the domains", _domain_texts)
    return tuple(_domain(text, files) for text, files in found)


def check_unused(domains: Iterable[DomainFacts], files: Collection[str], *, here: bool) -> None:
    """Raises Refused ``image_of_domain`` where a domain uses one of the ``files``, paths at the hypervisor. ``here``:
    that is this machine, so a file is known by any of its names, as through a link."""
    known = {*files, *(identity for file in files if here and (identity := _identity(file)) is not None)}
    for domain in domains:
        for file in sorted(domain.files):
            if file in known or (here and _identity(file) in known):
                raise Refused(
                    f"the domain '{clean(domain.name, 80)}' uses {clean(file, 200)}",
                    code=IMAGE_OF_DOMAIN,
                    domain=domain.name,
                    file=file,
                )


def _identity(file: str) -> tuple[int, int] | None:
    """Of a file that can be seen."""
    try:
        found = Path(file).stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _domain_texts(raw: Any) -> list[tuple[str, frozenset[str]]]:
    """Each domain as it is for its next start, and the paths of its disks that do not stand there: attached or replaced
    until it ends, or named by a pool and a volume. A domain may go while the list is read."""
    module = libvirt()
    texts = []
    for domain in raw.listAllDomains():
        try:
            live = _files(domain.XMLDesc()) if domain.isActive() else frozenset()
            text = domain.XMLDesc(module.VIR_DOMAIN_XML_INACTIVE)
        except module.libvirtError as error:
            if error.get_error_code() != module.VIR_ERR_NO_DOMAIN:
                raise
        else:
            texts.append((text, live | frozenset(_volume_files(raw, text))))
    return texts


def _files(text: str) -> frozenset[str]:
    return frozenset(str(source.get("file")) for source in parsed(text).iterfind("devices/disk/source[@file]"))


def _volume_files(raw: Any, text: str) -> Iterator[str]:
    """A pool that is not active has no volumes."""
    module = libvirt()
    unknown = (module.VIR_ERR_NO_STORAGE_POOL, module.VIR_ERR_NO_STORAGE_VOL, module.VIR_ERR_OPERATION_INVALID)
    for source in parsed(text).iterfind("devices/disk/source[@volume]"):
        try:
            pool = raw.storagePoolLookupByName(source.get("pool"))
            yield str(pool.storageVolLookupByName(source.get("volume")).path())
        except module.libvirtError as error:
            if error.get_error_code() not in unknown:
                raise


def _domain(text: str, more_files: frozenset[str]) -> DomainFacts:
    domain = parsed(text)
    return DomainFacts(
        uuid=domain.findtext("uuid") or "",
        name=domain.findtext("name") or "",
        macs=frozenset(str(mac.get("address")).lower() for mac in domain.iterfind("devices/interface/mac")),
        files=_files(text) | more_files,
        landing=landing_of(text),
    )


def _bridges(connection: Connection, names: Collection[str]) -> frozenset[str] | None:
    """Only those are looked for: interfaces of guests come and go, and a list of all fails where one goes meanwhile."""
    if connection.address.is_here:
        return frozenset(name for name in names if exists(_INTERFACES / name / "bridge"))
    module = libvirt()

    def find(raw: Any) -> frozenset[str] | None:
        found = set()
        for name in names:
            try:
                text = raw.interfaceLookupByName(name).XMLDesc()
            except module.libvirtError as error:
                if error.get_error_code() == module.VIR_ERR_NO_SUPPORT:  # libvirt without its interface driver
                    return None
                if error.get_error_code() != module.VIR_ERR_NO_INTERFACE:
                    raise
            else:
                found |= {name} if parsed(text).get("type") == "bridge" else set()
        return frozenset(found)

    return connection.call("cannot look for bridges", find)


def domain_refusals(
    plan: GuestPlan, inventory: TargetInventory, *, own: Collection[str] = ()
) -> Iterator[HyperSDKError]:
    """Why ``plan`` cannot be defined beside what is there. ``own`` are landings whose domains are not in the way: they
    are taken or removed."""
    others = [domain for domain in inventory.domains if domain.landing not in own]
    if any(domain.name == plan.name for domain in others):
        yield Refused(f"there is a domain '{plan.name}' already", code=DOMAIN_EXISTS, name=plan.name)
    yield from address_refusals({nic.mac for nic in plan.nics if nic.mac}, others)
    yield from network_refusals(plan.nics, inventory)


def address_refusals(macs: Collection[str], others: Iterable[DomainFacts]) -> Iterator[HyperSDKError]:
    """Which of ``others`` has one of these MAC addresses."""
    for domain in others:
        for mac in sorted(domain.macs.intersection(macs)):
            yield Refused(
                f"the domain '{clean(domain.name, 80)}' has the MAC address {mac}",
                code=MAC_TAKEN,
                mac=mac,
                domain=domain.name,
            )


def network_refusals(nics: Iterable[GuestNic], inventory: TargetInventory) -> Iterator[HyperSDKError]:
    """Why cards cannot be attached: each network and bridge once."""
    for bridge, target in dict.fromkeys((nic.bridge, nic.target) for nic in nics):
        shown = clean(target, 80)
        if bridge and inventory.bridges is not None and target not in inventory.bridges:
            yield Refused(f"the target has no bridge '{shown}'", code=NO_SUCH_BRIDGE, bridge=target)
        elif not bridge and target not in inventory.networks:
            yield Refused(f"the target has no network '{shown}'", code=NO_SUCH_NETWORK, network=target)
        elif not bridge and not inventory.networks[target]:
            yield Refused(f"the network '{shown}' is not active", code=NETWORK_INACTIVE, network=target)
