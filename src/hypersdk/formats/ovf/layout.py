"""Constants of the OVF format, each with its source.

* DSP0243 1.1.1: Open Virtualization Format Specification (elements, attributes, units).
* DSP0004 2.6, annex C: programmatic units (``byte * 2^20``).
* CIM_ResourceAllocationSettingData.mof: resource types; CIM_OperatingSystem.mof: ``OSType``.
* The sub types and ``vmw:`` keys are those that vSphere's own exports have and that ovftool and govmomi read.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal, TypeAlias

from hypersdk.units import MiB, TiB

MAX_OVF_BYTES: Final = 8 * MiB
"""A descriptor with 240 disks and every optional section is below 1 MiB."""
MAX_DEPTH: Final = 32
"""DSP0243 nests 6 deep, vSphere's product sections 8."""
MAX_ELEMENTS: Final = 100_000
MAX_CAPACITY_BYTES: Final = 2**63 - 1
MAX_DISKS: Final = 1024
"""vSphere's limit is 636. Each item may be one more copy of a file, so a small descriptor could request any number of
them."""
MAX_EMPTY_DISK_BYTES: Final = 64 * TiB
"""Of a disk without a file. vSphere's limit is 62 TiB."""

OVF: Final = "http://schemas.dmtf.org/ovf/envelope/1"
RASD: Final = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
VSSD: Final = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
VMW: Final = "http://www.vmware.com/schema/ovf"
VBOX: Final = "http://www.virtualbox.org/ovf/machine"
XSI: Final = "http://www.w3.org/2001/XMLSchema-instance"

OVF_09: Final = "http://www.vmware.com/schema/ovf/1/envelope"

ENVELOPES: Final = frozenset({OVF, f"{OVF}/", "http://schemas.dmtf.org/ovf/envelope/2", OVF_09})
"""Namespaces of the root element that are read: OVF 1 (oVirt ends it with a slash), OVF 2, and 0.9 as VMware and
VirtualBox wrote it."""


class ResourceType(IntEnum):
    """Values of ``rasd:ResourceType`` that are used here."""

    CPU = 3
    MEMORY = 4
    IDE = 5
    SCSI = 6
    ETHERNET = 10
    FLOPPY = 14
    CD = 15
    DVD = 16
    DISK = 17
    STORAGE_EXTENT = 19
    OTHER_STORAGE = 20  # SATA and NVMe; the sub type says which
    LOGICAL_DISK = 31
    STORAGE_VOLUME = 32


DiskFormat: TypeAlias = Literal["vmdk-stream", "qcow2", "raw"]

FORMAT_URIS: Final[dict[DiskFormat, str]] = {
    # DSP0243 asks for a URI that names a specification. These are the ones in use: VMware's exports; the DMTF's own
    # examples and oVirt; oVirt and virt-v2v.
    "vmdk-stream": "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized",
    "qcow2": "http://www.gnome.org/~markmc/qcow-image-format.html",
    "raw": "http://en.wikipedia.org/wiki/Byte",
}

CONTROLLER_TYPES: Final = {
    # bus -> resource type, sub type when the controller's own name is not known
    "scsi": (ResourceType.SCSI, "lsilogic"),
    "sata": (ResourceType.OTHER_STORAGE, "vmware.sata.ahci"),
    "nvme": (ResourceType.OTHER_STORAGE, "vmware.nvme.controller"),
    "ide": (ResourceType.IDE, None),
}

CONTROLLER_SUBTYPES: Final = {
    "pvscsi": "VirtualSCSI",
    "lsilogic": "lsilogic",
    "lsilogicsas": "lsilogicsas",
    "buslogic": "buslogic",
    "ahci": "vmware.sata.ahci",
    "nvme": "vmware.nvme.controller",
}

NIC_SUBTYPES: Final = {
    "vmxnet3": "VmxNet3", "vmxnet2": "VmxNet2", "vmxnet": "VmxNet", "e1000": "E1000", "e1000e": "E1000e",
    "pcnet32": "PCNet32", "sriov": "vmware.sriov",
}  # fmt: skip

OS_TYPES: Final = (
    # vSphere guest id starts with -> (64-bit, 32-bit) CIM OSType, most special first
    ("rhel", (80, 79)),
    ("centos", (107, 106)),
    ("oracleLinux", (109, 108)),
    ("sles", (85, 84)),
    ("opensuse", (83, 82)),
    ("suse", (83, 82)),
    ("ubuntu", (94, 93)),
    ("debian", (96, 95)),
    ("freebsd", (78, 42)),
    ("windows7Server", (103, 103)),
    ("windows7", (105, 105)),
    ("winLonghorn", (77, 76)),
    ("winNet", (70, 69)),
    ("winXP", (71, 67)),
    ("vmkernel", (104, 104)),
)
LINUX_WORDS: Final = ("linux", "fedora", "asianux", "mandr", "turbo", "coreos", "photon", "rocky", "alma", "amazon")
OS_LINUX: Final = (101, 36)
OS_OTHER: Final = (102, 1)


@dataclass(frozen=True, slots=True)
class OvfDisk:
    """One disk for the descriptor. ``file_name`` is None for a disk that starts empty.

    ``device_key`` is vSphere's key of the disk in the machine. ``size_bytes`` is the size of the file,
    ``capacity_bytes`` that of the guest's disk, ``populated_bytes`` those with data. ``lease_key`` is the key of
    the disk in the export lease (``/vm-42/VirtualLsiLogicController0:0``), which a server's descriptor may use;
    ``disk_id`` its id in the descriptor that it was read from, if any.
    """

    device_key: int
    file_name: str | None
    size_bytes: int
    capacity_bytes: int
    populated_bytes: int | None
    format: DiskFormat
    lease_key: str | None
    disk_id: str | None = None
