"""Reads the layout of a disk: the table, then what each partition holds."""

from __future__ import annotations

from hypersdk.formats.guestdisk.contents import read_content
from hypersdk.formats.guestdisk.records import Content, ContentKind, DiskLayout, Partition, TableKind
from hypersdk.formats.guestdisk.region import BoundedDisk, Reader, Region
from hypersdk.formats.guestdisk.tables import MBR_BYTES, Slot, has_boot_code, is_container, read_table


def read_layout(reader: Reader) -> DiskLayout:
    """What lies on the disk of ``reader``: about five reads and one for each partition.

    Raises only what ``reader`` raises. Everything on the disk may be forged.
    """
    bounded = BoundedDisk(reader)
    disk = Region(bounded)
    sector = disk.read(0, MBR_BYTES)
    table = read_table(disk, sector)
    partitions = tuple(_partition(disk, slot) for slot in table.slots)
    whole = read_content(disk) if table.kind is TableKind.NONE else None
    return DiskLayout(
        size_bytes=reader.size,
        sector_bytes=table.sector,
        table=table.kind,
        partitions=partitions,
        whole=whole,
        boot_code=has_boot_code(sector),
        damaged_table=table.damaged,
        complete=not bounded.exhausted,
    )


def _partition(disk: Region, slot: Slot) -> Partition:
    content = Content(ContentKind.EXTENDED) if is_container(slot) else read_content(disk.part(slot.start, slot.size))
    return Partition(slot.number, slot.start, slot.size, slot.type, slot.name, slot.active, content)
