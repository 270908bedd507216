"""What all objects of one simulator share: settings, tasks, events, sessions, leases, and lookups by name."""

from __future__ import annotations

import hashlib
import uuid as uuid_module
from dataclasses import dataclass, replace
from typing import Final

from hypersdk.simulator import lease as leases
from hypersdk.simulator.config import MachineSpec, SimulatorConfig
from hypersdk.simulator.content import DiskImage
from hypersdk.simulator.counters import Counters
from hypersdk.simulator.entities import Datacenter, Entity, Folder, Host, Network, escape_name
from hypersdk.simulator.events import EventManager
from hypersdk.simulator.fault import MethodFault
from hypersdk.simulator.faults import FaultBook
from hypersdk.simulator.lease import Lease
from hypersdk.simulator.machine import Machine
from hypersdk.simulator.managed import Call
from hypersdk.simulator.service import about
from hypersdk.simulator.session import Sessions
from hypersdk.simulator.snapshot import Snapshot
from hypersdk.simulator.storage import Datastore, DatastoreBrowser, split_path
from hypersdk.simulator.tasks import Task, TaskManager
from hypersdk.simulator.values import Data, Ref
from hypersdk.simulator.world import World, now

SWEEP_S: Final = 0.1
"""How often idle sessions and forgotten leases are looked for."""


@dataclass(frozen=True, slots=True)
class HostEndpoint:
    """Where a host's data comes from; ``thumbprint`` is the SHA-1 of its certificate, as the API writes it."""

    address: str
    port: int
    thumbprint: str


class Platform:
    """The services of one simulator. ``root`` and ``endpoints`` are filled in while it is built and started."""

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self.esxi = config.esxi
        self.world = World()
        self.started = now()
        self.counters = Counters()
        self.faults = FaultBook()
        self.faults.arm(config.faults)
        self.address = "127.0.0.1"
        self.endpoints: dict[str, HostEndpoint] = {}
        self.root: Folder
        self.sessions = Sessions(
            self.world, config.username, config.password, config.session_idle_s, any_login=config.any_login
        )
        self.tasks = TaskManager(self.world, self.moref("", "TaskManager", "ha-taskmgr"), task_s=config.task_s)
        self.events = EventManager(self.world, self.moref("", "EventManager", "ha-eventmgr"))
        self._browsers: dict[str, DatastoreBrowser] = {}
        self._leases: dict[str, Lease] = {}  # by ticket
        self._snapshots = 0

    def moref(self, prefix: str, *fixed: str) -> str:
        """A fresh moref value, or one of the fixed ones: the first on a vCenter without prefix, the last on an ESXi
        host."""
        if not prefix:
            return fixed[-1] if self.esxi else fixed[0]
        return fixed[-1] if self.esxi and fixed else self.world.number(prefix)

    # Names and numbers that are the same for the same seed

    def _digest(self, kind: str, name: str) -> bytes:
        return hashlib.sha256(f"{self.config.seed}/{kind}/{name}".encode()).digest()

    def uuid(self, kind: str, name: str) -> str:
        """A UUID fixed for the thing."""
        return str(uuid_module.UUID(bytes=self._digest(kind, name)[:16], version=4))

    def number(self, kind: str, name: str) -> int:
        """A number fixed for the thing."""
        return int.from_bytes(self._digest(kind, name)[:4], "big")

    def mac(self, name: str) -> str:
        """A MAC address in the range that vCenter hands out (00:50:56:80-bf)."""
        digest = self._digest("mac", name)
        return f"00:50:56:{0x80 | digest[0] & 0x3F:02x}:{digest[1]:02x}:{digest[2]:02x}"

    def host_about(self) -> Data:
        """``AboutInfo`` of an ESXi host."""
        return about(esxi=True, instance_uuid="")

    # Hosts and their addresses

    def host_thumbprint(self, host: Host) -> str:
        """SHA-1 of the host's certificate."""
        return self.endpoints[host.ref.moref].thumbprint

    def host_address(self, host: Host) -> str:
        """The host's own address."""
        return self.endpoints[host.ref.moref].address

    def nfc_authority(self, host: Host) -> str:
        """Host and port in an NFC URL; an ESXi host does not name itself."""
        if self.esxi:
            return "*"
        endpoint = self.endpoints[host.ref.moref]
        return f"{endpoint.address}:{endpoint.port}"

    def browser_of(self, host: Host) -> DatastoreBrowser:
        """The host's browser of all its datastores."""
        if host.ref.moref not in self._browsers:
            stores = [store for store in host.datastores if isinstance(store, Datastore)]
            moref = self.moref("datastoreBrowser-", "ha-host-datastorebrowser")
            self._browsers[host.ref.moref] = DatastoreBrowser(self.world, moref, self, stores)
        return self._browsers[host.ref.moref]

    # Lookups

    def make_folder(self, name: str, parent: Entity, kinds: list[str]) -> Folder:
        """A folder; the fixed ones of an ESXi host have fixed names."""
        prefix = {"vm": "group-v", "host": "group-h", "datastore": "group-s", "network": "group-n"}.get(name, "group-v")
        if self.esxi and isinstance(parent, Datacenter):
            return Folder(self.world, f"ha-folder-{name}", self, name, parent, kinds)
        return Folder(self.world, self.world.number(prefix), self, name, parent, kinds)

    def machine(self, ref: Ref) -> Machine:
        """The machine of a reference. Raises MethodFault."""
        return self.world.get(ref, Machine)

    def machines(self) -> list[Machine]:
        """All machines."""
        return self.world.all(Machine)

    def task(self, ref: Ref) -> Task:
        """The task of a reference."""
        return self.world.get(ref, Task)

    def datastores(self, datacenter: Datacenter | None) -> list[Datastore]:
        """Datastores of a datacenter, or all."""
        return [store for store in self.world.all(Datastore) if datacenter is None or store.datacenter() is datacenter]

    def datastore_named(self, name: str | None, home: Datastore) -> Datastore:
        """The datastore of that name beside ``home``, or ``home``."""
        if name is None:
            return home
        found = next((store for store in self.datastores(home.datacenter()) if store.name == name), None)
        if found is None:
            raise ValueError(f"there is no datastore named {name}")
        return found

    def datastore_of_path(self, path: str, machine: Machine) -> Datastore | None:
        """The datastore that ``[name] path`` names, in the machine's datacenter."""
        stores = {store.name: store for store in self.datastores(machine.datacenter())}
        return stores.get(split_path(path, stores)[0])

    def datastore_path(self, path: str, datacenter: Ref | None) -> tuple[Datastore, str]:
        """Datastore and path of ``[name] path``. Raises MethodFault."""
        within = self.world.get(datacenter, Datacenter) if datacenter is not None else None
        stores = self.datastores(within)
        name, rest = split_path(path, [store.name for store in stores])
        store = next((store for store in stores if store.name == name), None)
        if store is None:
            raise MethodFault.of("InvalidDatastore", f"There is no datastore '{name}'.", name=name)
        return store, rest

    def iso_content(self, path: str, machine: Machine) -> DiskImage | bytes | None:
        """The content of an inserted image; ``None`` when it is gone."""
        store = self.datastore_of_path(path, machine)
        file = store.file(split_path(path, [store.name])[1]) if store else None
        return file.content if file else None

    # Machines come and go

    def snapshot(
        self, machine: Machine, name: str, description: str, *, quiesced: bool = False, memory: bool = False
    ) -> Snapshot:
        """Takes a snapshot of the machine; with ``memory`` a revert to it brings back a running machine."""
        self._snapshots += 1
        power = machine.power if memory else "poweredOff"
        moref = f"snapshot-{self._snapshots}"
        return Snapshot(
            self.world, moref, machine, name, description, quiesced=quiesced, power=power, serial=self._snapshots
        )

    def clone(self, call: Call, source: Machine) -> Ref:
        """Starts cloning. Raises MethodFault (DuplicateName)."""
        name, spec = call.args.name, call.args.spec
        folder = self.world.get(call.args.folder, Folder)
        stored = escape_name(name) if "%" not in name else name
        for sibling in folder.children():
            if sibling.name == stored:
                raise MethodFault.of(
                    "DuplicateName", f"The name '{name}' already exists.", name=name, object=sibling.ref
                )
        host = self.world.get(spec.location.host, Host) if spec.location.host else source.host
        store = self.world.get(spec.location.datastore, Datastore) if spec.location.datastore else source.home
        frozen = self.world.get(spec.snapshot, Snapshot) if spec.snapshot else None
        wanted = replace(source.spec, name=name, template=bool(spec.template), power="poweredOff", snapshots=())

        def work() -> Ref:
            store.need(sum(disk.image.allocated_bytes() for disk in source.disks))
            clone = self.add_machine(wanted, folder, host, store, source.networks)
            for disk, origin in zip(clone.disks, frozen.disks if frozen else source.disks, strict=False):
                disk.image = origin.image
            if spec.powerOn:
                clone.set_power_on(call)
            return clone.ref

        return source.start_task(call, work)

    def add_machine(
        self, spec: MachineSpec, folder: Folder, host: Host, store: Datastore, networks: list[Network]
    ) -> Machine:
        """A new machine in the inventory."""
        moref = self.world.number("vm-")
        machine = Machine(self.world, moref, self, spec, folder, host, store, networks)
        for name in spec.snapshots:
            self.snapshot(machine, name, f"{name}, taken for the simulator")
        return machine

    def forget_machine(self, machine: Machine) -> None:
        """Deletes a machine with its files."""
        for snapshot in list(machine.snapshots):
            snapshot.remove(children=True)
        for store in machine.datastores():
            store.machines.pop(machine.folder_name, None)
        machine.host.machines.remove(machine)
        if isinstance(machine.parent, Folder):
            machine.parent.take(machine)
        self.world.remove(machine)
        self.events.post("VmRemovedEvent", f"Removed {machine.name} on {machine.host.name}", machine=machine)

    # Leases

    def open_lease(self, call: Call, machine: Machine, snapshot: Snapshot | None) -> Ref:
        """Starts an export; the lease is found by its ticket from here on."""
        lease = leases.open_lease(self, call, machine, snapshot)
        self._leases[lease.ticket] = lease
        return lease.ref

    def close_lease(self, lease: Lease) -> None:
        """The machine is free, the ticket void."""
        self._leases.pop(lease.ticket, None)
        if lease.machine.lease is lease:
            lease.machine.lease = None

    def lease(self, ticket: str) -> Lease | None:
        """The open lease of a ticket."""
        return self._leases.get(ticket)

    def sweep(self) -> None:
        """Ends what was left alone for too long, and looks again a moment later."""
        self.sessions.sweep()
        for lease in list(self._leases.values()):
            if lease.expired():
                lease.end(MethodFault.of("Timedout", "The lease timed out: it was not renewed in time."))
        self.world.later(SWEEP_S, self.sweep)
