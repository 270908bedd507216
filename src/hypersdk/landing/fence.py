"""Two machines with the same MAC addresses are never on the network together.

::

    the landed machine is not started     nothing is fenced; that the source runs on is a warning
    started (or by its host), and
      its cards get new addresses         the source runs on
      the source is off, or will be       powered off or shut down for the copy, and stays off
      its cards will be disconnected      before the copy, and stay disconnected
      none of these                       refused

A change at the source is undone if the migration fails, and final before the landed machine starts
(``migration.hold``). Right before that the source is looked at once more.
"""

from __future__ import annotations

from enum import StrEnum

from hypersdk.errors import Refused
from hypersdk.landing.options import LandOptions
from hypersdk.migration.hold import SOURCE_ON_NETWORK
from hypersdk.migration.spec import ExportSpec, SourceState
from hypersdk.model import Machine, Power


class Fence(StrEnum):
    """What keeps the two apart; the values are for users."""

    NOT_STARTED = "left as it is"
    SOURCE_OFF = "source off"
    POWERED_OFF = "source powered off"
    SHUT_DOWN = "source shut down"
    DISCONNECTED = "source disconnected"
    NEW_ADDRESSES = "new MAC addresses"
    NO_NETWORK = "no network card"


_STOPPED = {SourceState.POWER_OFF: Fence.POWERED_OFF, SourceState.SHUTDOWN: Fence.SHUT_DOWN}


def needs_fence(options: LandOptions) -> bool:
    """Whether the landed machine comes on the network: now, or when its host starts."""
    return options.start or options.autostart


def fence_of(machine: Machine, spec: ExportSpec, options: LandOptions) -> Fence:
    """What keeps ``machine``, as it is now, apart from the machine that it becomes. Raises Refused
    ``source_on_network``."""
    if not needs_fence(options):
        return Fence.NOT_STARTED
    if not machine.nics:
        return Fence.NO_NETWORK
    if options.new_macs:
        return Fence.NEW_ADDRESSES
    if spec.disconnect:
        return Fence.DISCONNECTED
    if machine.power is Power.OFF:
        return Fence.SOURCE_OFF
    if machine.power is Power.ON and spec.state in _STOPPED:
        return _STOPPED[spec.state]
    if not any(nic.connected for nic in machine.nics):
        return Fence.DISCONNECTED
    raise Refused(
        f"'{machine.name}' is powered on and connected, and the landed machine would have its MAC addresses",
        code=SOURCE_ON_NETWORK,
    )
