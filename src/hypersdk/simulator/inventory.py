"""Builds the tree: managers, datacenters, clusters, hosts, datastores, networks, machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from hypersdk.simulator.authorization import AuthorizationManager
from hypersdk.simulator.collector import PropertyCollector
from hypersdk.simulator.config import MachineSpec
from hypersdk.simulator.content import DiskContent, DiskImage, SpreadAllocation
from hypersdk.simulator.datacenter import Datacenter
from hypersdk.simulator.demo import ISO_FILES, ISO_STORE, demo_machines
from hypersdk.simulator.entities import Folder, escape_name, root_folder
from hypersdk.simulator.fault import MethodFault
from hypersdk.simulator.hosts import Cluster, ComputeResource, Host, Network, PortGroup, Switch
from hypersdk.simulator.lease import ExportLease
from hypersdk.simulator.machine import add_machine
from hypersdk.simulator.managed import Managed
from hypersdk.simulator.ovf import OvfManager
from hypersdk.simulator.platform import Platform
from hypersdk.simulator.search import SearchIndex
from hypersdk.simulator.service import ServiceInstance, about
from hypersdk.simulator.session import SessionRecord
from hypersdk.simulator.session_manager import SessionManager
from hypersdk.simulator.storage import Datastore, FileManager, StoredFile, VirtualDiskManager, default_capacity
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
    datacenters = [
        _datacenter(platform, number) for number in range(1 if platform.esxi else platform.config.datacenters)
    ]
    _machines(platform, datacenters)


def _managers(platform: Platform) -> None:
    world = platform.world

    def moref(vcenter: str, esxi: str) -> str:
        return platform.moref("", vcenter, esxi)

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
        "searchIndex": SearchIndex(platform, moref("SearchIndex", "ha-searchindex")),
        "fileManager": FileManager(platform, moref("FileManager", "ha-nfc-file-manager")),
        "virtualDiskManager": VirtualDiskManager(world, moref("virtualDiskManager", "ha-vdiskmanager")),
        "ovfManager": OvfManager(world, moref("OvfManager", "ha-ovf-manager")),
    }
    content: dict[str, Any] = {name: managed.ref for name, managed in made.items()}
    ServiceInstance(
        world, {**content, "about": about(esxi=platform.esxi, instance_uuid=platform.uuid("instance", "vcenter"))}
    )
    _connect_sessions(platform, collector)


def _connect_sessions(platform: Platform, collector: PropertyCollector) -> None:
    """Posts the events of logins and logouts, and ends what belongs to a session."""

    def began(session: SessionRecord) -> None:
        text = f"User {session.user}@127.0.0.1 logged in"
        platform.events.post(
            "UserLoginSessionEvent", text, user=session.user, ipAddress="127.0.0.1", locale="en", sessionId=session.key
        )

    def ended(session: SessionRecord) -> None:
        collector.drop_session(session.key)
        for managed in session.belongings:
            if isinstance(managed, ExportLease):
                managed.end(MethodFault.of("RequestCanceled", "The session that held the lease has ended."))
        text = f"User {session.user}@127.0.0.1 logged out"
        platform.events.post(
            "UserLogoutSessionEvent",
            text,
            user=session.user,
            ipAddress="127.0.0.1",
            userAgent="",
            callCount=session.call_count,
            sessionId=session.key,
            loginTime=session.login_time,
        )

    platform.sessions.on_login, platform.sessions.on_end = began, ended


class DatacenterContents:
    """One datacenter, and the hosts, datastores and networks for its machines."""

    def __init__(
        self, datacenter: Datacenter, hosts: list[Host], stores: list[Datastore], networks: list[Network]
    ) -> None:
        self.datacenter = datacenter
        self.hosts = hosts
        self.stores = stores
        self.networks = networks
        self._folders: dict[str, Folder] = {"": datacenter.vm_folder}

    def folder(self, path: str) -> Folder:
        """The folder of that path below ``vm``, created if needed."""
        if path not in self._folders:
            parent, _, name = path.rpartition("/")
            above = self.folder(parent)
            platform, kinds = above.platform, ["Folder", "VirtualMachine", "VirtualApp"]
            moref = platform.world.number("group-v")
            self._folders[path] = Folder(platform, moref, escape_name(name), above, kinds)
        return self._folders[path]

    def store(self, name: str | None) -> Datastore:
        """The datastore of that name, by default the first."""
        found = self.stores[0] if name is None else next((store for store in self.stores if store.name == name), None)
        if found is None:
            raise ValueError(f"there is no datastore named {name}")
        return found


def _datacenter(platform: Platform, number: int) -> DatacenterContents:
    world = platform.world
    name = "ha-datacenter" if platform.esxi else _numbered(DATACENTERS, number)
    moref = "ha-datacenter" if platform.esxi else world.number("datacenter-")
    datacenter = Datacenter(platform, moref, name, root_folder(world))
    hosts = _hosts(platform, datacenter, number)
    stores = [
        _datastore(platform, datacenter, hosts, *pair, suffix=f"-{number + 1}" if number else "") for pair in DATASTORES
    ]
    networks = _networks(platform, datacenter, hosts)
    _stock_isos(platform, stores[-1])
    return DatacenterContents(datacenter, hosts, stores, networks)


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


def _datastore(
    platform: Platform, datacenter: Datacenter, hosts: list[Host], name: str, kind: str, *, suffix: str
) -> Datastore:
    moref = platform.world.number("datastore-")
    capacity = default_capacity(kind, platform.config.datastore_bytes)
    store = Datastore(platform, moref, name + suffix, datacenter.datastore_folder, kind=kind, capacity_bytes=capacity)
    store.hosts = list(hosts)
    for host in hosts:
        host.datastores.append(store)
    return store


def _networks(platform: Platform, datacenter: Datacenter, hosts: list[Host]) -> list[Network]:
    world, folder = platform.world, datacenter.network_folder
    networks = [Network(platform, platform.moref("network-", "HaNetwork-VM Network"), NETWORKS[0], folder)]
    if not platform.esxi:
        switch = Switch(platform, world.number("dvs-"), "dvs-main", folder)
        networks += [PortGroup(platform, world.number("dvportgroup-"), name, folder, switch) for name in NETWORKS[1:]]
    for network in networks:
        network.hosts = list(hosts)
        for host in hosts:
            host.networks.append(network)
    return networks


def _stock_isos(platform: Platform, store: Datastore) -> None:
    for path, size in ISO_FILES.items():
        content = DiskContent(f"iso/{path}", size, SpreadAllocation.of(size, size), {})
        store.uploads[path] = StoredFile(path, size, size, platform.started, "iso", DiskImage(content))


def _machines(platform: Platform, datacenters: list[DatacenterContents]) -> None:
    config = platform.config
    specs: list[MachineSpec] = [*demo_machines(config, len(datacenters)), *config.machines]
    for spec in specs:
        if spec.datacenter >= len(datacenters):
            raise ValueError(f"machine {spec.name}: there is no datacenter {spec.datacenter}")
        contents = datacenters[spec.datacenter]
        host = contents.hosts[spec.host % len(contents.hosts)]
        count = len(contents.networks)
        networks = [contents.networks[(index + spec.host) % count] for index in range(spec.nics)]
        folder = contents.folder("" if platform.esxi else spec.folder)  # an ESXi host has no folders
        add_machine(platform, spec, folder, host, contents.store(spec.datastore), networks)
