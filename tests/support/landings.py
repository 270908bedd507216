"""Landings of small exports at a libvirtd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from hypersdk.kvm.address import parse_libvirt_address
from hypersdk.kvm.capabilities import HypervisorFacts, read_facts
from hypersdk.kvm.connection import Connection, open_connection
from hypersdk.landing.changes import DOMAIN_CHANGE
from hypersdk.landing.guests import open_guest
from hypersdk.landing.land import Landed, UndoProblem, land, undo_landing
from hypersdk.landing.options import LandOptions, NetworkTarget
from hypersdk.landing.planning import assumed_drivers, plan_guest
from hypersdk.landing.record import LandingFile
from hypersdk.migration.runfile import held_folder
from hypersdk.model.guestplan import GuestPlan
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB

SMALL: Final = LandOptions(accelerated=False, cpus=1, memory_bytes=32 * MiB)
SOURCE: Final = "web-01 (vm-42) of vcenter.example.com"


def on_bridge(name: str) -> LandOptions:
    """A small, emulated machine whose cards are on the bridge."""
    return replace(SMALL, default_network=NetworkTarget(name, bridge=True))


@dataclass(slots=True)
class Lander:
    """Lands the export in ``folder`` at ``uri``. ``seen`` is what was reported."""

    folder: Path
    uri: str
    options: LandOptions
    cancel: CancelToken = field(default_factory=CancelToken)
    seen: list[tuple[str, int, int]] = field(default_factory=list)

    @contextmanager
    def connected(self) -> Iterator[tuple[Connection, HypervisorFacts]]:
        """A connection, and what the hypervisor can do."""
        address = parse_libvirt_address(self.uri)
        with open_connection(address, cancel=CancelToken()) as connection:
            yield connection, read_facts(connection, accelerated=self.options.accelerated)

    def plan(self, facts: HypervisorFacts) -> GuestPlan:
        """The domain, as without a guest conversion."""
        guest = open_guest(self.folder)
        return plan_guest(guest, assumed_drivers(guest), self.options, facts)

    def land(self) -> Landed:
        """The step, with the folder locked as a run does."""
        with self.connected() as (connection, facts), held_folder(self.folder) as held:
            return land(
                connection,
                self.plan(facts),
                facts,
                LandingFile.opened(held),
                self.options,
                source=SOURCE,
                report=lambda *progress: self.seen.append(progress),
                cancel=self.cancel,
            )

    def undo(self) -> list[UndoProblem]:
        """Undoes all of it."""
        with self.connected() as (connection, _), held_folder(self.folder) as held:
            return undo_landing(connection, LandingFile.opened(held), cancel=CancelToken())

    def to_pool(self, pool: str) -> Lander:
        """The same with a storage pool."""
        return replace(self, options=replace(self.options, pool=pool), seen=[])


def mark_landed(folder: Path, image: str) -> None:
    """Writes the record of a landing whose domain uses ``image`` of the export in ``folder``."""
    with held_folder(folder) as held:
        landing = LandingFile.opened(held)
        landing.record.target = "qemu:///system"
        with landing.change(DOMAIN_CHANGE, {**domain_change(landing), "in_place": [str(folder / image)]}):
            pass


def domain_change(landing: LandingFile, uri: str = "qemu:///system") -> dict[str, Any]:
    """Data of a domain that was defined."""
    uuid = "00000000-0000-4000-8000-000000000001"
    return {"uri": uri, "landing": landing.record.landing_id, "uuid": uuid, "in_place": []}
