"""Packages made to measure, without the package's own writers: guests, VMDKs by qemu-img, descriptors, manifests,
archives in dialects."""

from __future__ import annotations

import hashlib
import io
import random
import re
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final
from xml.sax.saxutils import quoteattr

from hypersdk.units import KiB, MiB
from tests.support.tools import run_tool

CAPACITY: Final = 2 * MiB + 5 * 512

_DESCRIPTOR: Final = """<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
 <References>{files}</References>
 <DiskSection><Info>disks</Info>{disks}</DiskSection>
 <VirtualSystem ovf:id="m"><Info>a machine</Info><Name>{name}</Name>
  <OperatingSystemSection ovf:id="96"><Info>os</Info></OperatingSystemSection>
  <VirtualHardwareSection><Info>hardware</Info>
   <Item><rasd:ElementName>CPU</rasd:ElementName><rasd:InstanceID>1</rasd:InstanceID>
    <rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
   <Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:ElementName>RAM</rasd:ElementName>
    <rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType>
    <rasd:VirtualQuantity>512</rasd:VirtualQuantity></Item>
   <Item><rasd:Address>0</rasd:Address><rasd:ElementName>SCSI</rasd:ElementName><rasd:InstanceID>3</rasd:InstanceID>
    <rasd:ResourceSubType>lsilogic</rasd:ResourceSubType><rasd:ResourceType>6</rasd:ResourceType></Item>
   {items}
  </VirtualHardwareSection></VirtualSystem>
</Envelope>
"""


def guest(seed: int, capacity: int = CAPACITY) -> bytes:
    """A guest's disk: blocks that shrink, blocks that do not, blocks of zeros."""
    draw = random.Random(seed)
    disk = bytearray(capacity)
    for number, start in enumerate(range(0, capacity, 64 * KiB)):
        length = min(64 * KiB, capacity - start)
        if number % 4 == 0:
            disk[start : start + length] = draw.randbytes(length)
        elif number % 4 == 2:
            disk[start : start + length] = (draw.randbytes(97) * 700)[:length]
    return bytes(disk)


def vmdk(disk: bytes, folder: Path, subformat: str = "streamOptimized") -> bytes:
    """``disk`` as qemu-img makes a VMDK in one file of it."""
    folder.mkdir(parents=True, exist_ok=True)
    raw, made = folder / "guest.raw", folder / "made.vmdk"
    raw.write_bytes(disk)
    made.unlink(missing_ok=True)
    run_tool("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={subformat}", raw, made)
    return made.read_bytes()


def rounded_vmdk(disk: bytes, folder: Path, subformat: str = "monolithicSparse") -> bytes:
    """``disk`` as VirtualBox writes it: whole grains in the header, the exact number of sectors only in the
    descriptor."""
    whole = disk.ljust(-(-len(disk) // (64 * KiB)) * 64 * KiB, b"\0")
    made = bytearray(vmdk(whole, folder, subformat))
    match = re.search(rb"RW (\d+) SPARSE", made)
    assert match is not None
    exact = str(len(disk) // 512).encode()
    made[match.start(1) : match.end(1)] = exact.rjust(len(match[1]), b"0")
    return bytes(made)


def descriptor(files: Mapping[str, int], *, name: str = "m", attributes: str = "", capacity: int = CAPACITY) -> bytes:
    """An OVF of a machine with one disk for each file: href -> size, as it is written there."""
    references = disks = items = ""
    for number, (href, size) in enumerate(files.items()):
        references += f'<File ovf:id="f{number}" ovf:href={quoteattr(href)} ovf:size="{size}" {attributes}/>'
        disks += f'<Disk ovf:diskId="d{number}" ovf:fileRef="f{number}" ovf:capacity="{capacity}" ovf:format="x"/>'
        items += (
            f"<Item><rasd:AddressOnParent>{number}</rasd:AddressOnParent><rasd:ElementName>Hard disk"
            f" {number + 1}</rasd:ElementName>"
            f"<rasd:HostResource>ovf:/disk/d{number}</rasd:HostResource>"
            f"<rasd:InstanceID>{10 + number}</rasd:InstanceID><rasd:Parent>3</rasd:Parent>"
            "<rasd:ResourceType>17</rasd:ResourceType></Item>"
        )
    return _DESCRIPTOR.format(files=references, disks=disks, items=items, name=name.replace("&", "&amp;")).encode()


Line = Callable[[str, str, str], str]
"""One line of a manifest: algorithm as ``hashlib`` has it, name, hex digest."""


def plain_line(algorithm: str, name: str, digest: str) -> str:
    return f"{algorithm.upper()}({name})= {digest}\n"


def manifest(files: Mapping[str, bytes], algorithm: str = "sha256", line: Line = plain_line) -> bytes:
    """A ``.mf`` of ``files``."""
    return "".join(
        line(algorithm, name, hashlib.new(algorithm, data).hexdigest()) for name, data in files.items()
    ).encode()


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Writes ``files`` below ``folder``; returns the path of the descriptor."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder / next(name for name in files if name.endswith(".ovf"))


def tar(
    files: Mapping[str, bytes] | Sequence[tuple[str, bytes]], tar_format: int = tarfile.USTAR_FORMAT, **options: object
) -> bytes:
    """An archive by Python's tarfile."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tar_format, **options) as archive:  # type: ignore[call-overload]
        for name, data in dict(files).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()
