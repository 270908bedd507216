"""Inventories of any size, the same ones every time."""

from __future__ import annotations

import random

from hypersdk.model import MachineSummary, Power
from hypersdk.units import GiB

NAME_PARTS = (("prod", "dev"), ("eu", "us"), ("web", "db", "app"))
GUESTS = ("Ubuntu Linux (64-bit)", "Microsoft Windows Server 2019 (64-bit)", "Debian GNU/Linux 12 (64-bit)")


def machine(
    number: int,
    *,
    name: str,
    moref: str | None = None,
    path: str | None = None,
    guest: str | None = GUESTS[0],
    host: str | None = "esx01.example.com",
    power: Power = Power.ON,
    capacity_bytes: int = 16 * GiB,
) -> MachineSummary:
    """One machine."""
    return MachineSummary(
        moref=f"vm-{number}" if moref is None else moref,
        name=name,
        path=f"/DC{number % 4}/vm/folder{number % 37}/{name}" if path is None else path,
        uuid=None,
        instance_uuid=None,
        power=power,
        cpus=1 + number % 4,
        memory_bytes=(1 + number % 8) * GiB,
        disks=(),
        datacenter=f"DC{number % 4}",
        host=host,
        guest_name=guest,
        template=False,
        disk_count=1,
        used_bytes=capacity_bytes // 2,
        provisioned_bytes=capacity_bytes,
    )


def inventory(count: int) -> list[MachineSummary]:
    """``count`` machines with names as a site has them."""
    dice = random.Random(count)
    return [
        machine(
            number,
            name="-".join((*map(dice.choice, NAME_PARTS), f"{number:05d}")),
            guest=dice.choice(GUESTS),
            host=f"esx{number % 40:02d}.example.com",
            power=dice.choice((Power.ON, Power.OFF)),
            capacity_bytes=dice.choice((16, 40, 500)) * GiB,
        )
        for number in range(count)
    ]
