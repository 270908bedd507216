"""SearchIndex: objects by path, uuid, name or address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypersdk.simulator import machine_view
from hypersdk.simulator.entities import Entity, root_folder
from hypersdk.simulator.hosts import Host
from hypersdk.simulator.machine import SimulatedMachine
from hypersdk.simulator.managed import Call, Managed, operation
from hypersdk.simulator.storage import split_path
from hypersdk.simulator.values import Ref


class SearchIndex(Managed, api_type="SearchIndex"):
    """Answers lookups."""

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
    @operation("FindAllByUuid")
    def _by_uuid(self, call: Call) -> Any:
        wanted = call.args.uuid.lower()
        if not call.args.vmSearch:
            return _answer(call, [host for host in self.world.all(Host) if host.uuid == wanted])
        machines = self.world.all(SimulatedMachine)
        if call.args.instanceUuid:
            return _answer(call, [machine for machine in machines if machine.instance_uuid == wanted])
        return _answer(call, [machine for machine in machines if machine.uuid == wanted])

    @operation("FindByDnsName")
    @operation("FindAllByDnsName")
    def _by_name(self, call: Call) -> Any:
        wanted = call.args.dnsName.lower()
        if not call.args.vmSearch:
            return _answer(call, [host for host in self.world.all(Host) if host.name.lower() == wanted])
        return _answer(call, [machine for machine in self._with_tools() if machine_view.host_name(machine) == wanted])

    @operation("FindByIp")
    @operation("FindAllByIp")
    def _by_ip(self, call: Call) -> Any:
        wanted = call.args.ip
        if not call.args.vmSearch:
            return _answer(call, [host for host in self.world.all(Host) if host.endpoint.address == wanted])
        return _answer(call, [machine for machine in self._with_tools() if wanted in machine_view.addresses(machine)])

    @operation("FindByDatastorePath")
    def _by_datastore_path(self, call: Call) -> Any:
        wanted = call.args.path
        split_path(wanted, ())
        machines = self.world.all(SimulatedMachine)
        return _answer(call, [machine for machine in machines if machine_view.config_path(machine) == wanted])

    def _with_tools(self) -> list[SimulatedMachine]:
        """The machines whose guest reports its name and addresses."""
        return [machine for machine in self.world.all(SimulatedMachine) if machine.tools_run]


def _answer(call: Call, found: Sequence[Entity]) -> Any:
    """Those in the requested datacenter, if one is given: all for ``FindAll...``, else the first."""
    wanted = call.args.datacenter
    refs = [entity.ref for entity in found if wanted is None or entity.datacenter().ref == wanted]
    return refs if call.method.startswith("FindAll") else next(iter(refs), None)
