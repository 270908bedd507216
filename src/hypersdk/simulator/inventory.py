"""Builds the tree: managers, datacenters, clusters, hosts, datastores, networks, machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hypersdk.simulator.access import AuthorizationManager, SessionManager
from hypersdk.simulator.collector import PropertyCollector
from hypersdk.simulator.config import MachineSpec
from hypersdk.simulator.content import DiskContent, DiskImage, SpreadAllocation
from hypersdk.simulator.datacenter import Datacenter
from hypersdk.simulator.demo import ISO_FILES, ISO_STORE, demo_machines
from hypersdk.simulator.entities import Folder, root_folder
from hypersdk.simulator.hosts import Cluster, ComputeResource, Host, Network, PortGroup, Switch
from hypersdk.simulator.lease import ExportLease
from hypersdk.simulator.machine import SimulatedMachine, add_machine
from hypersdk.simulator.managed import Managed
from hypersdk.simulator.ovf import OvfManager
from hypersdk.simulator.platform import Platform
from hypersdk.simulator.search import SearchIndex
from hypersdk.simulator.service import ServiceInstance, about
from hypersdk.simulator.session import SessionRecord
from hypersdk.simulator.storage import (
    Datastore,
    FileManager,
    StoredFile,
    VirtualDiskManager,
    datastore_named,
)
from hypersdk.simulator.values import Data, MethodFault
from hypersdk.simulator.views import ViewManager

DATACENTERS: Final = ("Amsterdam", "Frankfurt", "Helsinki", "Lisbon")
CLUSTERS: Final = ("prod-cluster", "lab-cluster")
DATASTORES: Final = (("nvme-prod-01", "VMFS"), ("nvme-prod-02", "VMFS"), ("nfs-archive", "NFS"), (ISO_STORE, "NFS"))
NETWORKS: Final = ("VM Network", "dvpg-frontend", "dvpg-backend")


def build(platform: Platform) -> None:
    """Creates the inventory of an empty platform."""
    kinds = ["Folder", "Datacenter"]
    moref = "ha-folder-root" if platform.esxi else platform.world.number("group-d")
    name = "ha-folder-root" if platform.esxi else "Datacenters"
    Folder(platform, moref, name, None, kinds)
    platform.world.root_moref = moref
    _managers(platform)
    count = 1 if platform.esxi else platform.config.datacenters
    for number in range(count):
        _datacenter(platform, number)
    for spec in (*demo_machines(platform.config, count), *platform.config.machines):
        place_machine(platform, spec)


def _managers(platform: Platform) -> None:
    world = platform.world

    moref = platform.fixed_moref
    collector = PropertyCollector(
        world, moref("propertyCollector", "ha-property-collector"), page_objects=platform.config.page_objects
    )
    made: dict[str, Managed] = {
        "rootFolder": root_folder(world),
        "propertyCollector": collector,
        "viewManager": ViewManager(world, moref("ViewManager", "ViewManager")),
        "sessionManager": SessionManager(world, moref("SessionManager", "ha-sessionmgr"), platform.sessions),
        "authorizationManager": AuthorizationManager(platform, moref("AuthorizationManager", "ha-authmgr")),
        "eventManager": platform.events,
        "taskManager": platform.tasks,
        "searchIndex": SearchIndex(world, moref("SearchIndex", "ha-searchindex")),
        "fileManager": FileManager(platform, moref("FileManager", "ha-nfc-file-manager")),
        "virtualDiskManager": VirtualDiskManager(world, moref("virtualDiskManager", "ha-vdiskmanager")),
        "ovfManager": OvfManager(world, moref("OvfManager", "ha-ovf-manager")),
    }
    content = {name: managed.ref for name, managed in made.items()}
    vcenter = about(esxi=platform.esxi, instance_uuid=platform.uuid("instance", "vcenter"))
    service_content = Data("ServiceContent", **content, about=vcenter)
    able = Data("Capability", provisioningSupported=True, multiHostSupported=True, userShellAccessSupported=False)
    ServiceInstance(world, "ServiceInstance", content=service_content, capability=able)
    _connect_sessions(platform, collector)


def _connect_sessions(platform: Platform, collector: PropertyCollector) -> None:
    """Posts the events of logins and logouts, and ends what belongs to a session."""

    def began(session: SessionRecord) -> None:
        platform.events.post(
            "UserLoginSessionEvent",
            f"User {session.user}@127.0.0.1 logged in",
            user=session.user,
            ipAddress="127.0.0.1",
            locale="en",
            sessionId=session.key,
        )

    def ended(session: SessionRecord) -> None:
        collector.drop_session(session)
        for managed in session.belongings:
            if isinstance(managed, ExportLease):
                managed.end(MethodFault.of("RequestCanceled", "The session that held the lease has ended."))
        platform.events.post(
            "UserLogoutSessionEvent",
            f"User {session.user}@127.0.0.1 logged out",
            user=session.user,
            ipAddress="127.0.0.1",
            userAgent="",
            callCount=session.call_count,
            sessionId=session.key,
            loginTime=session.login_time,
        )

    platform.sessions.on_login, platform.sessions.on_end = began, ended


def _datacenter(platform: Platform, number: int) -> None:
    world = platform.world
    name = "ha-datacenter" if platform.esxi else _numbered(DATACENTERS, number)
    moref = "ha-datacenter" if platform.esxi else world.number("datacenter-")
    datacenter = Datacenter(platform, moref, name, root_folder(world))
    datacenter.hosts = _hosts(platform, datacenter, number)
    suffix = f"-{number + 1}" if number else ""
    stores = [_datastore(platform, datacenter, name + suffix, kind) for name, kind in DATASTORES]
    _networks(platform, datacenter)
    _add_isos(platform, stores[-1])


def _numbered(names: Sequence[str], number: int) -> str:
    return names[number] if number < len(names) else f"{names[number % len(names)]}-{number // len(names) + 1}"


def _hosts(platform: Platform, datacenter: Datacenter, number: int) -> list[Host]:
    world = platform.world
    if platform.esxi:
        alone = ComputeResource(platform, "ha-compute-res", "esx01.example.com", datacenter.host_folder)
        return [Host(platform, "ha-host", "esx01.example.com", alone)]
    count = platform.config.hosts
    names = CLUSTERS[: min(len(CLUSTERS), count)]
    clusters = [Cluster(platform, world.number("domain-c"), name, datacenter.host_folder) for name in names]
    first = number * count + 1
    return [
        Host(
            platform,
            world.number("host-"),
            f"esx{first + index:02d}.example.com",
            clusters[index * len(clusters) // count],
        )
        for index in range(count)
    ]


def _datastore(platform: Platform, datacenter: Datacenter, name: str, kind: str) -> Datastore:
    moref = platform.world.number("datastore-")
    capacity = platform.config.datastore_bytes * (2 if kind == "NFS" else 1)  # so that lists look realistic
    store = Datastore(platform, moref, name, datacenter.datastore_folder, kind=kind, capacity_bytes=capacity)
    store.hosts += datacenter.hosts
    for host in datacenter.hosts:
        host.datastores.append(store)
    return store


def _networks(platform: Platform, datacenter: Datacenter) -> None:
    world, folder = platform.world, datacenter.network_folder
    networks = [Network(platform, platform.moref("network-", "HaNetwork-VM Network"), NETWORKS[0], folder)]
    if not platform.esxi:
        switch = Switch(platform, world.number("dvs-"), "dvs-main", folder)
        networks += [PortGroup(platform, world.number("dvportgroup-"), name, folder, switch) for name in NETWORKS[1:]]
    for network in networks:
        network.hosts += datacenter.hosts
    for host in datacenter.hosts:
        host.networks += networks


def _add_isos(platform: Platform, store: Datastore) -> None:
    for path, size in ISO_FILES.items():
        content = DiskContent(f"iso/{path}", size, SpreadAllocation.of(size, size), {})
        store.uploads[path] = StoredFile(path, size, size, platform.started, DiskImage(content))


def place_machine(platform: Platform, spec: MachineSpec) -> SimulatedMachine:
    """Adds a machine where its specification says. Raises ValueError for a datacenter or datastore that does not
    exist."""
    datacenters = platform.world.all(Datacenter)
    if spec.datacenter >= len(datacenters):
        raise ValueError(f"machine {spec.name}: there is no datacenter {spec.datacenter}")
    datacenter = datacenters[spec.datacenter]
    host = datacenter.hosts[spec.host % len(datacenter.hosts)]
    networks = [host.networks[(index + spec.host) % len(host.networks)] for index in range(spec.nics)]
    folder = datacenter.folder("" if platform.esxi else spec.folder)  # an ESXi host has no folders
    return add_machine(platform, spec, folder, host, datastore_named(spec.datastore, host.datastores[0]), networks)
