"""OvfManager.CreateDescriptor: the OVF text of a machine, as vCenter writes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from xml.sax.saxutils import quoteattr

from hypersdk.simulator import machine_view
from hypersdk.simulator.disks import DiskState, unit_number
from hypersdk.simulator.encode import scalar
from hypersdk.simulator.lease import disk_key
from hypersdk.simulator.machine_state import MachineState
from hypersdk.simulator.managed import Call, Managed, operation
from hypersdk.simulator.values import Data, MethodFault

STREAM_FORMAT: Final = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
_NAMESPACES: Final = (
    'xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:cim="http://schemas.dmtf.org/wbem/wscim/1/common" '
    'xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" '
    'xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" '
    'xmlns:vmw="http://www.vmware.com/schema/ovf" '
    'xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
)
_CONTROLLERS: Final = {
    "pvscsi": (6, "VirtualSCSI"),
    "lsilogic": (6, "lsilogic"),
    "lsilogic-sas": (6, "lsilogicsas"),
    "ahci": (20, "vmware.sata.ahci"),
    "nvme": (20, "vmware.nvme.controller"),
    "ide": (5, None),
}


class OvfManager(Managed, api_type="OvfManager"):
    """Creates OVF descriptors."""

    @operation("CreateDescriptor", privilege="VApp.Export")
    def _create(self, call: Call) -> Data:
        machine = self.world.get(call.args.obj, MachineState)
        params = call.args.cdp
        files = {file.deviceId: file for file in params.ovfFiles or []}
        if params.snapshot is not None and params.snapshot not in [
            snapshot.ref for snapshot in machine.all_snapshots()
        ]:
            raise MethodFault.of(
                "InvalidArgument", "The snapshot is not the machine's.", invalidProperty="cdp.snapshot"
            )
        text = descriptor_text(machine, files, params.name or machine.spec.name)
        return Data("OvfCreateDescriptorResult", ovfDescriptor=text, includeImageFiles=bool(params.includeImageFiles))


def _item(**fields: Any) -> str:
    """A hardware item; the elements of CIM's RASD come in alphabetical order."""
    lines = [f"<rasd:{key}>{scalar(value)}</rasd:{key}>" for key, value in sorted(fields.items()) if value is not None]
    return f"<Item>{''.join(lines)}</Item>"


def descriptor_text(machine: MachineState, files: dict[str, Data], name: str) -> str:
    """The OVF envelope. ``files`` are the exported files by the lease's device id."""
    disks = [(disk, files.get(disk_key(machine, disk))) for disk in machine.disks]
    references, sections = [], []
    for number, (disk, file) in enumerate(disks, 1):
        if file is not None:
            references.append(f'<File ovf:href={quoteattr(file.path)} ovf:id="file{number}" ovf:size="{file.size}"/>')
            populated = f' ovf:populatedSize="{file.populatedSize}"' if file.populatedSize is not None else ""
            sections.append(
                f'<Disk ovf:capacity="{disk.spec.capacity_bytes}" ovf:capacityAllocationUnits="byte"'
                f' ovf:diskId="vmdisk{number}" ovf:fileRef="file{number}" ovf:format="{STREAM_FORMAT}"{populated}/>'
            )
    networks = "".join(
        f"<Network ovf:name={quoteattr(name)}><Description>The {scalar(name)} network</Description></Network>"
        for name in dict.fromkeys(network.name for network in machine.networks)
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Envelope vmw:buildId="build-24322831" {_NAMESPACES}>'
        f"<References>{''.join(references)}</References>"
        f"<DiskSection><Info>Virtual disk information</Info>{''.join(sections)}</DiskSection>"
        f"<NetworkSection><Info>The list of logical networks</Info>{networks}</NetworkSection>"
        f"{_virtual_system(machine, name, [disk for disk, file in disks if file is not None])}</Envelope>\n"
    )


def _virtual_system(machine: MachineState, name: str, disks: list[DiskState]) -> str:
    spec = machine.spec
    numbers = iter(range(1, 1000))
    items = [
        _item(
            AllocationUnits="hertz * 10^6",
            Description="Number of Virtual CPUs",
            ElementName=f"{machine.cpus} virtual CPU(s)",
            InstanceID=next(numbers),
            ResourceType=3,
            VirtualQuantity=machine.cpus,
        ),
        _item(
            AllocationUnits="byte * 2^20",
            Description="Memory Size",
            ElementName=f"{machine.memory_mb}MB of memory",
            InstanceID=next(numbers),
            ResourceType=4,
            VirtualQuantity=machine.memory_mb,
        ),
    ]
    storage, instances = _storage_items(disks, numbers)
    items += storage
    items += [
        _item(
            AddressOnParent=7 + index,
            AutomaticAllocation=True,
            Connection=network.name,
            ElementName=f"Network adapter {index + 1}",
            Address=machine.mac(index),
            InstanceID=next(numbers),
            ResourceSubType="VmxNet3",
            ResourceType=10,
        )
        for index, network in enumerate(machine.networks)
    ]
    firmware = f'<vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="{spec.firmware}"/>'
    if spec.secure_boot:
        firmware += '<vmw:Config ovf:required="false" vmw:key="bootOptions.efiSecureBootEnabled" vmw:value="true"/>'
    return (
        f"<VirtualSystem ovf:id={quoteattr(name)}><Info>A Virtual system</Info><Name>{scalar(name)}</Name>"
        f'<OperatingSystemSection ovf:id="101" vmw:osType="{spec.guest_id}"><Info>The operating system installed</Info>'
        f"<Description>{scalar(machine_view.guest_names(machine)[0])}</Description></OperatingSystemSection>"
        "<VirtualHardwareSection><Info>Virtual hardware requirements</Info><System><vssd:ElementName>Virtual Hardware"
        " Family</vssd:ElementName>"
        "<vssd:InstanceID>0</vssd:InstanceID>"
        f"<vssd:VirtualSystemIdentifier>{scalar(name)}</vssd:VirtualSystemIdentifier>"
        f"<vssd:VirtualSystemType>{machine_view.HARDWARE_VERSION}</vssd:VirtualSystemType></System>"
        f"{''.join(items)}{firmware}</VirtualHardwareSection>{_boot_section(machine, instances)}</VirtualSystem>"
    )


def _boot_section(machine: MachineState, instances: dict[int, int]) -> str:
    """As vCenter writes the first disk of a boot order."""
    order = machine_view.boot_order(machine)
    instance = next((instances[entry.deviceKey] for entry in order if entry.deviceKey in instances), None)
    if instance is None:
        return ""
    return (
        f'<vmw:BootOrderSection vmw:instanceId="{instance}" vmw:type="disk"><Info>Virtual hardware device boot'
        " order</Info></vmw:BootOrderSection>"
    )


def _storage_items(disks: list[DiskState], numbers: Iterator[int]) -> tuple[list[str], dict[int, int]]:
    """The items, and the instance number of each disk by its key."""
    items: list[str] = []
    instances: dict[int, int] = {}
    controllers: dict[str, int] = {}
    for disk in disks:
        kind = disk.spec.controller
        if kind not in controllers:
            controllers[kind] = next(numbers)
            type_, subtype = _CONTROLLERS[kind]
            items.append(
                _item(
                    Address=0,
                    ElementName=f"{kind} controller 0",
                    InstanceID=controllers[kind],
                    ResourceSubType=subtype,
                    ResourceType=type_,
                )
            )
    for number, disk in enumerate(disks, 1):
        instances[disk.key] = next(numbers)
        items.append(
            _item(
                AddressOnParent=unit_number(disk),
                ElementName=f"Hard disk {disk.index + 1}",
                HostResource=f"ovf:/disk/vmdisk{number}",
                InstanceID=instances[disk.key],
                Parent=controllers[disk.spec.controller],
                ResourceType=17,
            )
        )
    return items, instances
