"""The simulator as a whole: build, start, inspect, stop."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from hypersdk.errors import UsageError
from hypersdk.simulator.authorization import PRIVILEGES
from hypersdk.simulator.certificate import Authority, ServerCertificate
from hypersdk.simulator.config import MachineSpec, SimulatorConfig
from hypersdk.simulator.content import DiskImage
from hypersdk.simulator.counters import Counters
from hypersdk.simulator.datacenter import Datacenter
from hypersdk.simulator.fault import MethodFault
from hypersdk.simulator.faults import Fault, FaultBook, FaultKind
from hypersdk.simulator.hosts import Host
from hypersdk.simulator.httpd import Listener, Site, listen
from hypersdk.simulator.inventory import build
from hypersdk.simulator.lease import open_leases
from hypersdk.simulator.machine import SimulatedMachine, add_machine
from hypersdk.simulator.platform import HostEndpoint, Platform
from hypersdk.simulator.routes import SimulatorRouter
from hypersdk.simulator.storage import datastore_named, datastores
from hypersdk.simulator.world import now
from hypersdk.units import MiB

_LISTEN_CAUSES: Final = {
    errno.EADDRINUSE: "Another program listens there, perhaps another simulator.",
    errno.EADDRNOTAVAIL: "This machine has no such address.",
    errno.EACCES: "Ports below 1024 need root.",
}
FIRST_HOST_ADDRESS: Final = 2
"""ESXi hosts listen on 127.0.0.2, 127.0.0.3 ... when vCenter listens on 127.0.0.1."""


SWEEP_S: Final = 0.1
"""How often idle sessions and leases that were not renewed are ended."""


@dataclass(frozen=True, slots=True)
class KnownNames:
    """What can be named in a fault: ``disks`` holds ``machine`` and ``machine:index``."""

    hosts: frozenset[str]
    disks: frozenset[str]
    datastores: frozenset[str]
    privileges: frozenset[str]


class Simulator:
    """A simulated vCenter or ESXi host. Use it as a context manager, or ``start`` and ``stop`` it."""

    def __init__(self, config: SimulatorConfig | None = None) -> None:
        self.config = config or SimulatorConfig()
        self.host, self._wanted_port = _split(self.config.listen)
        self.port = 0
        self._platform = Platform(self.config)
        self._platform.address = self.host
        build(self._platform)
        self._authority = Authority()
        self._certificate = self._authority.issue(
            "vcenter.example.com", ["localhost", "vcenter.example.com", self.host]
        )
        self._listener = Listener(SimulatorRouter(self._platform), self._platform.counters.connected)
        self._sites: dict[str, tuple[Site, socket.socket | None]] = {}  # by the host's moref

    def __enter__(self) -> Simulator:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Opens the listeners. Raises UsageError when an address is in use or not this machine's."""
        try:
            self._open()
        except UsageError:
            self._listener.stop()
            raise
        self._platform.world.start()
        self._platform.world.later(0, self._sweep)
        self._listener.start()
        self._apply_routes()

    def _open(self) -> None:
        main = _listen(self.host, self._wanted_port)
        self.port = main.getsockname()[1]
        self._listener.add(main, Site(self.host, self.port, self._certificate.context(), None))
        for number, host in enumerate(self._hosts()):
            self._open_host(number, host)

    def stop(self) -> None:
        """Ends all connections and threads. Has no effect when stopped already."""
        self._platform.world.stop()
        self._listener.stop()

    def _sweep(self) -> None:
        """Ends idle sessions and leases that were not renewed, and looks again a moment later."""
        world = self._platform.world
        self._platform.sessions.sweep()
        for lease in open_leases(world):
            if lease.expired():
                lease.end(MethodFault.of("Timedout", "The lease timed out: it was not renewed in time."))
        world.later(SWEEP_S, self._sweep)

    # What a client needs to know

    @property
    def url(self) -> str:
        """``https://127.0.0.1:PORT/sdk``."""
        return f"https://{self.authority_part}/sdk"

    @property
    def authority_part(self) -> str:
        """``HOST:PORT``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def username(self) -> str:
        """The one account."""
        return self.config.username

    @property
    def password(self) -> str:
        """Its password. Not a secret: it gives access to nothing else."""
        return self.config.password.reveal()

    @property
    def thumbprint_sha256(self) -> str:
        """SHA-256 of vCenter's certificate, ``AB:CD:...``."""
        return self._certificate.sha256

    @property
    def thumbprint_sha1(self) -> str:
        """SHA-1 of vCenter's certificate, ``AB:CD:...``."""
        return self._certificate.sha1

    @property
    def ca_pem(self) -> bytes:
        """The authority that signed all certificates here, for a CA bundle."""
        return self._authority.pem

    # Inspection

    @property
    def counters(self) -> Counters:
        """Counts of what was served."""
        return self._platform.counters

    @property
    def faults(self) -> FaultBook:
        """The active faults, and how often each kind was applied."""
        return self._platform.faults

    @property
    def platform(self) -> Platform:
        """The inventory itself. Hold ``platform.world.lock`` while using it."""
        return self._platform

    def reset_counters(self) -> None:
        """Sets all counters to zero."""
        self._platform.counters.reset()

    def set_faults(self, *faults: Fault) -> None:
        """Replaces the active faults; without arguments there are none."""
        self._platform.faults.arm(faults)
        self._apply_routes()

    def vm(self, name: str) -> SimulatedMachine:
        """The machine of that name, as the user typed it. Raises KeyError when there is none, or more than one."""
        with self._platform.world.lock:
            found = [machine for machine in self._machines() if machine.spec.name == name or machine.name == name]
        if len(found) != 1:
            raise KeyError(f"{len(found)} machines are named {name!r}")
        return found[0]

    def known_names(self) -> KnownNames:
        """The names that faults and denied privileges may use."""
        with self._platform.world.lock:
            machines = self._machines()
            disks = {f"{machine.spec.name}:{disk.index}" for machine in machines for disk in machine.disks}
            return KnownNames(
                hosts=frozenset(host.name for host in self._hosts()),
                disks=frozenset(disks | {machine.spec.name for machine in machines}),
                datastores=frozenset(store.name for store in datastores(self._platform.world)),
                privileges=frozenset(PRIVILEGES),
            )

    def machine_names(self) -> list[str]:
        """Names of all machines."""
        with self._platform.world.lock:
            return [machine.name for machine in self._machines()]

    def disk_image(self, name: str, index: int = 0, *, snapshot: str | None = None) -> DiskImage:
        """A disk's content now, or at the snapshot of that name."""
        machine = self.vm(name)
        with self._platform.world.lock:
            if snapshot is None:
                return machine.disks[index].image
            frozen = next(saved for saved in machine.all_snapshots() if saved.name == snapshot)
            return frozen.disks[index].image

    def write_raw(self, name: str, index: int, path: Path, *, snapshot: str | None = None) -> None:
        """Writes what a correct export must contain, as a sparse raw file."""
        image = self.disk_image(name, index, snapshot=snapshot)
        with path.open("wb") as file:
            file.truncate(image.capacity_bytes)
            for start, length in image.extents():
                file.seek(start)
                for offset in range(start, start + length, MiB):
                    file.write(image.read(offset, min(MiB, start + length - offset)))

    def change_disk(self, name: str, index: int = 0, blocks: Iterable[int] = range(4)) -> None:
        """Gives some 64 KiB blocks of a disk new content, as a running guest does. Snapshots keep the old."""
        machine = self.vm(name)
        with self._platform.world.lock:
            disk = machine.disks[index]
            disk.image = disk.image.changed(list(blocks))
            disk.written = now()
            machine.refresh_disk_devices()
            machine.touch()

    def power_cycle(self, name: str) -> None:
        """Powers a machine on and off again, without the client."""
        machine = self.vm(name)
        with self._platform.world.lock:
            machine.set_power(None, "poweredOn")
            machine.set_power(None, "poweredOff")

    def add_machine(self, spec: MachineSpec) -> SimulatedMachine:
        """Adds a machine, in the first datacenter."""
        with self._platform.world.lock:
            datacenter = self._platform.world.all(Datacenter)[0]
            hosts = [host for host in self._hosts() if host.datacenter() is datacenter]
            host = hosts[spec.host % len(hosts)]
            stores = datastores(self._platform.world, datacenter)
            store = datastore_named(spec.datastore, stores[0])
            networks = [host.networks[index % len(host.networks)] for index in range(spec.nics)]
            return add_machine(self._platform, spec, datacenter.vm_folder, host, store, networks)

    def end_sessions(self) -> None:
        """Ends all sessions, as a restart of the service does."""
        with self._platform.world.lock:
            for session in self._platform.sessions.all():
                self._platform.sessions.end(session)

    def state(self) -> dict[str, Any]:
        """The state that an export must restore: machines and files, without times, tasks, events or sessions."""
        with self._platform.world.lock:
            machines = {machine.path(): _machine_state(machine) for machine in self._machines()}
            files = {
                store.path(): sorted((file.path, file.size_bytes) for file in store.uploads.values())
                for store in datastores(self._platform.world)
            }
        return {"machines": machines, "files": files}

    # Hosts

    def _machines(self) -> list[SimulatedMachine]:
        return self._platform.world.all(SimulatedMachine)

    def _hosts(self) -> list[Host]:
        return self._platform.world.all(Host)

    def _open_host(self, number: int, host: Host) -> None:
        """A listener and a certificate for an ESXi host. In ESXi mode the host is the server itself."""
        key = host.ref.moref
        if self.config.esxi:
            self._platform.endpoints[key] = HostEndpoint(self.host, self.port, self.thumbprint_sha1)
            return
        address = self._host_address(number)
        listening = _listen(address, self._host_port(address))
        port = listening.getsockname()[1]
        certificate: ServerCertificate = self._authority.issue(host.name, [host.name, address])
        site = Site(address, port, certificate.context(), key)
        self._platform.endpoints[key] = HostEndpoint(address, port, certificate.sha1)
        self._sites[key] = (site, listening)
        self._listener.add(listening, site)

    def _host_address(self, number: int) -> str:
        """An address of its own on the loopback network; elsewhere the server's address, on another port."""
        if not ipaddress.ip_address(self.host).is_loopback or ":" in self.host:
            return self.host
        return str(ipaddress.ip_address("127.0.0.0") + FIRST_HOST_ADDRESS + number)

    def _host_port(self, address: str) -> int:
        """The same port on another address, where the port was chosen by the user."""
        return self._wanted_port if address != self.host else 0

    def _apply_routes(self) -> None:
        """Closes the listeners of hosts that shall be unreachable, and opens those that shall not."""
        down = [fault.host for fault in self._platform.faults.standing(FaultKind.UNREACHABLE)]
        for host in self._hosts():
            if host.ref.moref not in self._sites:
                continue
            site, listening = self._sites[host.ref.moref]
            unreachable = None in down or host.name in down
            if unreachable and listening is not None:
                self._listener.discard(listening)
                self._sites[host.ref.moref] = (site, None)
            elif not unreachable and listening is None:
                again = listen(site.address, site.port)
                self._sites[host.ref.moref] = (site, again)
                self._listener.add(again, site)


def _split(listen_on: str) -> tuple[str, int]:
    """Host and port of ``127.0.0.1:8989`` or ``[::1]:8989``. Raises UsageError."""
    host, _, port = listen_on.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is None or not port.isdecimal() or int(port) > 65535:
        raise UsageError(
            f"'{listen_on}' is not an address to listen on",
            cause="It is not a numeric address and a port.",
            next_step="Write it like 127.0.0.1:8989 or [::1]:8989; port 0 takes any free one.",
        )
    if address.is_unspecified:
        raise UsageError(
            f"'{host}' names all addresses of this machine",
            cause=(
                "The simulator's answers name the address at which its ESXi hosts are reached: it has to be a single"
                " one."
            ),
            next_step="Give the one address by which clients will reach it, such as 127.0.0.1.",
        )
    return host, int(port)


def _listen(address: str, port: int) -> socket.socket:
    try:
        return listen(address, port)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {address} port {port}: {error.strerror}",
            cause=_LISTEN_CAUSES.get(error.errno or 0, "The system does not allow it."),
            next_step="Choose another one with --listen ADDRESS:PORT; port 0 takes any free one.",
        ) from error


def _machine_state(machine: SimulatedMachine) -> dict[str, Any]:
    return {
        "moref": machine.ref.moref,
        "power": machine.power,
        "template": machine.template,
        "cpus": machine.cpus,
        "memory_mb": machine.memory_mb,
        "annotation": machine.annotation,
        "cbt": machine.cbt,
        "extra": dict(machine.extra),
        "devices": [device.plain() for device in machine.device_list],
        "snapshots": [(saved.ref.moref, saved.name, saved.description) for saved in machine.all_snapshots()],
        "current_snapshot": machine.current.ref.moref if machine.current else None,
        "lease_open": machine.lease is not None,
        "busy": machine.busy is not None and machine.busy.running,
        "consolidation_needed": machine.consolidation_needed,
        "files": sorted(file.path for store in machine.datastores() for file in machine.files_on(store)),
    }
