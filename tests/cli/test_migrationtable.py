"""The plan of a migration on the screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypersdk.cli.migrationtable import storage_text
from hypersdk.kvm.storage import PoolFacts
from hypersdk.landing.disks import DiskPlace, Placing, StoragePlan
from hypersdk.model.guestplan import DiskBus, GuestDisk
from hypersdk.units import GiB

POOL = PoolFacts("images", "dir", active=True, folder=Path("/srv/images"), available_bytes=0, volumes=frozenset())


@pytest.mark.parametrize(
    ("pool", "placing", "extra_bytes", "text"),
    [
        (None, Placing.IN_PLACE, 0, "the images stay where they are"),
        (POOL, Placing.MOVE, 0, "moved into the storage pool images"),
        (POOL, Placing.COPY, 3 * GiB, "copied into the storage pool images, at most 6.0 GiB more to write"),
        (POOL, Placing.UPLOAD, 1 * GiB, "uploaded into the storage pool images, at most 2.0 GiB more to write"),
    ],
)
def test_what_is_written_once_more_is_said(
    pool: PoolFacts | None, placing: Placing, extra_bytes: int, text: str
) -> None:
    disk = GuestDisk(Path("/e/a.qcow2"), "qcow2", 4 * GiB, DiskBus.SATA, "Hard disk 1")
    places = tuple(DiskPlace(disk, placing, f"web-disk{number}.qcow2", extra_bytes) for number in (1, 2))
    assert storage_text(StoragePlan(pool, places)) == text
