"""Requests of conversions, for tests."""

from __future__ import annotations

from pathlib import Path

from hypersdk.model import Firmware
from hypersdk.model.guestplan import SourceDisk, SourceGuest, SourceNic
from hypersdk.units import GiB


def source_guest(*disks: SourceDisk, firmware: Firmware = Firmware.BIOS, name: str = "web 1") -> SourceGuest:
    """A machine with one network card."""
    return SourceGuest(
        name=name, firmware=firmware, secure_boot=False, tpm=False, cpus=1, cores_per_socket=1, memory_bytes=1 * GiB,
        guest_id=None, os_family="linux", disks=disks, nics=(SourceNic("00:50:56:ab:cd:01", "VM Network", "vmxnet3"),),
    )  # fmt: skip


def source_disk(file: Path, image_format: str = "qcow2", bus: str = "scsi") -> SourceDisk:
    """A disk in ``file``."""
    return SourceDisk(file, image_format, 1 * GiB, bus, 0, file.stem)
