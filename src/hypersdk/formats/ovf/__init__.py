"""OVF descriptors (DSP0243 1.1.1, OVF 2, and 0.9): parses them, builds new ones, and adapts those of a server to the
exported files.

::

    References ── File(id, href, size)
    DiskSection ── Disk(diskId, fileRef, capacity, format)        parse   bytes -> OvfEnvelope
    NetworkSection ── Network(name)                               build   Machine -> bytes
    VirtualSystem                                                 adapt   the server's bytes -> bytes
    ├── OperatingSystemSection
    └── VirtualHardwareSection ── Item(controller) <─ Parent ── Item(disk) ── HostResource ovf:/disk/ID
"""

from hypersdk.formats.ovf.adapt import adapt_ovf, place_in_key, resize_files
from hypersdk.formats.ovf.build import build_ovf
from hypersdk.formats.ovf.document import descriptor_text
from hypersdk.formats.ovf.layout import DiskFormat, OvfDisk
from hypersdk.formats.ovf.machine import EnvelopeNic, OvfSystem
from hypersdk.formats.ovf.parse import EnvelopeDisk, EnvelopeFile, OvfEnvelope, parse_ovf

__all__ = [
    "DiskFormat", "EnvelopeDisk", "EnvelopeFile", "EnvelopeNic", "OvfDisk", "OvfEnvelope", "OvfSystem",
    "adapt_ovf", "build_ovf", "descriptor_text", "parse_ovf", "place_in_key", "resize_files",
]  # fmt: skip
