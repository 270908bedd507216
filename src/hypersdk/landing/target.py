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
from hypersdk.kvm.define import is_ours
from hypersdk.landing.record import LAND, LandingRecord
from hypersdk.landing.request import LandingRequest
from hypersdk.transfer.cancel import CancelToken


@dataclass(frozen=True, slots=True)
class Target:
    """An open connection, and the facts of the hypervisor."""

    connection: Connection
    facts: HypervisorFacts

    def has_landed(self, landing: LandingRecord) -> bool:
        """Whether the domain of ``landing`` is here."""
        step = landing.steps.get(LAND)
        uuid = None if step is None else step.result.get("uuid")
        return uuid is not None and is_ours(self.connection, str(uuid), landing.landing_id)


@contextmanager
def open_target(request: LandingRequest, *, cancel: CancelToken) -> Iterator[Target]:
    """Connects and reads the facts. Raises what ``open_connection`` and ``read_facts`` do."""
    with open_connection(request.address, cancel=cancel) as connection:
        yield Target(connection, _facts(connection, request.options.accelerated, cancel))


def _facts(connection: Connection, accelerated: bool | None, cancel: CancelToken) -> HypervisorFacts:
    """libvirt offers KVM where ``/dev/kvm`` exists, also where it does not work. On this machine it is tried."""
    facts = read_facts(connection, accelerated=accelerated)
    local = connection.address.is_local and not connection.address.simulated
    if accelerated is None and facts.accelerated and local and _kvm_fails(cancel):
        return read_facts(connection, accelerated=False)
    return facts


def _kvm_fails(cancel: CancelToken) -> bool:
    """Whether KVM was tried and does not work. False where it cannot be tried by this user: QEMU runs as another."""
    tools = find_tools()
    return QEMU in tools.paths and os.access(DEVICE, os.R_OK | os.W_OK) and not probe_kvm(tools, cancel=cancel).works
