"""SearchIndex: objects by path, uuid, name or address."""

from __future__ import annotations

from collections.abc import Callable

from hypersdk.simulator import machine_view
from hypersdk.simulator.datacenter import Datacenter
from hypersdk.simulator.entities import Entity, root_folder
from hypersdk.simulator.hosts import Host
from hypersdk.simulator.machine import SimulatedMachine
from hypersdk.simulator.managed import Call, Managed, operation
from hypersdk.simulator.platform import Platform
from hypersdk.simulator.storage import split_path
from hypersdk.simulator.values import Ref


class SearchIndex(Managed):
    """Answers lookups."""

    wsdl = "SearchIndex"

    def __init__(self, platform: Platform, moref: str) -> None:
        self.platform = platform
        super().__init__(platform.world, moref)

    @operation("FindByInventoryPath")
    def _by_path(self, call: Call) -> Ref | None:
        """A leading slash is allowed; ``/`` inside a name is written ``%2f``, as the name is stored."""
        entity: Entity | None = root_folder(self.world)
        for name in filter(None, call.args.inventoryPath.split("/")):
            entity = next((child for child in entity.children() if child.name == name), None) if entity else None
        return entity.ref if entity else None

    @operation("FindChild")
    def _child(self, call: Call) -> Ref | None:
        entity = self.world.get(call.args.entity, Entity)
        return next((child.ref for child in entity.children() if child.name == call.args.name), None)

    @operation("FindByUuid")
    def _by_uuid(self, call: Call) -> Ref | None:
        return next(iter(self._all_by_uuid(call)), None)

    @operation("FindAllByUuid")
    def _all_by_uuid(self, call: Call) -> list[Ref]:
        wanted = call.args.uuid.lower()
        if not call.args.vmSearch:
            return [host.ref for host in self.world.all(Host) if host.uuid == wanted and self._inside(call, host)]
        instance = bool(call.args.instanceUuid)
        return self._machines(call, lambda machine: wanted == (machine.instance_uuid if instance else machine.uuid))

    @operation("FindByDnsName")
    def _by_name(self, call: Call) -> Ref | None:
        return next(iter(self._all_by_name(call)), None)

    @operation("FindAllByDnsName")
    def _all_by_name(self, call: Call) -> list[Ref]:
        wanted = call.args.dnsName.lower()
        if not call.args.vmSearch:
            return [
                host.ref for host in self.world.all(Host) if host.name.lower() == wanted and self._inside(call, host)
            ]
        return self._machines(call, lambda machine: machine.tools_run and machine_view.host_name(machine) == wanted)

    @operation("FindByIp")
    def _by_ip(self, call: Call) -> Ref | None:
        return next(iter(self._all_by_ip(call)), None)

    @operation("FindAllByIp")
    def _all_by_ip(self, call: Call) -> list[Ref]:
        wanted = call.args.ip
        if not call.args.vmSearch:
            hosts = self.world.all(Host)
            return [
                host.ref for host in hosts if self.platform.host_address(host) == wanted and self._inside(call, host)
            ]
        return self._machines(call, lambda machine: machine.tools_run and wanted in machine_view.addresses(machine))

    @operation("FindByDatastorePath")
    def _by_datastore_path(self, call: Call) -> Ref | None:
        split_path(call.args.path, ())
        return next(
            iter(self._machines(call, lambda machine: machine_view.config_path(machine) == call.args.path)), None
        )

    def _machines(self, call: Call, matches: Callable[[SimulatedMachine], bool]) -> list[Ref]:
        return [
            machine.ref
            for machine in self.world.all(SimulatedMachine)
            if matches(machine) and self._inside(call, machine)
        ]

    def _inside(self, call: Call, entity: Entity) -> bool:
        wanted = call.args.datacenter
        if wanted is None:
            return True
        datacenter = entity.datacenter()
        return datacenter is not None and datacenter.ref == self.world.get(wanted, Datacenter).ref
