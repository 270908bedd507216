"""A site whose jobs land machines at a real libvirtd.

Fixture: ``moving``, a factory: ``moving(disks=...)``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hypersdk.access.endpoints import NewEndpoint
from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.states import ENDED, JobState
from hypersdk.landing.record import LandingRecord, read_landing
from hypersdk.simulator.config import DiskSpec, MachineSpec
from tests.support.guests.bootsectors import boot_sector_guest
from tests.support.libvirtd import Libvirtd
from tests.support.site import Site, SiteFactory


@dataclass(frozen=True, slots=True)
class Moving:
    """A site whose jobs land machines at one libvirtd, on its network ``lan``."""

    site: Site
    libvirtd: Libvirtd
    root: Path

    def folder(self, name: str = "web-01") -> Path:
        """A folder for the hypervisor's user, who enters it."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        return folder

    def submit(self, name: str = "web-01", **fields: Any) -> JobRecord:
        """A migration of the machine; None leaves a field out."""
        definition = {
            "kind": "migrate",
            "vm_path": name,
            "output_path": str(self.folder(name)),
            "to": "kvm",
            "networks": {"*": "network:lan"},
            "convert": False,
            "acceleration": "tcg",
        }
        given = {key: value for key, value in {**definition, **fields}.items() if value is not None}
        (job,) = self.site.service.submit(json.dumps(given), "application/json", None).accepted
        return job

    def ended(self, job: JobRecord, state: JobState = JobState.COMPLETED) -> JobRecord:
        (now,) = self.site.until_ended([job], 150)
        assert now.state is state, f"{now.error} {self.site.told()}"
        return now

    def running(self) -> list[str]:
        return self.libvirtd.virsh("list", "--name").split()

    def power(self, name: str = "web-01") -> str:
        return self.site.simulator.vm(name).power

    def landing(self, name: str = "web-01") -> LandingRecord:
        record = read_landing(self.root / name)
        assert record is not None
        return record

    def until_step(self, job: JobRecord, name: str, state: str) -> None:
        def there() -> bool:
            now = self.site.store.get(job.id)
            assert now.state not in ENDED, f"{now.error} {self.site.told()}"
            return steps(now).get(name) == state

        self.site.until(there)


def steps(job: JobRecord) -> dict[str, str]:
    return {step.name: step.state.value for step in job.steps}


@pytest.fixture
def moving(site: SiteFactory, libvirtd: Libvirtd, lan_network: str, guest_folder: Path) -> Callable[..., Moving]:
    """``moving(disks=..., ...)``: a machine with a boot sector, and the endpoint ``kvm``."""

    def start(
        *, disks: tuple[DiskSpec, ...] | None = None, options: dict[str, Any] | None = None, **simulated: Any
    ) -> Moving:
        guest = boot_sector_guest("marker")
        boot = DiskSpec(guest.image.stat().st_size, image=guest.image)
        machine = MachineSpec("web-01", disks or (boot,), power="poweredOn", memory_mb=64)
        root = guest_folder / "exports"
        root.mkdir(mode=0o755)
        made = site(
            machines=(machine,),
            options={"export_roots": [str(root)], "take_over_s": 2.0, **(options or {})},
            **simulated,
        )
        made.services.endpoints.create(NewEndpoint(name="kvm", url=libvirtd.uri, kind="libvirt"))
        return Moving(made, libvirtd, root)

    return start
