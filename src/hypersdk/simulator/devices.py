"""Virtual hardware as the API shows it."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from hypersdk.simulator.values import Data, Ref

IDE: Final = 200
SCSI: Final = 1000
AHCI: Final = 15000
NVME: Final = 31000
FIRST_DISK: Final = {"scsi": 2000, "ide": 3000, "sata": 16000, "nvme": 32000}
FIRST_NIC: Final = 4000

CRYPTO_KEY: Final = Data("CryptoKeyId", keyId="simulated-key", providerId=Data("KeyProviderId", id="simulated-kms"))
"""The key of everything that is encrypted."""

CONTROLLERS: Final = {
    # spec -> API type, key, bus
    "pvscsi": ("ParaVirtualSCSIController", SCSI, "scsi"),
    "lsilogic": ("VirtualLsiLogicController", SCSI, "scsi"),
    "lsilogic-sas": ("VirtualLsiLogicSASController", SCSI, "scsi"),
    "ahci": ("VirtualAHCIController", AHCI, "sata"),
    "nvme": ("VirtualNVMEController", NVME, "nvme"),
    "ide": ("VirtualIDEController", IDE, "ide"),
}  # fmt: skip


def described(type_: str, key: int, label: str, summary: str, **fields: Any) -> Data:
    """A device with its label."""
    return Data(type_, key=key, deviceInfo=Data("Description", label=label, summary=summary), **fields)


@cache
def base_devices() -> tuple[Data, ...]:
    """The devices of every machine. Shared between machines; never changed."""
    return (
        described("VirtualIDEController", IDE, "IDE 0", "IDE 0", busNumber=0, device=[]),
        described("VirtualIDEController", IDE + 1, "IDE 1", "IDE 1", busNumber=1, device=[]),
        described("VirtualPS2Controller", 300, "PS2 controller 0", "PS2 controller 0", busNumber=0, device=[600, 700]),
        described(
            "VirtualPCIController", 100, "PCI controller 0", "PCI controller 0", busNumber=0, device=[500, 12000]
        ),
        described("VirtualSIOController", 400, "SIO controller 0", "SIO controller 0", busNumber=0, device=[]),
        described("VirtualKeyboard", 600, "Keyboard", "Keyboard", controllerKey=300, unitNumber=0),
        described(
            "VirtualPointingDevice",
            700,
            "Pointing device",
            "Pointing device; Device",
            controllerKey=300,
            unitNumber=1,
            backing=Data("VirtualDeviceDeviceBackingInfo", deviceName="autodetect", useAutoDetect=False),
        ),
        described(
            "VirtualMachineVideoCard",
            500,
            "Video card",
            "Video card",
            controllerKey=100,
            unitNumber=0,
            videoRamSizeInKB=8192,
            numDisplays=1,
            useAutoDetect=False,
            enable3DSupport=False,
            use3dRenderer="automatic",
        ),
        described(
            "VirtualMachineVMCIDevice",
            12000,
            "VMCI device",
            "Device on the virtual machine PCI bus",
            controllerKey=100,
            unitNumber=17,
            allowUnrestrictedCommunication=False,
            filterEnable=True,
        ),
    )


def controller(spec: str, bus_number: int, children: list[int]) -> Data:
    """A disk controller."""
    type_, key, bus = CONTROLLERS[spec]
    label = {"scsi": "SCSI", "sata": "SATA", "nvme": "NVME"}[bus]
    fields: dict[str, Any] = {"controllerKey": 100, "unitNumber": 3, "busNumber": bus_number, "device": children}
    if bus == "scsi":
        fields |= {"hotAddRemove": True, "sharedBus": "noSharing", "scsiCtlrUnitNumber": 7}
    return described(type_, key + bus_number, f"{label} controller {bus_number}", type_, **fields)


def cdrom(
    key: int, controller_key: int, unit: int, label: str, iso: str | None, datastore: Ref | None, *, connected: bool
) -> Data:
    """A CD-ROM drive: with an image, or passed through to a client that has none inserted."""
    if iso is not None:
        backing = Data("VirtualCdromIsoBackingInfo", fileName=iso, datastore=datastore)
        summary = f"ISO {iso}"
    else:
        backing = Data("VirtualCdromRemotePassthroughBackingInfo", deviceName="", useAutoDetect=False, exclusive=False)
        summary = "Remote device"
    return described(
        "VirtualCdrom",
        key,
        label,
        summary,
        backing=backing,
        controllerKey=controller_key,
        unitNumber=unit,
        connectable=connectable(connected=connected and iso is not None, at_start=iso is not None),
    )


def connectable(*, connected: bool, at_start: bool) -> Data:
    """Connection state of a removable device."""
    return Data(
        "VirtualDeviceConnectInfo",
        startConnected=at_start,
        allowGuestControl=True,
        connected=connected,
        status="ok" if connected else "untried",
    )


def with_power(device: Data, *, on: bool) -> Data:
    """The device after its machine was powered on or off. At power on, the devices with
    ``startConnected`` are connected, whatever their state before."""
    have = device.connectable
    if have is None:
        return device
    connected = on and bool(have.startConnected)
    return device.replace(connectable=have.replace(connected=connected, status="ok" if connected else "untried"))


def nic(index: int, mac: str, network: Any, *, connected: bool) -> Data:
    """A vmxnet3 card on a network (the object) or a distributed port group."""
    if network.is_a("DistributedVirtualPortgroup"):
        port = Data(
            "DistributedVirtualSwitchPortConnection",
            switchUuid=network.switch.uuid,
            portgroupKey=network.ref.moref,
            portKey=str(index + 8),
        )
        backing = Data("VirtualEthernetCardDistributedVirtualPortBackingInfo", port=port)
        summary = f"DVSwitch: {network.switch.uuid}"
    else:
        backing = Data(
            "VirtualEthernetCardNetworkBackingInfo", deviceName=network.name, useAutoDetect=False, network=network.ref
        )
        summary = network.name
    return described(
        "VirtualVmxnet3",
        FIRST_NIC + index,
        f"Network adapter {index + 1}",
        summary,
        backing=backing,
        controllerKey=100,
        unitNumber=7 + index,
        addressType="assigned",
        macAddress=mac,
        wakeOnLanEnabled=True,
        connectable=connectable(connected=connected, at_start=True),
    )


def summary_of_backing(backing: Data | None) -> str:
    """The summary of a removable device."""
    if backing is None:
        return ""
    if backing.fileName:
        return f"ISO {backing.fileName}"
    return f"Remote device {backing.deviceName or ''}".strip()


def bus_of(controller_device: Data) -> str | None:
    """``scsi``, ``sata``, ``nvme`` or ``ide``; ``None`` for a device that is not a controller of disks."""
    return next((bus for type_, _, bus in CONTROLLERS.values() if type_ == controller_device.type), None)
