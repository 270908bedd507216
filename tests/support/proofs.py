"""Domains of test guests for boot proofs, and what a proof must leave as it was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from hypersdk.kvm.address import parse_libvirt_address
from hypersdk.kvm.connection import Connection, open_connection
from hypersdk.kvm.prove import Boot, ProofOptions, boot_domain
from hypersdk.transfer.cancel import CancelToken
from tests.support.guests.domains import domain_xml
from tests.support.guests.guest import Guest
from tests.support.libvirtd import Libvirtd

LONG_S = 240.0
"""A time limit for guests that end sooner: a loaded machine must not decide."""
NAME = "landed"


@contextmanager
def connected(libvirtd: Libvirtd) -> Iterator[Connection]:
    """A connection of the product."""
    with open_connection(parse_libvirt_address(libvirtd.uri), cancel=CancelToken()) as opened:
        yield opened


def landed(
    libvirtd: Libvirtd, guest: Guest, folder: Path, *, devices: str = "", serial: bool = True, **layout: Any
) -> str:
    """Defines the guest's domain, with ``devices`` more or without its serial port; returns its UUID."""
    definition = folder / "domain.xml"
    text = domain_xml(guest, NAME, folder, **{"bus": "sata", **layout})
    if not serial:
        text = re.sub("<serial.*</serial>", "", text, flags=re.DOTALL)
    definition.write_text(text.replace("</devices>", f"{devices}</devices>"))
    libvirtd.virsh("define", definition)
    return libvirtd.virsh("domuuid", NAME).strip()


def state_of(libvirtd: Libvirtd, folder: Path, uuid: str) -> list[object]:
    """All that a proof must leave as it was."""
    files = [
        (path.name, found.st_uid, found.st_gid, found.st_mode, sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.iterdir())
        for found in [path.stat()]
    ]
    return [libvirtd.domains(), libvirtd.virsh("domstate", uuid), libvirtd.virsh("dumpxml", uuid), files]


def proved(libvirtd: Libvirtd, folder: Path, guest: Guest, options: ProofOptions, **layout: Any) -> Boot:
    """Lands a guest, boots it for a proof, and checks that nothing is left."""
    with connected(libvirtd) as connection:
        uuid = landed(libvirtd, guest, folder, **layout)
        before = state_of(libvirtd, folder, uuid)
        boot = boot_domain(connection, uuid, options, cancel=CancelToken())
        assert state_of(libvirtd, folder, uuid) == before
        assert not boot.warnings
        return boot
