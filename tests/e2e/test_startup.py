"""What an export does before its first request for data: its calls, and the modules that it imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hypersdk.simulator import Simulator
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.units import MiB
from tests.support.simulator import SimulatorFactory
from tests.support.vsphere import environ_of

NOTING = """
import http.client, json, os, re, ssl, sys

requests, connect, read_authorities = [], http.client.HTTPConnection.request, ssl.SSLContext.load_default_certs

def request(self, method, url, body=None, *args, **kwargs):
    if url.startswith("/nfc/") and not os.path.exists(os.environ["NOTED"]):
        with open(os.environ["NOTED"], "w") as file:
            json.dump({"requests": requests, "modules": sorted(sys.modules)}, file)
    named = re.search(rb"Body[^>]*><([A-Za-z_]+)", body or b"")
    requests.append(named[1].decode() if named else url)
    return connect(self, method, url, body, *args, **kwargs)

def load_default_certs(self, *args):
    requests.append("authorities")
    return read_authorities(self, *args)

http.client.HTTPConnection.request, ssl.SSLContext.load_default_certs = request, load_default_certs
from hypersdk.cli.main import run
sys.exit(run())
"""
LATER = ("pydantic", "cryptography", "yaml", "httpx", "sqlalchemy", "textual", "hypersdk.migration.manifest")
"""Not needed before the data flows, or not at all."""


def until_data(simulator: Simulator, folder: Path, **more: str) -> dict[str, Any]:
    """The requests and modules of an export of ``web`` until its first request for data."""
    noted = folder / "noted.json"
    env = {**os.environ, "HOME": str(folder), **environ_of(simulator), "NOTED": str(noted), **more}
    done = subprocess.run(
        [sys.executable, "-c", NOTING, "export", "web", "-o", str(folder / "out"), "--json"],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(noted.read_text())
    return found


@pytest.fixture
def server(simulator: SimulatorFactory) -> Simulator:
    return simulator(machines=(MachineSpec("web", disks=(DiskSpec(2 * MiB),)),), vms=20)


def test_few_calls_come_before_the_data_and_each_has_its_reason(server: Simulator, tmp_path: Path) -> None:
    requests = until_data(server, tmp_path)["requests"]
    started = requests.index("ExportVm")
    assert requests[:started] == [
        "/sdk/vimServiceVersions.xml",
        "RetrieveServiceContent",
        "Login",
        "CreateContainerView",
        "RetrievePropertiesEx",  # the names of all machines
        "DestroyView",
        "RetrievePropertiesEx",  # the row of the one that is meant
        "RetrievePropertiesEx",  # the machine, for the plan and its checks
        "RetrievePropertiesEx",  # again, once the folder is locked: its point in time
        "RetrievePropertiesEx",  # tasks that run before
        "CurrentTime",
    ]
    # Between them stand reads: the task of the export, the disks while the lease is prepared, and the lease until it is
    # ready; at the end, whether it is still open.
    assert [call for call in requests[started:] if call != "RetrievePropertiesEx"] == [
        "ExportVm",
        "HttpNfcLeaseSetManifestChecksumType",
    ]
    assert requests[started:].count("RetrievePropertiesEx") in range(4, 9)


def test_modules_of_the_end_are_not_imported_before_the_data(server: Simulator, tmp_path: Path) -> None:
    modules = until_data(server, tmp_path)["modules"]
    assert [name for name in LATER if name in modules] == []


def test_authorities_are_read_once_and_only_where_they_decide(server: Simulator, tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(server.ca_pem)
    checked = until_data(server, tmp_path, GOVC_INSECURE="0", GOVC_TLS_CA_CERTS=str(bundle))["requests"]
    assert checked.count("authorities") == 1
