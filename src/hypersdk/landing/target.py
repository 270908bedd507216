"""The target of a landing: its connection, and what guests can have there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hypersdk.guest.acceleration import DEVICE, QEMU, probe_kvm
from hypersdk.guest.tools import find_tools
from hypersdk.kvm.capabilities import HypervisorFacts, read_facts
from hypersdk.kvm.connection import Connection, open_connection
from hypersdk.kvm.preflight import TargetInventory, read_inventory
from hypersdk.landing.options import LandOptions
from hypersdk.landing.request import LandingRequest
from hypersdk.transfer.cancel import CancelToken


@dataclass(frozen=True, slots=True)
class Target:
    """An open connection, and the facts of the hypervisor."""

    connection: Connection
    facts: HypervisorFacts

    def inventory(self, options: LandOptions) -> TargetInventory:
        """What is there now: all domains and networks, and the bridges that ``options`` name. It takes as many calls as
        there are domains: read it once for all machines of a command. Raises the errors of a connection."""
        return read_inventory(self.connection, bridges=options.bridges)


@contextmanager
def open_target(request: LandingRequest, *, cancel: CancelToken) -> Iterator[Target]:
    """Connects and reads the facts. Raises what ``open_connection`` and ``read_facts`` do."""
    with open_connection(request.address, cancel=cancel) as connection:
        yield Target(connection, _facts(connection, request.options.accelerated, cancel))


def _facts(connection: Connection, accelerated: bool | None, cancel: CancelToken) -> HypervisorFacts:
    """libvirt offers KVM where ``/dev/kvm`` exists, also where it does not work. On this machine it is tried."""
    facts = read_facts(connection, accelerated=accelerated)
    local = connection.address.is_here
    if accelerated is None and facts.accelerated and local and _kvm_fails(cancel):
        return read_facts(connection, accelerated=False)
    return facts


def _kvm_fails(cancel: CancelToken) -> bool:
    """Whether KVM was tried and does not work. False where it cannot be tried by this user: QEMU runs as another."""
    tools = find_tools()
    return QEMU in tools.paths and os.access(DEVICE, os.R_OK | os.W_OK) and not probe_kvm(tools, cancel=cancel).works
