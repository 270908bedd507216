"""A server whose answers are nearly right: one of them is changed on its way, at a call and in a manner drawn from the
seed of the run.

Whatever is read from it, no command ends with an internal error, and none waits for ever.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from lxml import etree

from hypersdk.simulator import DiskSpec, MachineSpec, Simulator
from hypersdk.units import MiB
from tests.support.cli.commandline import run
from tests.support.seeds import SEED
from tests.support.simulator import SimulatorFactory
from tests.support.tls import Identity
from tests.support.tlsserver import TlsServer, answering

ROUNDS = 24
TEXTS = [
    "",
    "0",
    "-1",
    "99999999999999999999",
    "true",
    "xyz",
    "\u2028",
    "2026-13-45T00:00:00Z",
    "vm-1",
    " " * 50,
    "a" * 3000,
]
TYPES = [
    "xsd:string",
    "xsd:int",
    "VirtualMachine",
    "VirtualDisk",
    "ArrayOfString",
    "NoSuchType",
    "ManagedObjectReference",
]
XSI_TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"
COMMANDS = {
    "list": (["list", "--json"], 8),
    "inspect": (["inspect", "web", "--json"], 12),
    "doctor": (["doctor", "--json"], 25),
    "plan": (["export", "web", "--dry-run", "--json", "-o"], 16),
}
"""Each with about the number of calls that it makes."""


def ask(port: int, request: bytes) -> bytes:
    """The answer of the server behind."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as tls:
        tls.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        pieces = []
        with contextlib.suppress(ssl.SSLError):
            while piece := tls.recv(65536):
                pieces.append(piece)
    return b"".join(pieces)


def body_of(reply: bytes) -> tuple[bytes, bytes]:
    """Head and body, without chunks."""
    head, _, body = reply.partition(b"\r\n\r\n")
    if b"chunked" not in head.lower():
        return head, body
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        whole, body = whole + body[:length], body[length + 2 :]
    return head, whole


def changed(element: etree._Element, draw: random.Random) -> str:
    """Changes one element in one manner; tells which."""
    name = etree.QName(element).localname
    parent = element.getparent()
    match draw.randrange(7):
        case 0 if parent is not None:
            parent.remove(element)
            return f"{name} removed"
        case 1:
            element.text = draw.choice(TEXTS)
            return f"{name} is {element.text[:30]!r}"
        case 2:
            element.set(XSI_TYPE, draw.choice(TYPES))
            return f"{name} of type {element.get(XSI_TYPE)}"
        case 3 if parent is not None:
            for _ in range(draw.choice([1, 30])):
                element.addnext(etree.fromstring(etree.tostring(element)))
            return f"{name} repeated"
        case 4:
            element.attrib.clear()
            return f"{name} without attributes"
        case 5:
            element.tag = "{urn:vim25}other"
            return f"{name} under another name"
        case _:
            del element[:]
            element.text = None
            return f"{name} empty"


@dataclass(slots=True)
class Mangler:
    """Hands requests on, and changes the answer with the number ``at``."""

    behind: Simulator
    at: int
    draw: random.Random
    count: int = 0
    did: str = "nothing"

    def __call__(self, request: bytes) -> bytes:
        head, body = body_of(ask(self.behind.port, request))
        if self.count == self.at and body.lstrip().startswith(b"<"):
            root = etree.fromstring(body)
            elements = list(root.iter(etree.Element))[2:]
            self.did = (
                f"answer {self.count}: {changed(self.draw.choice(elements), self.draw)}" if elements else self.did
            )
            body = etree.tostring(root)
        self.count += 1
        kept = [
            line
            for line in head.split(b"\r\n")
            if not re.match(rb"(?i)(content-length|transfer-encoding|connection)", line)
        ]
        return b"\r\n".join([*kept, b"Content-Length: %d" % len(body)]) + b"\r\n\r\n" + body


@pytest.mark.slow
def test_no_answer_ends_a_command_with_an_internal_error(
    simulator: SimulatorFactory, tls_certificate: Identity, tmp_path: Path
) -> None:
    behind = simulator(
        machines=(MachineSpec("web", (DiskSpec(MiB), DiskSpec(MiB))), MachineSpec("db", (DiskSpec(MiB),)))
    )
    changes: set[str] = set()
    for number in range(ROUNDS):
        draw = random.Random(f"{SEED}/{number}")
        words, calls = COMMANDS[draw.choice(list(COMMANDS))]
        mangler = Mangler(behind, draw.randrange(calls), draw)
        with TlsServer(tls_certificate, answering(mangler)) as server:
            began = time.monotonic()
            ended = run(
                *words, *([str(tmp_path / "out")] if words[-1] == "-o" else []), env=environ(behind, server, tmp_path)
            )
        told = f"seed {SEED}, round {number}, {words[0]}, {mangler.did}: {ended.out[-1000:]}"
        assert ended.status != 1, told
        assert time.monotonic() - began < 100, told
        changes.add(mangler.did)
    assert len(changes) > ROUNDS / 3, "most rounds did change something"


def environ(behind: Simulator, server: TlsServer, home: Path) -> dict[str, str]:
    return {
        "GOVC_URL": f"https://127.0.0.1:{server.port}",
        "GOVC_USERNAME": behind.username,
        "GOVC_PASSWORD": str(behind.password),
        "GOVC_INSECURE": "1",
        "HOME": str(home),
        "XDG_STATE_HOME": str(home / "state"),
    }
