"""What all objects of one simulator share: settings, faults, counters, sessions, tasks, events, and values that follow
from the seed. It knows nothing of the inventory, which is built on it."""

from __future__ import annotations

import hashlib
import uuid as uuid_module
from typing import Any

from hypersdk.simulator.config import SimulatorConfig
from hypersdk.simulator.counters import Counters
from hypersdk.simulator.events import EventManager
from hypersdk.simulator.faults import FaultBook
from hypersdk.simulator.managed import Managed
from hypersdk.simulator.session import SimulatedSessions
from hypersdk.simulator.tasks import TaskManager
from hypersdk.simulator.world import World, now


class Platform:
    """The services of one simulator."""

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self.esxi = config.esxi
        self.world = World()
        self.started = now()
        self.counters = Counters()
        self.faults = FaultBook()
        self.faults.arm(config.faults)
        self.address = "127.0.0.1"
        self.sessions = SimulatedSessions(self.world, config)
        self.tasks = TaskManager(self.world, self.fixed_moref("TaskManager", "ha-taskmgr"), task_s=config.task_s)
        self.events = EventManager(self.world, self.fixed_moref("EventManager", "ha-eventmgr"))

    def moref(self, prefix: str, esxi: str) -> str:
        """A new moref value on a vCenter, a fixed one on an ESXi host."""
        return esxi if self.esxi else self.world.number(prefix)

    def fixed_moref(self, vcenter: str, esxi: str) -> str:
        """The moref value of a singleton."""
        return esxi if self.esxi else vcenter

    # Values fixed by the seed

    def _digest(self, kind: str, name: str) -> bytes:
        return hashlib.sha256(f"{self.config.seed}/{kind}/{name}".encode()).digest()

    def uuid(self, kind: str, name: str) -> str:
        """A UUID fixed for that kind and name."""
        return str(uuid_module.UUID(bytes=self._digest(kind, name)[:16], version=4))

    def number(self, kind: str, name: str) -> int:
        """A number fixed for that kind and name."""
        return int.from_bytes(self._digest(kind, name)[:4], "big")

    def mac(self, name: str) -> str:
        """A MAC address in the range that vCenter hands out (00:50:56:80-bf)."""
        digest = self._digest("mac", name)
        return f"00:50:56:{0x80 | digest[0] & 0x3F:02x}:{digest[1]:02x}:{digest[2]:02x}"


class PlatformObject(Managed):
    """A managed object that uses the services of its simulator."""

    def __init__(self, platform: Platform, moref: str, **values: Any) -> None:
        self.platform = platform
        super().__init__(platform.world, moref, **values)
