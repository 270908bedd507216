"""HostAutoStartManager: which machines start with their host. The settings are stored and reported without effect: a
simulated host does not restart."""

from __future__ import annotations

from collections.abc import Sequence

from hypersdk.simulator.fault import MethodFault
from hypersdk.simulator.managed import Call, Managed, operation, prop
from hypersdk.simulator.values import Data
from hypersdk.simulator.world import World, WorldObject


class AutoStartManager(Managed, api_type="HostAutoStartManager"):
    """Of one host. libvirt reads it without checking that the host has one, and crashes if it has not."""

    def __init__(self, world: World, moref: str, machines: Sequence[WorldObject]) -> None:
        self._on_host = machines
        self._defaults = Data(
            "AutoStartDefaults",
            enabled=False,
            startDelay=120,
            stopDelay=120,
            waitForHeartbeat=False,
            stopAction="powerOff",
        )
        self._powers: dict[str, Data] = {}  # by moref of the machine
        super().__init__(world, moref)

    @prop("config")
    def _config(self) -> Data:
        here = {machine.ref.moref for machine in self._on_host}
        infos = [info for moref, info in self._powers.items() if moref in here]
        return Data("HostAutoStartManagerConfig", defaults=self._defaults, powerInfo=infos)

    @operation("ReconfigureAutostart", privilege="Host.Config.AutoStart")
    def _reconfigure(self, call: Call) -> None:
        spec = call.args.spec
        here = {machine.ref for machine in self._on_host}
        infos = spec.powerInfo or []
        if any(info.key not in here for info in infos):
            raise MethodFault.of(
                "InvalidArgument", "The machine is not on this host.", invalidProperty="spec.powerInfo.key"
            )
        if spec.defaults is not None:
            given = {name: value for name, value in spec.defaults.fields.items() if value is not None}
            self._defaults = self._defaults.replace(**given)
        self._powers.update({info.key.moref: info for info in infos})
        self.touch()
