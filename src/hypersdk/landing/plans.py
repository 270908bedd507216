"""The plan of a migration: what is still to be exported, the domain, and what keeps the source off the network. Nothing
is changed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from hypersdk.guest.tools import GuestTools
from hypersdk.kvm.preflight import TargetInventory
from hypersdk.landing.disks import StoragePlan
from hypersdk.landing.earlier import Earlier, earlier_work, spec_after
from hypersdk.landing.fence import Fence, fence_of
from hypersdk.landing.guests import described_guest, guest_of, open_manifest
from hypersdk.landing.land import check_target
from hypersdk.landing.planning import assumed_drivers, left_out, plan_guest
from hypersdk.landing.record import LAND, LandingRecord, read_landing
from hypersdk.landing.request import LandingRequest
from hypersdk.landing.target import Target
from hypersdk.migration.hold import check_not_held
from hypersdk.migration.plan import Plan, make_plan
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import ExportSpec, ResumeMode
from hypersdk.model import Machine, MachineSummary, Power
from hypersdk.model.guestplan import GuestPlan, SourceGuest
from hypersdk.remedies import Notice
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.machine import read_machine
from hypersdk.vsphere.session import Session


@dataclass(frozen=True, slots=True)
class MigrationPlan:
    """One machine. ``export`` is None where its export is finished, ``spec`` is that export's. ``domain`` is None for a
    machine that is migrated already; after a guest conversion it may have another disk bus and network card.
    ``storage`` is where its disks will lie."""

    machine: Machine
    spec: ExportSpec
    earlier: Earlier
    export: Plan | None
    guest: SourceGuest | None
    domain: GuestPlan | None
    storage: StoragePlan | None
    fence: Fence

    @property
    def name(self) -> str:
        """The machine's name."""
        return self.machine.name

    @property
    def source_runs_on(self) -> bool:
        """Whether the source runs on, on its network, and the landed machine is not started for that reason."""
        return self.fence is Fence.NOT_STARTED and self.machine.power is Power.ON

    def warnings(self) -> Iterator[Notice]:
        """What a user should know before it begins."""
        if self.export is not None:
            yield from self.export.warnings
        if self.guest is not None and self.domain is not None:
            yield from left_out(self.guest, self.domain)
        if self.source_runs_on:
            yield Notice("it runs on: what it writes after the export is not in the landed machine")
        if self.fence is Fence.NEW_ADDRESSES and self.machine.power is Power.ON:
            yield Notice("it runs on beside the landed machine, which has new MAC addresses")
        if self.earlier is Earlier.OUTDATED:
            yield Notice("it may have run since its last export, which is replaced")

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "machine": self.name,
            "moref": self.machine.moref,
            "power": self.machine.power.value,
            "output_dir": str(self.spec.shown_dir),
            "earlier": self.earlier.value,
            "fence": self.fence.value,
            "export": None if self.export is None else self.export.as_dict(),
            "domain": None if self.domain is None else domain_dict(self.domain),
            "storage": None if self.storage is None else self.storage.as_dict(),
            "warnings": [warning.text for warning in self.warnings()],
        }


def domain_dict(domain: GuestPlan) -> dict[str, Any]:
    """A domain for ``--json``."""
    return {
        "name": domain.name,
        "firmware": domain.firmware.value,
        "secure_boot": domain.secure_boot,
        "tpm": domain.tpm,
        "cpus": domain.cpus,
        "memory_bytes": domain.memory_bytes,
        "disks": [{"label": disk.label, "file": str(disk.file), "bus": disk.bus.value} for disk in domain.disks],
        "nics": [
            {"mac": nic.mac, "target": nic.target, "bridge": nic.bridge, "model": nic.model.value}
            for nic in domain.nics
        ],
    }


def plan_migration(
    session: Session,
    spec: ExportSpec,
    request: LandingRequest,
    target: Target,
    *,
    inventory: TargetInventory,
    tools: GuestTools,
    taken: Collection[str] = (),
    machines: list[MachineSummary],
    settings: RunSettings,
    cancel: CancelToken,
    anew: bool = False,
) -> MigrationPlan:
    """Looks at the source and at the folder; ``inventory`` is what ``target`` has. ``spec`` names the machine by its
    moref. ``taken`` are names of domains that other machines of this run get. ``anew``: an earlier export is replaced.
    Raises what the export's plan does, Refused with the reasons of ``plan_guest`` and ``check_target``,
    ``source_on_network`` and ``source_held``."""
    machine = read_machine(session, spec.machine, cancel=cancel)
    earlier = Earlier.OUTDATED
    if not anew:
        earlier = earlier_work(spec, machine, request.steps, settings.run_store, partial(_has_landed, inventory))
    if earlier is Earlier.MIGRATED:
        return MigrationPlan(machine, spec, earlier, None, None, None, None, Fence.NOT_STARTED)
    fence = fence_of(machine, spec, request.options)
    if spec.hold:
        check_not_held(settings.state, session, machine.moref, machine.name, spec.output_dir)
    export = None
    if earlier is Earlier.EXPORTED:
        guest = guest_of(open_manifest(spec.output_dir), spec.shown_dir.absolute())
    else:
        spec = spec_after(spec, earlier)
        if anew:
            spec = replace(spec, resume=ResumeMode.DISCARD)
        export = make_plan(
            session, spec, cancel=cancel, machines=machines, min_free=settings.min_free, runs=settings.run_store
        )
        guest = described_guest(export.machine, export.disks, spec)
    domain = plan_guest(guest, assumed_drivers(guest), request.options, target.facts, taken=taken)
    if request.conversion is not None:
        request.conversion.check_guest(guest, tools)
    # Images that are replaced must not be those of a domain: then an earlier landing is in the way like any other.
    landing = None if earlier is Earlier.OUTDATED else read_landing(spec.output_dir)
    storage = check_target(target.connection, domain, target.facts, request.options, inventory, landing)
    return MigrationPlan(machine, spec, earlier, export, guest, domain, storage, fence)


def _has_landed(inventory: TargetInventory, landing: LandingRecord) -> bool:
    step = landing.steps.get(LAND)
    uuid = None if step is None else step.result.get("uuid")
    return any(domain.uuid == uuid and domain.landing == landing.landing_id for domain in inventory.domains)
