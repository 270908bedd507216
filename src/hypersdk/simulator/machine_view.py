"""How a machine looks through the API: ``config``, ``summary``, ``guest``, ``layoutEx`` and the rest, computed when
read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from hypersdk.simulator import devices
from hypersdk.simulator.content import BLOCK
from hypersdk.simulator.disks import DiskState
from hypersdk.simulator.hosts import allocation, resource_config
from hypersdk.simulator.machine_state import MachineState, SnapshotState
from hypersdk.simulator.values import Data, MethodFault
from hypersdk.simulator.world import now

GUESTS: Final = {
    # guestId -> full name, family, guestOS in a .vmx
    "debian12_64Guest": ("Debian GNU/Linux 12 (64-bit)", "linuxGuest", "debian12-64"),
    "ubuntu64Guest": ("Ubuntu Linux (64-bit)", "linuxGuest", "ubuntu-64"),
    "rhel9_64Guest": ("Red Hat Enterprise Linux 9 (64-bit)", "linuxGuest", "rhel9-64"),
    "sles15_64Guest": ("SUSE Linux Enterprise 15 (64-bit)", "linuxGuest", "sles15-64"),
    "windows2019srv_64Guest": ("Microsoft Windows Server 2019 (64-bit)", "windowsGuest", "windows2019srv-64"),
    "windows2022srvNext_64Guest": ("Microsoft Windows Server 2022 (64-bit)", "windowsGuest", "windows2019srvNext-64"),
    "windows11_64Guest": ("Microsoft Windows 11 (64-bit)", "windowsGuest", "windows11-64"),
    "freebsd13_64Guest": ("FreeBSD 13 (64-bit)", "otherGuestFamily", "freebsd13-64"),
    "otherGuest64": ("Other (64-bit)", "otherGuestFamily", "other-64"),
}
HARDWARE_VERSION: Final = "vmx-19"
TOOLS_VERSION: Final = "12389"
_BOOTABLE: Final = {"disk": "Disk", "nic": "Ethernet", "cdrom": "Cdrom", "floppy": "Floppy"}


_FLAGS: Final = Data(
    "VirtualMachineFlagInfo",
    disableAcceleration=False,
    enableLogging=True,
    useToe=False,
    runWithDebugInfo=False,
    monitorType="release",
    htSharing="any",
    snapshotDisabled=False,
    snapshotLocked=False,
    diskUuidEnabled=False,
)
_POWER_OPERATIONS: Final = Data(
    "VirtualMachineDefaultPowerOpInfo",
    powerOffType="soft",
    suspendType="hard",
    resetType="soft",
    defaultPowerOffType="soft",
    defaultSuspendType="hard",
    defaultResetType="soft",
    standbyAction="checkpoint",
)


def guest_names(machine: MachineState) -> tuple[str, str, str]:
    """Full name, family and ``.vmx`` name of the guest operating system that the machine is configured for."""
    return GUESTS.get(machine.spec.guest_id, GUESTS["otherGuest64"])


# Configuration


def config_info(machine: MachineState) -> Data:
    """``config``."""
    spec = machine.spec
    folder = f"[{machine.home.name}] {machine.folder_name}/"
    hardware = Data(
        "VirtualHardware",
        numCPU=machine.cpus,
        numCoresPerSocket=1,
        memoryMB=machine.memory_mb,
        virtualICH7MPresent=False,
        virtualSMCPresent=False,
        device=machine.device_list,
    )
    return Data(
        "VirtualMachineConfigInfo",
        changeVersion=change_version(machine),
        modified=machine.reconfigured,
        name=machine.name,
        guestFullName=guest_names(machine)[0],
        version=HARDWARE_VERSION,
        uuid=machine.uuid,
        createDate=machine.platform.started,
        instanceUuid=machine.instance_uuid,
        template=machine.template,
        guestId=spec.guest_id,
        alternateGuestName="",
        annotation=machine.annotation,
        files=Data(
            "VirtualMachineFileInfo",
            vmPathName=config_path(machine),
            snapshotDirectory=folder,
            suspendDirectory=folder,
            logDirectory=folder,
        ),
        tools=Data(
            "ToolsConfigInfo",
            toolsVersion=int(TOOLS_VERSION) if spec.tools else 0,
            afterPowerOn=True,
            afterResume=True,
            beforeGuestStandby=True,
            beforeGuestShutdown=True,
            toolsUpgradePolicy="manual",
            syncTimeWithHost=False,
        ),
        flags=_FLAGS,
        defaultPowerOps=_POWER_OPERATIONS,
        hardware=hardware,
        cpuAllocation=allocation(),
        memoryAllocation=allocation(),
        memoryHotAddEnabled=False,
        cpuHotAddEnabled=False,
        cpuHotRemoveEnabled=False,
        extraConfig=_extra(machine),
        datastoreUrl=[
            Data("VirtualMachineConfigInfoDatastoreUrlPair", name=d.name, url=d.url) for d in machine.datastores()
        ],
        swapPlacement="inherit",
        bootOptions=_boot_options(machine),
        changeTrackingEnabled=machine.cbt,
        firmware=spec.firmware,
        nestedHVEnabled=False,
        messageBusTunnelEnabled=False,
        keyId=devices.CRYPTO_KEY if machine.encrypted else None,
        vmxConfigChecksum=None,
    )


def change_version(machine: MachineState) -> str:
    """Changes with every reconfiguration and power-on."""
    return machine.reconfigured.strftime("%Y-%m-%dT%H:%M:%S.%fZ") + (f"#{machine.changes}" if machine.changes else "")


def _extra(machine: MachineState) -> list[Data]:
    pairs = {"nvram": f"{machine.folder_name}.nvram", "svga.present": "TRUE", **machine.extra}
    return [Data("OptionValue", key=key, value=value) for key, value in pairs.items()]


def _boot_options(machine: MachineState) -> Data:
    return Data(
        "VirtualMachineBootOptions",
        bootDelay=0,
        enterBIOSSetup=False,
        efiSecureBootEnabled=machine.spec.secure_boot,
        bootRetryEnabled=False,
        bootRetryDelay=10000,
        bootOrder=list(boot_order(machine)),
    )


def boot_order(machine: MachineState) -> Iterator[Data]:
    """``bootOrder``; devices that the machine no longer has are left out, as vSphere does."""
    for entry in machine.spec.boot_order:
        word, _, index = entry.partition(":")
        kind = f"VirtualMachineBootOptionsBootable{_BOOTABLE[word]}Device"
        if word == "disk":
            yield from (Data(kind, deviceKey=disk.key) for disk in machine.disks if disk.index == int(index))
        elif word == "nic":
            yield from (
                Data(kind, deviceKey=devices.FIRST_NIC + int(index))
                for _ in machine.networks[int(index) : int(index) + 1]
            )
        else:
            yield Data(kind)


def capability(_machine: MachineState) -> Data:
    """``capability``, as far as clients read it."""
    names = (
        "snapshotOperationsSupported",
        "multipleSnapshotsSupported",
        "snapshotConfigSupported",
        "poweredOffSnapshotsSupported",
        "memorySnapshotsSupported",
        "revertToSnapshotSupported",
        "quiescedSnapshotsSupported",
        "disableSnapshotsSupported",
        "lockSnapshotsSupported",
        "consolePreferencesSupported",
        "cpuFeatureMaskSupported",
        "s1AcpiManagementSupported",
        "settingScreenResolutionSupported",
        "toolsAutoUpdateSupported",
        "vmNpivWwnSupported",
        "npivWwnOnNonRdmVmSupported",
        "vmNpivWwnDisableSupported",
        "vmNpivWwnUpdateSupported",
        "swapPlacementSupported",
        "toolsSyncTimeSupported",
        "virtualMmuUsageSupported",
        "diskSharesSupported",
        "bootOptionsSupported",
        "bootRetryOptionsSupported",
        "settingVideoRamSizeSupported",
        "settingDisplayTopologySupported",
        "recordReplaySupported",
        "changeTrackingSupported",
    )
    return Data("VirtualMachineCapability", **dict.fromkeys(names, True))


# State


def heartbeat(machine: MachineState) -> str:
    """``guestHeartbeatStatus``."""
    return "green" if machine.tools_run else "gray"


def runtime_info(machine: MachineState) -> Data:
    """``runtime``."""
    return Data(
        "VirtualMachineRuntimeInfo",
        host=machine.host.ref,
        connectionState="connected",
        powerState=machine.power,
        faultToleranceState="notConfigured",
        toolsInstallerMounted=False,
        bootTime=machine.booted,
        suspendInterval=0,
        numMksConnections=0,
        maxCpuUsage=2900 * machine.cpus,
        maxMemoryUsage=machine.memory_mb,
        recordReplayState="inactive",
        onlineStandby=False,
        consolidationNeeded=machine.consolidation_needed,
    )


def address(machine: MachineState, card: int) -> str:
    """An address from 192.0.2.0/24, 198.51.100.0/24 or 203.0.113.0/24 (RFC 5737), fixed for the machine's network
    card."""
    number = machine.platform.number("address", machine.ref.moref) + card
    net = ("192.0.2", "198.51.100", "203.0.113")[number % 3]
    return f"{net}.{1 + number // 3 % 254}"


def addresses(machine: MachineState) -> list[str]:
    """The addresses of all its network cards."""
    return [address(machine, card) for card in range(len(machine.networks))]


def host_name(machine: MachineState) -> str:
    """The host name that the guest reports."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in machine.spec.name.lower()).strip("-")
    return f"{plain or 'guest'}.example.com"


def guest_info(machine: MachineState) -> Data:
    """``guest``, as VMware Tools report it."""
    running, tools = machine.tools_run, machine.spec.tools
    fields: dict[str, Any] = {
        "toolsStatus": "toolsOk" if running else "toolsNotRunning" if tools else "toolsNotInstalled",
        "toolsVersionStatus": "guestToolsCurrent" if tools else "guestToolsNotInstalled",
        "toolsVersionStatus2": "guestToolsCurrent" if tools else "guestToolsNotInstalled",
        "toolsRunningStatus": "guestToolsRunning" if running else "guestToolsNotRunning",
        "toolsVersion": TOOLS_VERSION if tools else "0",
        "guestState": "running" if running else "notRunning",
        "guestOperationsReady": running,
        "guestStateChangeSupported": running,
    }
    if running:
        fields |= _running_guest(machine)
    return Data("GuestInfo", **fields)


def _running_guest(machine: MachineState) -> dict[str, Any]:
    full_name, family, _ = guest_names(machine)
    nics = [_guest_nic(machine, index, network.name) for index, network in enumerate(machine.networks)]
    return {
        "guestId": machine.spec.guest_id,
        "guestFamily": family,
        "guestFullName": full_name,
        "hostName": host_name(machine),
        "ipAddress": address(machine, 0),
        "net": nics,
    }


def _guest_nic(machine: MachineState, index: int, network: str) -> Data:
    ip = address(machine, index)
    config = Data("NetIpConfigInfoIpAddress", ipAddress=ip, prefixLength=24, state="preferred")
    return Data(
        "GuestNicInfo",
        network=network,
        ipAddress=[ip],
        macAddress=machine.mac(index),
        connected=True,
        deviceConfigId=devices.FIRST_NIC + index,
        ipConfig=Data("NetIpConfigInfo", ipAddress=[config]),
    )


def summary(machine: MachineState) -> Data:
    """``summary``."""
    spec = machine.spec
    config = Data(
        "VirtualMachineConfigSummary",
        name=machine.name,
        template=machine.template,
        vmPathName=config_path(machine),
        memorySizeMB=machine.memory_mb,
        cpuReservation=0,
        memoryReservation=0,
        numCpu=machine.cpus,
        numEthernetCards=len(machine.networks),
        numVirtualDisks=len(machine.disks),
        uuid=machine.uuid,
        instanceUuid=machine.instance_uuid,
        guestId=spec.guest_id,
        guestFullName=guest_names(machine)[0],
        annotation=machine.annotation,
    )
    info = guest_info(machine)
    guest = Data(
        "VirtualMachineGuestSummary",
        guestId=info.guestId,
        guestFullName=info.guestFullName,
        toolsStatus=info.toolsStatus,
        toolsVersionStatus=info.toolsVersionStatus,
        toolsVersionStatus2=info.toolsVersionStatus2,
        toolsRunningStatus=info.toolsRunningStatus,
        hostName=info.hostName,
        ipAddress=info.ipAddress,
    )
    on = machine.power == "poweredOn"
    stats = Data(
        "VirtualMachineQuickStats",
        overallCpuUsage=60 if on else 0,
        overallCpuDemand=60 if on else 0,
        guestMemoryUsage=machine.memory_mb // 4 if on else 0,
        hostMemoryUsage=machine.memory_mb // 2 if on else 0,
        guestHeartbeatStatus=heartbeat(machine),
        privateMemory=0,
        sharedMemory=0,
        swappedMemory=0,
        balloonedMemory=0,
        consumedOverheadMemory=0,
        uptimeSeconds=int((now() - machine.booted).total_seconds()) if machine.booted else 0,
    )
    return Data(
        "VirtualMachineSummary",
        vm=machine.ref,
        runtime=runtime_info(machine),
        guest=guest,
        config=config,
        storage=_storage_summary(machine),
        quickStats=stats,
        overallStatus="green",
    )


def config_path(machine: MachineState) -> str:
    """``[datastore] folder/name.vmx``."""
    return f"[{machine.home.name}] {machine.folder_name}/{machine.folder_name}.{'vmtx' if machine.template else 'vmx'}"


def _storage_summary(machine: MachineState) -> Data:
    committed = sum(machine.used_on(datastore) for datastore in machine.datastores())
    capacity = sum(disk.spec.capacity_bytes for disk in machine.disks)
    return Data(
        "VirtualMachineStorageSummary",
        committed=committed,
        uncommitted=max(0, capacity - committed),
        unshared=committed,
        timestamp=now(),
    )


def storage_info(machine: MachineState) -> Data:
    """``storage``: space by datastore."""
    usage = [
        Data(
            "VirtualMachineUsageOnDatastore",
            datastore=datastore.ref,
            committed=machine.used_on(datastore),
            uncommitted=0,
            unshared=machine.used_on(datastore),
        )
        for datastore in machine.datastores()
    ]
    return Data("VirtualMachineStorageInfo", perDatastoreUsage=usage, timestamp=now())


def layout_ex(machine: MachineState) -> Data:
    """``layoutEx``: every file with its size, and which of them make up each disk now and at each snapshot."""
    files: list[Data] = []
    numbers: dict[str, int] = {}

    def add(name: str, kind: str, size: int) -> int:
        if name not in numbers:
            numbers[name] = len(files)
            files.append(
                Data(
                    "VirtualMachineFileLayoutExFileInfo",
                    key=numbers[name],
                    name=name,
                    type=kind,
                    size=size,
                    uniqueSize=size,
                    backingObjectId="",
                    accessible=True,
                )
            )
        return numbers[name]

    add(config_path(machine), "config", 3000)
    growth = machine.delta_growth()
    current = [_disk_layout(disk, growth, add) for disk in machine.disks]
    snapshots = [
        Data(
            "VirtualMachineFileLayoutExSnapshotLayout",
            key=snapshot.ref,
            dataKey=-1,
            memoryKey=-1,
            disk=[_disk_layout(disk, 0, add) for disk in snapshot.disks],
        )
        for snapshot in machine.all_snapshots()
    ]
    return Data("VirtualMachineFileLayoutEx", file=files, disk=current, snapshot=snapshots, timestamp=now())


def _disk_layout(disk: DiskState, growth: float, add: Callable[[str, str, int], int]) -> Data:
    chain = []
    for place, layer in enumerate(disk.layers):
        stem = f"[{disk.datastore.name}] {disk.folder}/{layer.name}"
        text = add(f"{stem}.vmdk", "diskDescriptor", 500)
        extent = f"{stem}-sesparse.vmdk" if place > 0 else f"{stem}-flat.vmdk"
        newest = place == len(disk.layers) - 1
        data = add(extent, "diskExtent", disk.layer_bytes(place, growth if newest else 0))
        chain.append(Data("VirtualMachineFileLayoutExDiskUnit", fileKey=[text, data]))
    return Data("VirtualMachineFileLayoutExDiskLayout", key=disk.key, chain=chain)


def snapshot_info(machine: MachineState) -> Data | None:
    """``snapshot``; unset where there is none."""
    if not machine.snapshots:
        return None
    current = machine.current.ref if machine.current else None
    roots = [_tree(machine, snapshot) for snapshot in machine.snapshots]
    return Data("VirtualMachineSnapshotInfo", currentSnapshot=current, rootSnapshotList=roots)


def _tree(machine: MachineState, snapshot: SnapshotState) -> Data:
    return Data(
        "VirtualMachineSnapshotTree",
        snapshot=snapshot.ref,
        vm=machine.ref,
        name=snapshot.name,
        description=snapshot.description,
        id=snapshot.serial,
        createTime=snapshot.created,
        state=snapshot.power,
        quiesced=snapshot.quiesced,
        childSnapshotList=[_tree(machine, child) for child in snapshot.children],
        replaySupported=False,
    )


PROPERTIES: Final[dict[str, Callable[[MachineState], Any]]] = {
    "config": config_info, "runtime": runtime_info, "guest": guest_info, "summary": summary, "layoutEx": layout_ex,
    "storage": storage_info, "snapshot": snapshot_info, "resourceConfig": resource_config, "capability": capability,
    "guestHeartbeatStatus": heartbeat,
}  # fmt: skip
"""The properties of a machine that are computed here."""


def changed_areas(machine: MachineState, args: Data) -> Data:
    """QueryChangedDiskAreas: what is allocated (change id ``*``) or changed since a change id.

    Raises MethodFault where CBT is off, the snapshot is missing or the ids are unknown.
    """
    if not machine.cbt:
        raise MethodFault.of("NotSupported", "Change tracking is not enabled.")
    disks = machine.disks
    if args.snapshot is not None:
        snapshot = next((saved for saved in machine.all_snapshots() if saved.ref == args.snapshot), None)
        disks = snapshot.disks if snapshot else []
    disk = next((disk for disk in disks if disk.key == args.deviceKey), None)
    if disk is None:
        raise MethodFault.of("InvalidArgument", "There is no such disk.", invalidProperty="deviceKey")
    areas = _areas(disk, args.changeId)
    start = args.startOffset
    listed = [Data("DiskChangeExtent", start=offset, length=length) for offset, length in areas if offset >= start][
        :2000
    ]
    end = disk.spec.capacity_bytes if len(listed) < 2000 else listed[-1].start + listed[-1].length
    return Data("DiskChangeInfo", startOffset=start, length=end - start, changedArea=listed)


def _areas(disk: DiskState, since: str) -> list[tuple[int, int]]:
    if since == "*":
        return list(disk.image.extents())
    if since == disk.change_id():
        return []
    prefix = since.rpartition("/")[0]
    if prefix != disk.change_id().rpartition("/")[0]:
        raise MethodFault.of(
            "FileFault", "Error caused by file: the change id is not known.", file=disk.path(disk.layers[-1])
        )
    return [(block * BLOCK, disk.image.content.length(block)) for block in sorted(disk.image.generations)]
