"""The demo inventory: machines of a small company, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from hypersdk.simulator.config import Controller, DiskSpec, MachineSpec, SimulatorConfig
from hypersdk.simulator.disks import BOOT_DISK_BYTES
from hypersdk.units import GiB, MiB

ISO_STORE: Final = "iso-library"
ISO_FILES: Final = {
    "linux/debian-12.7.0-amd64-netinst.iso": 12 * MiB, "linux/ubuntu-24.04-live-server-amd64.iso": 16 * MiB,
    "windows/windows-server-2022.iso": 20 * MiB, "tools/virtio-win.iso": 8 * MiB,
}  # fmt: skip
BOOT_MACHINE: Final = "boot-demo"
"""The machine whose disk boots and says so."""


@dataclass(frozen=True, slots=True)
class MachineTemplate:
    """A kind of machine: its name, folder and hardware."""

    stem: str
    folder: str
    guest_id: str
    cpus: int
    memory_gb: int
    disks_gb: tuple[int, ...]
    controller: Controller = "pvscsi"
    firmware: Literal["bios", "efi"] = "bios"
    secure_boot: bool = False
    weight: int = 4


DEBIAN, UBUNTU, RHEL, SLES = "debian12_64Guest", "ubuntu64Guest", "rhel9_64Guest", "sles15_64Guest"
WIN19, WIN22, WIN11, BSD = (
    "windows2019srv_64Guest",
    "windows2022srvNext_64Guest",
    "windows11_64Guest",
    "freebsd13_64Guest",
)

TEMPLATES: Final = (
    MachineTemplate("web", "Production/Web", DEBIAN, 2, 4, (16,), weight=10),
    MachineTemplate("api", "Production/Web", UBUNTU, 4, 8, (24,), weight=8),
    MachineTemplate("cache", "Production/Web", DEBIAN, 2, 16, (10,), weight=4),
    MachineTemplate("db-replica", "Production/Databases", RHEL, 8, 32, (32, 200), firmware="efi", weight=4),
    MachineTemplate("k8s-worker", "Production/Kubernetes", UBUNTU, 8, 32, (40, 100), weight=8),
    MachineTemplate("k8s-control", "Production/Kubernetes", UBUNTU, 4, 16, (40,), weight=3),
    MachineTemplate("queue", "Production/Messaging", SLES, 4, 8, (20, 60), controller="lsilogic", weight=3),
    MachineTemplate("app-win", "Production/Windows", WIN19, 4, 16, (60, 120), controller="lsilogic-sas", weight=5),
    MachineTemplate(
        "file", "Infrastructure", WIN22, 4, 8, (80, 500), controller="nvme", firmware="efi", secure_boot=True, weight=2
    ),
    MachineTemplate("dns", "Infrastructure", BSD, 1, 2, (8,), controller="ahci", weight=2),
    MachineTemplate("jenkins-agent", "Development/CI", DEBIAN, 4, 8, (40,), weight=6),
    MachineTemplate("dev", "Development/Workstations", UBUNTU, 4, 16, (80,), firmware="efi", weight=6),
    MachineTemplate(
        "test-win11",
        "Development/Workstations",
        WIN11,
        4,
        8,
        (64,),
        controller="nvme",
        firmware="efi",
        secure_boot=True,
        weight=3,
    ),
    MachineTemplate("old-erp", "Retired", WIN19, 2, 8, (40, 80), controller="lsilogic-sas", weight=2),
)


def _gb(size: int, data_mb: int, controller: Controller = "pvscsi") -> DiskSpec:
    return DiskSpec(size * GiB, allocated_bytes=data_mb * MiB, controller=controller)


_ISO: Final = f"[{ISO_STORE}] linux/debian-12.7.0-amd64-netinst.iso"
FIXED: Final = (
    MachineSpec(
        BOOT_MACHINE,
        (DiskSpec(BOOT_DISK_BYTES, boot=True, controller="lsilogic"),),
        memory_mb=64,
        cpus=1,
        guest_id="otherGuest64",
        tools=False,
        folder="Demo",
        annotation="A tiny disk that boots and prints a marker on the screen and the serial port.",
    ),
    MachineSpec("web-01", (_gb(16, 192),), power="poweredOn", memory_mb=4096, folder="Production/Web"),
    MachineSpec("web-02", (_gb(16, 176),), host=1, memory_mb=4096, folder="Production/Web"),
    MachineSpec(
        "db-primary",
        (_gb(32, 256), _gb(200, 640)),
        power="poweredOn",
        cpus=8,
        memory_mb=32768,
        firmware="efi",
        guest_id=RHEL,
        folder="Production/Databases",
        cbt=True,
        annotation="PostgreSQL primary. Owner: platform team.",
    ),
    MachineSpec(
        "mail",
        (_gb(20, 128, "lsilogic"), _gb(100, 320, "lsilogic")),
        power="poweredOn",
        host=1,
        folder="Production/Messaging",
        snapshots=("before upgrade",),
        datastore="nvme-prod-02",
    ),
    MachineSpec(
        "win2019-template",
        (_gb(60, 384, "lsilogic-sas"),),
        guest_id=WIN19,
        cpus=4,
        memory_mb=8192,
        template=True,
        folder="Templates",
    ),
    MachineSpec(
        "dc-01",
        (_gb(80, 256, "nvme"),),
        power="poweredOn",
        host=1,
        guest_id=WIN22,
        cpus=4,
        memory_mb=8192,
        firmware="efi",
        secure_boot=True,
        tpm=True,
        folder="Infrastructure",
    ),
    MachineSpec("gitlab", (_gb(40, 320), _gb(300, 512)), cpus=8, memory_mb=16384, folder="Development/CI", iso=_ISO),
    MachineSpec(
        "debian-12-template",
        (_gb(8, 96),),
        memory_mb=2048,
        template=True,
        folder="Templates",
        iso=_ISO,
        datastore="nvme-prod-02",
    ),
    MachineSpec(
        "payroll",
        (_gb(24, 160, "ahci"),),
        host=1,
        folder="Retired",
        snapshots=("2023 close", "2024 close"),
        datastore="nfs-archive",
    ),
    MachineSpec("R&D / prototype", (_gb(12, 64),), folder="Development/Workstations"),
    MachineSpec(
        "100% test", (_gb(8, 48, "ide"),), host=1, folder="Development/Workstations", annotation="The name is meant."
    ),
    MachineSpec("Büro Zürich – Drucker", (_gb(10, 64),), power="poweredOn", folder="Infrastructure"),
    MachineSpec("監視サーバー", (_gb(16, 80),), host=1, folder="Infrastructure", power="poweredOn"),
)


def demo_machines(config: SimulatorConfig, datacenters: int) -> Iterator[MachineSpec]:
    """``config.vms`` machines: the fixed ones first, then machines made from the templates."""
    yield from FIXED[: config.vms]
    rng = random.Random(config.seed)  # noqa: S311 - an inventory that is the same for the same seed
    counts: dict[str, int] = {"web": 2}
    weights = [template.weight for template in TEMPLATES]
    for number in range(len(FIXED), config.vms):
        template = rng.choices(TEMPLATES, weights)[0]
        counts[template.stem] = counts.get(template.stem, 0) + 1
        yield _machine(template, counts[template.stem], number, rng, config, datacenters)


def _machine(
    template: MachineTemplate, count: int, number: int, rng: random.Random, config: SimulatorConfig, datacenters: int
) -> MachineSpec:
    retired = template.folder == "Retired"
    power: Literal["poweredOn", "poweredOff", "suspended"] = (
        "poweredOff" if retired or rng.random() < 0.25 else "poweredOn"
    )
    datacenter = number % datacenters
    suffix = f"-{datacenter + 1}" if datacenter else ""
    store = rng.choice(("nvme-prod-01", "nvme-prod-02") if not retired else ("nfs-archive",)) + suffix
    disks = tuple(
        _gb(size, max(32, min(768, size * rng.randint(4, 12))), template.controller) for size in template.disks_gb
    )
    return MachineSpec(
        f"{template.stem}-{count:02d}",
        disks,
        power=power,
        datacenter=datacenter,
        host=rng.randrange(max(1, config.hosts)),
        folder=template.folder,
        datastore=store,
        guest_id=template.guest_id,
        cpus=template.cpus,
        memory_mb=template.memory_gb * 1024,
        firmware=template.firmware,
        secure_boot=template.secure_boot,
        nics=1 + (rng.random() < 0.2),
        snapshots=("nightly",) if rng.random() < 0.06 else (),
        iso=f"[{ISO_STORE}{suffix}] tools/virtio-win.iso" if rng.random() < 0.05 else None,
    )
