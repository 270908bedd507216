"""The simulator as a whole: build, start, inspect, stop."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from hypersdk.errors import UsageError
from hypersdk.net.address import host_port, ip_address, split_host_port
from hypersdk.simulator.certificate import Authority
from hypersdk.simulator.config import MachineSpec, SimulatorConfig
from hypersdk.simulator.content import DiskImage
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.simulator.hosts import Host, HostEndpoint
from hypersdk.simulator.httpd import Listener, Site, listen
from hypersdk.simulator.inventory import build, place_machine
from hypersdk.simulator.lease import open_leases
from hypersdk.simulator.machine import SimulatedMachine
from hypersdk.simulator.platform import Platform
from hypersdk.simulator.routes import SimulatorRouter
from hypersdk.simulator.storage import datastores
from hypersdk.simulator.values import MethodFault
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


class Simulator:
    """A simulated vCenter or ESXi host. Use it as a context manager, or ``start`` and ``stop`` it.

    ``username`` and ``password`` are the one account's: no secrets, as they give access to nothing else. The
    thumbprints are those of vCenter's certificate, ``AB:CD:...``; ``ca_pem`` is the authority that signed all
    certificates here, for a CA bundle. ``platform`` is the inventory itself: hold ``platform.world.lock`` while using
    it. ``counters`` count what was served; ``faults`` are the active faults, with how often each kind was applied.
    """

    def __init__(self, config: SimulatorConfig | None = None) -> None:
        self.config = config or SimulatorConfig()
        self.host, self._wanted_port = _split(self.config.listen)
        self.port = 0
        self.username = self.config.username
        self.password = self.config.password.reveal()
        self.platform = Platform(self.config)
        self.platform.address = self.host
        self._world = self.platform.world
        self.counters = self.platform.counters
        self.faults = self.platform.faults
        build(self.platform)
        self._authority = Authority()
        certificate = self._authority.issue("vcenter.example.com", ["localhost", "vcenter.example.com", self.host])
        self.thumbprint_sha256 = certificate.sha256
        self.thumbprint_sha1 = certificate.sha1
        self.ca_pem = self._authority.pem
        self._context = certificate.context
        self._listener = Listener(SimulatorRouter(self.platform), self.counters.connected)
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
            main = _listen(self.host, self._wanted_port)
            self.port = main.getsockname()[1]
            self._listener.add(main, Site(self.host, self.port, self._context, None))
            for number, host in enumerate(self._world.all(Host)):
                self._open_host(number, host)
        except UsageError:
            self._listener.stop()
            raise
        self._world.start()
        self._world.later(0, self._sweep)
        self._listener.start()
        self._apply_routes()

    def stop(self) -> None:
        """Ends all connections and threads. Has no effect when stopped already."""
        self._world.stop()
        self._listener.stop()

    def _sweep(self) -> None:
        """Ends idle sessions and leases that were not renewed, and schedules the next sweep."""
        self.platform.sessions.sweep()
        for lease in open_leases(self._world):
            if lease.expired():
                lease.end(MethodFault.of("Timedout", "The lease timed out: it was not renewed in time."))
        self._world.later(SWEEP_S, self._sweep)

    # What a client needs to know

    @property
    def url(self) -> str:
        """``https://127.0.0.1:PORT/sdk``."""
        return f"https://{self.authority_part}/sdk"

    @property
    def authority_part(self) -> str:
        """``HOST:PORT``."""
        return host_port(self.host, self.port)

    # Inspection

    def reset_counters(self) -> None:
        """Sets all counters to zero."""
        self.counters.reset()

    def set_faults(self, *faults: Fault) -> None:
        """Replaces the active faults; without arguments there are none."""
        self.faults.arm(faults)
        self._apply_routes()

    def vm(self, name: str) -> SimulatedMachine:
        """The machine of that name, as the user typed it. Raises KeyError when there is none, or more than one."""
        with self._world.lock:
            found = [
                machine
                for machine in self._world.all(SimulatedMachine)
                if machine.spec.name == name or machine.name == name
            ]
        if len(found) != 1:
            raise KeyError(f"{len(found)} machines are named {name!r}")
        return found[0]

    def disk_image(self, name: str, index: int = 0, *, snapshot: str | None = None) -> DiskImage:
        """A disk's content now, or at the snapshot of that name."""
        machine = self.vm(name)
        with self._world.lock:
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
        with self._world.lock:
            disk = machine.disks[index]
            disk.image = disk.image.changed(blocks)
            disk.written = now()
            machine.refresh_disk_devices()

    def power_cycle(self, name: str) -> None:
        """Powers a machine on and off again, without the client."""
        machine = self.vm(name)
        with self._world.lock:
            machine.set_power(None, "poweredOn")
            machine.set_power(None, "poweredOff")

    def add_machine(self, spec: MachineSpec) -> SimulatedMachine:
        """Adds a machine."""
        with self._world.lock:
            return place_machine(self.platform, spec)

    def end_sessions(self) -> None:
        """Ends all sessions, as a restart of the service does."""
        with self._world.lock:
            for session in self.platform.sessions.all():
                self.platform.sessions.end(session)

    def state(self) -> dict[str, Any]:
        """The state that an export must restore: machines and files, without times, tasks, events or sessions."""
        with self._world.lock:
            machines = {machine.path(): _machine_state(machine) for machine in self._world.all(SimulatedMachine)}
            files = {
                store.path(): sorted((file.path, file.size_bytes) for file in store.uploads.values())
                for store in datastores(self._world)
            }
        return {"machines": machines, "files": files}

    # Hosts

    def _open_host(self, number: int, host: Host) -> None:
        """A listener and a certificate for an ESXi host. In ESXi mode the host is the server itself."""
        if self.config.esxi:
            host.endpoint = HostEndpoint(self.host, self.port, self.thumbprint_sha1)
            return
        key, address, port = host.ref.moref, self.host, 0
        if ipaddress.ip_address(self.host).is_loopback and ":" not in self.host:
            # an address of its own, with the port that the user chose
            address = str(ipaddress.ip_address("127.0.0.0") + FIRST_HOST_ADDRESS + number)
            port = self._wanted_port
        listening = _listen(address, port)
        port = listening.getsockname()[1]
        certificate = self._authority.issue(host.name, [host.name, address])
        site = Site(address, port, certificate.context, key)
        host.endpoint = HostEndpoint(address, port, certificate.sha1)
        self._sites[key] = (site, listening)
        self._listener.add(listening, site)

    def _apply_routes(self) -> None:
        """Closes the listeners of unreachable hosts, and opens those of the others."""
        down = [fault.host for fault in self.faults.standing(FaultKind.UNREACHABLE)]
        for host in self._world.all(Host):
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
    host, port = split_host_port(listen_on)
    host = "127.0.0.1" if host == "localhost" else host
    address = ip_address(host)
    if address is None or port is None or port > 65535:
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
    return host, port


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
        "devices": machine.device_list,
        "snapshots": [(saved.ref.moref, saved.name, saved.description) for saved in machine.all_snapshots()],
        "current_snapshot": machine.current.ref.moref if machine.current else None,
        "lease_open": machine.lease is not None,
        "busy": machine.busy is not None and machine.busy.running,
        "consolidation_needed": machine.consolidation_needed,
        "files": sorted(file.path for store in machine.datastores() for file in machine.files_on(store)),
    }
