"""What machines run on: clusters, hosts, resource pools and networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, Protocol

from hypersdk.simulator.entities import Entity, Folder
from hypersdk.simulator.managed import Call, Managed, operation, prop
from hypersdk.simulator.platform import Platform
from hypersdk.simulator.schema import data_types
from hypersdk.simulator.service import about
from hypersdk.simulator.storage import Datastore, DatastoreBrowser
from hypersdk.simulator.values import Data, MethodFault, Ref
from hypersdk.simulator.world import World, WorldObject, now
from hypersdk.units import GiB, MiB


class HostedMachine(WorldObject, Protocol):
    """What a host, its pool and its networks read of a machine."""

    power: str
    memory_mb: int
    template: bool

    networks: list[Network]


def resource_config(entity: Entity) -> Data:
    """The ResourceConfigSpec of a pool or machine."""
    return Data("ResourceConfigSpec", entity=entity.ref, cpuAllocation=allocation(), memoryAllocation=allocation())


def allocation() -> Data:
    """Normal shares, nothing reserved and no limit."""
    shares = Data("SharesInfo", shares=4000, level="normal")
    return Data("ResourceAllocationInfo", reservation=0, expandableReservation=True, limit=-1, shares=shares)


class ComputeResource(Entity, api_type="ComputeResource", references={"host": "hosts", "resourcePool": "pool"}):
    """Hosts with one root resource pool; a standalone host is one of its own."""

    def __init__(self, platform: Platform, moref: str, name: str, parent: Folder) -> None:
        self.hosts: list[Host] = []
        super().__init__(platform, moref, name, parent)
        self.pool = ResourcePool(platform, platform.moref("resgroup-", "ha-root-pool"), "Resources", self)
        parent.put(self)

    def children(self) -> list[Entity]:
        return [*self.hosts, self.pool]

    @prop("datastore")
    def _datastore(self) -> list[Ref]:
        return list(dict.fromkeys(ref for host in self.hosts for ref in host.get("datastore")))

    @prop("network")
    def _network(self) -> list[Ref]:
        return list(dict.fromkeys(ref for host in self.hosts for ref in host.get("network")))

    @prop("configurationEx")
    def _configuration(self) -> Data:
        return Data("ComputeResourceConfigInfo", vmSwapPlacement="vmDirectory", spbmEnabled=True)

    @prop("summary")
    def _summary(self) -> Data:
        count = len(self.hosts)
        fields: dict[str, Any] = {
            "totalCpu": count * Host.CORES * Host.MHZ,
            "totalMemory": count * Host.MEMORY_BYTES,
            "numCpuCores": count * Host.CORES,
            "numCpuThreads": count * Host.CORES * 2,
            "effectiveCpu": count * Host.CORES * Host.MHZ,
            "effectiveMemory": count * Host.MEMORY_BYTES // MiB,
            "numHosts": count,
            "numEffectiveHosts": count,
            "overallStatus": "green",
        }
        return self._summary_of(fields)

    def _summary_of(self, fields: dict[str, Any]) -> Data:
        return Data("ComputeResourceSummary", **fields)


class Cluster(ComputeResource, api_type="ClusterComputeResource"):
    """A ClusterComputeResource."""

    @prop("configurationEx")
    def _configuration(self) -> Data:
        return Data(
            "ClusterConfigInfoEx",
            vmSwapPlacement="vmDirectory",
            spbmEnabled=True,
            dasConfig=Data("ClusterDasConfigInfo", enabled=False, admissionControlEnabled=False),
            dasVmConfig=[],
            drsConfig=Data("ClusterDrsConfigInfo", enabled=False, defaultVmBehavior="manual"),
            drsVmConfig=[],
            rule=[],
            group=[],
        )

    def _summary_of(self, fields: dict[str, Any]) -> Data:
        return Data("ClusterComputeResourceSummary", **fields, currentFailoverLevel=1, numVmotions=0)


class ResourcePool(
    Entity, api_type="ResourcePool", references={"owner": "owner_resource"}, computed={"config": resource_config}
):
    """The root pool of a compute resource."""

    def __init__(self, platform: Platform, moref: str, name: str, owner: ComputeResource) -> None:
        super().__init__(platform, moref, name, owner, resourcePool=[])
        self.owner_resource = owner

    @prop("vm")
    def _vm(self) -> list[Ref]:
        return [machine.ref for host in self.owner_resource.hosts for machine in host.machines if not machine.template]

    @prop("runtime")
    def _runtime(self) -> Data:
        hosts = max(1, len(self.owner_resource.hosts))
        return Data(
            "ResourcePoolRuntimeInfo",
            overallStatus="green",
            memory=_usage(hosts * Host.MEMORY_BYTES),
            cpu=_usage(hosts * Host.CORES * Host.MHZ),
        )

    @prop("summary")
    def _summary(self) -> Data:
        return Data("ResourcePoolSummary", name=self.name, config=self.get("config"), runtime=self.get("runtime"))


def _usage(most: int) -> Data:
    return Data(
        "ResourcePoolResourceUsage",
        reservationUsed=0,
        reservationUsedForVm=0,
        unreservedForPool=most,
        unreservedForVm=most,
        overallUsage=most // 5,
        maxUsage=most,
    )


@dataclass(frozen=True, slots=True)
class HostEndpoint:
    """Where a host's data comes from; ``thumbprint`` is the SHA-1 of its certificate, as the API writes it."""

    address: str
    port: int
    thumbprint: str


class Host(
    Entity,
    api_type="HostSystem",
    references={
        "vm": "machines",
        "datastore": "datastores",
        "network": "networks",
        "datastoreBrowser": "datastore_browser",
    },
):
    """An ESXi host; its NFC data comes from a network address of its own."""

    CORES: Final = 32
    MHZ: Final = 2900
    MEMORY_BYTES: Final = 512 * GiB

    endpoint: HostEndpoint
    """Set when the simulator starts."""

    def __init__(self, platform: Platform, moref: str, name: str, parent: ComputeResource) -> None:
        self.machines: list[HostedMachine] = []
        self.datastores: list[Datastore] = []
        self.networks: list[Network] = []
        self.uuid = platform.uuid("host", name)
        self.resource = parent
        super().__init__(platform, moref, name, parent)
        manager = "ha-autostart-mgr" if platform.esxi else f"autoStartManager-{moref.rpartition('-')[2]}"
        self.autostart = AutoStartManager(platform.world, manager, self.machines)
        moref = platform.moref("datastoreBrowser-", "ha-host-datastorebrowser")
        self.datastore_browser = DatastoreBrowser(platform, moref, self.datastores)
        parent.hosts.append(self)

    @prop("runtime")
    def _runtime(self) -> Data:
        return Data(
            "HostRuntimeInfo",
            connectionState="connected",
            powerState="poweredOn",
            inMaintenanceMode=False,
            inQuarantineMode=False,
            bootTime=self.platform.started,
            standbyMode="none",
        )

    @prop("configManager")
    def _config_manager(self) -> Data:
        return Data("HostConfigManager", autoStartManager=self.autostart.ref)

    @prop("capability")
    def _capability(self) -> Data:
        """All that must be there is no; clients ask for single ones of these."""
        must = {field.name: False for field in data_types()["HostCapability"].fields if field.required}
        able = dict.fromkeys(
            ("rebootSupported", "shutdownSupported", "nfsSupported", "backgroundSnapshotsSupported"), True
        )
        return Data("HostCapability", **{**must, **able, "maxSupportedVcpus": 768})

    @prop("hardware")
    def _hardware(self) -> Data:
        identity = Data("HostSystemInfo", vendor="Generic", model="Rack Server", uuid=self.uuid)
        cpu = Data(
            "HostCpuInfo", numCpuPackages=2, numCpuCores=self.CORES, numCpuThreads=self.CORES * 2, hz=self.MHZ * 10**6
        )
        package = Data(
            "HostCpuPackage",
            index=0,
            vendor="intel",
            hz=self.MHZ * 10**6,
            busHz=100 * 10**6,
            description="x86-64 CPU @ 2.90GHz",
            threadId=list(range(self.CORES)),
            cpuFeature=_cpu_features(),
        )
        return Data(
            "HostHardwareInfo",
            systemInfo=identity,
            cpuInfo=cpu,
            cpuPkg=[package],
            memorySize=self.MEMORY_BYTES,
            smcPresent=False,
            cpuFeature=_cpu_features(),
        )

    @prop("config")
    def _config(self) -> Data:
        address = Data("HostIpConfig", dhcp=False, ipAddress=self.endpoint.address, subnetMask="255.0.0.0")
        spec = Data("HostVirtualNicSpec", ip=address, mac=self.platform.mac(self.name), mtu=1500)
        nic = Data(
            "HostVirtualNic",
            device="vmk0",
            key="key-vim.host.VirtualNic-vmk0",
            portgroup="Management Network",
            spec=spec,
        )
        management = Data(
            "VirtualNicManagerNetConfig",
            nicType="management",
            multiSelectAllowed=True,
            candidateVnic=[nic],
            selectedVnic=[nic.key],
        )
        return Data(
            "HostConfigInfo",
            host=self.ref,
            product=about(esxi=True, instance_uuid=""),
            virtualNicManagerInfo=Data("HostVirtualNicManagerInfo", netConfig=[management]),
            network=self._network_info(nic),
        )

    def _network_info(self, nic: Data) -> Data:
        """One standard switch with the host's standard networks; its name as the host itself knows it."""
        host, _, domain = self.name.partition(".")
        groups = {
            f"key-vim.host.PortGroup-{network.name}": Data(
                "HostPortGroupSpec",
                name=network.name,
                vlanId=0,
                vswitchName="vSwitch0",
                policy=Data("HostNetworkPolicy"),
            )
            for network in self.networks
            if network.api_type == "Network"
        }
        switch = Data(
            "HostVirtualSwitch",
            name="vSwitch0",
            key="key-vim.host.VirtualSwitch-vSwitch0",
            numPorts=1536,
            numPortsAvailable=1500,
            mtu=1500,
            portgroup=list(groups),
            pnic=[],
            spec=Data("HostVirtualSwitchSpec", numPorts=128, mtu=1500),
        )
        return Data(
            "HostNetworkInfo",
            vswitch=[switch],
            vnic=[nic],
            portgroup=[
                Data("HostPortGroup", key=key, vswitch=switch.key, computedPolicy=Data("HostNetworkPolicy"), spec=spec)
                for key, spec in groups.items()
            ],
            dnsConfig=Data("HostDnsConfig", dhcp=False, hostName=host, domainName=domain, address=[], searchDomain=[]),
        )

    @prop("summary")
    def _summary(self) -> Data:
        hardware = Data(
            "HostHardwareSummary",
            vendor="Generic",
            model="Rack Server",
            uuid=self.uuid,
            memorySize=self.MEMORY_BYTES,
            cpuModel="x86-64 CPU @ 2.90GHz",
            cpuMhz=self.MHZ,
            numCpuPkgs=2,
            numCpuCores=self.CORES,
            numCpuThreads=self.CORES * 2,
            numNics=4,
            numHBAs=2,
        )
        config = Data(
            "HostConfigSummary",
            name=self.name,
            port=443,
            product=about(esxi=True, instance_uuid=""),
            sslThumbprint=self.endpoint.thumbprint,
            vmotionEnabled=True,
            faultToleranceEnabled=False,
        )
        running = [machine for machine in self.machines if machine.power == "poweredOn"]
        usage = Data(
            "HostListSummaryQuickStats",
            overallCpuUsage=120 * len(running),
            overallMemoryUsage=sum(machine.memory_mb for machine in running) // 2,
            uptime=int((now() - self.platform.started).total_seconds()),
        )
        return Data(
            "HostListSummary",
            host=self.ref,
            hardware=hardware,
            runtime=self.get("runtime"),
            config=config,
            quickStats=usage,
            overallStatus="green",
            rebootRequired=False,
            managementServerIp=None if self.platform.esxi else self.platform.address,
        )


class AutoStartManager(Managed, api_type="HostAutoStartManager"):
    """Which machines start with their host. The settings are stored and reported without effect: a simulated host does
    not restart. libvirt reads them without checking that a host has any, and crashes if it has not.
    """

    def __init__(self, world: World, moref: str, machines: Sequence[WorldObject]) -> None:
        self._on_host = machines
        self._defaults = Data(
            "AutoStartDefaults",
            enabled=False,
            startDelay=120,
            stopDelay=120,
            waitForHeartbeat=False,
            stopAction="powerOff",
        )
        self._powers: dict[str, Data] = {}  # by moref of the machine
        super().__init__(world, moref)

    @prop("config")
    def _config(self) -> Data:
        here = {machine.ref.moref for machine in self._on_host}
        infos = [info for moref, info in self._powers.items() if moref in here]
        return Data("HostAutoStartManagerConfig", defaults=self._defaults, powerInfo=infos)

    @operation("ReconfigureAutostart", privilege="Host.Config.AutoStart")
    def _reconfigure(self, call: Call) -> None:
        spec = call.args.spec
        here = {machine.ref for machine in self._on_host}
        infos = spec.powerInfo or []
        if any(info.key not in here for info in infos):
            raise MethodFault.of(
                "InvalidArgument", "The machine is not on this host.", invalidProperty="spec.powerInfo.key"
            )
        if spec.defaults is not None:
            given = {name: value for name, value in spec.defaults.fields.items() if value is not None}
            self._defaults = self._defaults.replace(**given)
        self._powers.update({info.key.moref: info for info in infos})
        self.touch()


def _cpu_features() -> list[Data]:
    """CPUID leaf 0x80000001, edx with the long mode bit (29): libvirt reads the architecture from it, and reads all
    four registers, each of 32 bits from the highest to the lowest in groups of four.
    """
    nothing = ":".join(["0000"] * 8)
    return [Data("HostCpuIdInfo", level=-2147483647, eax=nothing, ebx=nothing, ecx=nothing, edx="0010" + nothing[4:])]


class Network(Entity, api_type="Network", references={"host": "hosts"}):
    """A standard network, or a distributed port group."""

    def __init__(self, platform: Platform, moref: str, name: str, parent: Folder) -> None:
        self.hosts: list[Host] = []
        super().__init__(platform, moref, name, parent)
        parent.put(self)

    @prop("vm")
    def _vm(self) -> list[Ref]:
        return [machine.ref for host in self.hosts for machine in host.machines if self in machine.networks]

    @prop("summary")
    def _summary(self) -> Data:
        return Data("NetworkSummary", network=self.ref, name=self.name, accessible=True)


class PortGroup(Network, api_type="DistributedVirtualPortgroup", computed={"key": attrgetter("ref.moref")}):
    """A distributed port group of the datacenter's switch."""

    def __init__(self, platform: Platform, moref: str, name: str, parent: Folder, switch: Switch) -> None:
        super().__init__(platform, moref, name, parent)
        self.switch = switch
        switch.groups.append(self)

    @prop("config")
    def _config(self) -> Data:
        policy = Data(
            "DVPortgroupPolicy",
            blockOverrideAllowed=True,
            shapingOverrideAllowed=False,
            vendorConfigOverrideAllowed=False,
            livePortMovingAllowed=False,
            portConfigResetAtDisconnect=True,
        )
        return Data(
            "DVPortgroupConfigInfo",
            key=self.ref.moref,
            name=self.name,
            numPorts=128,
            distributedVirtualSwitch=self.switch.ref,
            type="earlyBinding",
            policy=policy,
            uplink=False,
        )


class Switch(Entity, api_type="VmwareDistributedVirtualSwitch", references={"portgroup": "groups"}):
    """A distributed switch."""

    def __init__(self, platform: Platform, moref: str, name: str, parent: Folder) -> None:
        self.groups: list[PortGroup] = []
        self.uuid = platform.uuid("dvs", name)
        super().__init__(platform, moref, name, parent, uuid=self.uuid)
        parent.put(self)

    @prop("summary")
    def _summary(self) -> Data:
        return Data("DVSSummary", name=self.name, uuid=self.uuid, numPorts=128 * len(self.groups))
