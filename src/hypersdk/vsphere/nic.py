"""Disconnecting a machine's network cards, so that a copy of it may use their MAC addresses, and reconnecting them.

A card is disconnected now, and stays so when the machine is powered on: both flags of *VirtualDeviceConnectInfo* are
cleared.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hypersdk.errors import NotRestored
from hypersdk.model import Power
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.cdrom import edit_devices
from hypersdk.vsphere.devices import is_nic, label_of
from hypersdk.vsphere.inventory import DEVICES, power_of
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.soap import ObjectProperties, child_text, read_one, to_int

LOG: Final = logging.getLogger(__name__)
_POWER: Final = "runtime.powerState"


@dataclass(frozen=True, slots=True)
class NicChange:
    """A network card before it was disconnected; JSON-able. ``key`` is the device key."""

    key: int
    label: str
    connected: bool
    start_connected: bool

    @property
    def on_network(self) -> bool:
        """Whether it is connected, or will be at the next power-on."""
        return self.connected or self.start_connected


def disconnect_nics(
    session: Session, moref: str, *, before: Callable[[list[NicChange]], None], cancel: CancelToken
) -> None:
    """Disconnects all network cards of a machine in one reconfiguration. ``before`` is called first with the changes
    that ``reconnect_nics`` needs, unless no card is connected. A cancel waits for the end of the task."""
    found = [card for card in _cards(_read(session, moref, cancel)) if card.on_network]
    if not found:
        return
    before(found)
    _edit(session, moref, {card.key: (False, False) for card in found}, cancel)


def reconnect_nics(session: Session, moref: str, changes: Sequence[NicChange], *, cancel: CancelToken) -> None:
    """Restores the connection flags of network cards. One that has them already is skipped.

    A card is connected only while the machine runs. Raises NotRestored for cards that no longer exist, after all
    others are restored.
    """
    found = _read(session, moref, cancel)
    runs = power_of(found.text(_POWER)) is Power.ON
    now = {card.key: card for card in _cards(found)}
    wanted = {card.key: (card.connected and runs, card.start_connected) for card in changes if card.key in now}
    due = {key: flags for key, flags in wanted.items() if (now[key].connected, now[key].start_connected) != flags}
    if due:
        _edit(session, moref, due, cancel)
    if gone := [card.label for card in changes if card.key not in now]:
        raise NotRestored(
            f"{moref} no longer has the network card: {', '.join(gone)}",
            cause="Somebody removed the card while it was disconnected.",
        )


def is_on_network(session: Session, moref: str, *, cancel: CancelToken) -> bool:
    """Whether the machine is powered on with a connected network card. One that is suspended counts as powered on."""
    found = _read(session, moref, cancel)
    return power_of(found.text(_POWER)) is not Power.OFF and any(card.connected for card in _cards(found))


def _read(session: Session, moref: str, cancel: CancelToken) -> ObjectProperties:
    return read_one(session, "VirtualMachine", moref, [_POWER, DEVICES], cancel=cancel)


def _cards(found: ObjectProperties) -> list[NicChange]:
    return [
        NicChange(
            to_int(child_text(device, "key")) or 0,
            label_of(device),
            child_text(device, "connectable", "connected") == "true",
            child_text(device, "connectable", "startConnected") == "true",
        )
        for device in found.items(DEVICES)
        if is_nic(device)
    ]


def _edit(session: Session, moref: str, flags: Mapping[int, tuple[bool, bool]], cancel: CancelToken) -> None:
    """Sets ``connected`` and ``startConnected`` of cards by their key. A device is edited as a whole: its other values
    are those that the server returned."""
    machine = session.ref("VirtualMachine", moref)
    devices: list[Any] = []
    for device in session.call(lambda: machine.config.hardware.device):
        if device.key in flags:
            device.connectable.connected, device.connectable.startConnected = flags[device.key]
            devices.append(device)
    edit_devices(session, moref, devices, cancel)
