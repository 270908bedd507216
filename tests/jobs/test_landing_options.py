"""What a job says about the landing reaches the conversion; secrets do so by the vault."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest

from hypersdk.access.endpoints import NewEndpoint
from hypersdk.guest.request import Customization, DiskKey, StaticAddress
from hypersdk.jobs.secrets import open_secrets, seal_secrets
from hypersdk.kvm.address import parse_libvirt_address
from hypersdk.landing.jobfile import MigrationDefinition
from hypersdk.secret import Secret
from tests.support.site import SMALL, SiteFactory, machines

MAC = "00:50:56:01:02:03"
FIELDS: dict[str, Any] = {
    "keys": [{"device": "/dev/sda3", "passphrase": "open sesame"}, {"passphrase": "another"}],
    "static_ip": {MAC: {"address": "192.0.2.10/24", "gateway": "192.0.2.1", "nameservers": ["192.0.2.53"]}},
    "firstboot": ["#!/bin/sh\necho hello\n"],
    "root": "/dev/sda3",
    "tpm": False,
    "secure_boot": False,
}


@pytest.mark.parametrize("password", [None, "of the vCenter"])
def test_they_reach_the_conversion(site: SiteFactory, password: str | None) -> None:
    made = site(machines=machines(1, (SMALL,)), options={"allowed_endpoints": ["127.0.0.1"]})
    made.services.endpoints.create(NewEndpoint(name="kvm", url="test:///default", kind="libvirt"))
    given = {"kind": "migrate", "vm_path": "web-0", "output_path": str(made.root / "web-0"), "to": "kvm", **FIELDS}
    if password is not None:
        given["vcenter"] = {"server": made.simulator.url, "username": "user", "password": password}
    (job,) = made.service.submit(json.dumps(given), "application/json", None).accepted
    assert job.definition["keys"] == [{"device": "/dev/sda3"}, {}]
    assert "sesame" not in json.dumps(job.definition)
    vault = made.services.vault
    found, passphrases = open_secrets(vault, made.store.sealed_secret(job.id), len(job.definition["keys"]))
    assert (found and found.reveal()) == password
    request = MigrationDefinition.model_validate(job.definition).request(
        parse_libvirt_address("test:///default"), passphrases
    )
    assert request.conversion is not None
    assert [(key.device, key.secret.reveal()) for key in request.conversion.keys if isinstance(key.secret, Secret)] == [
        ("/dev/sda3", "open sesame"),
        ("all", "another"),
    ]
    assert request.conversion.static_addresses == (
        StaticAddress(
            MAC,
            ipaddress.ip_address("192.0.2.10"),
            ipaddress.ip_address("192.0.2.1"),
            24,
            (ipaddress.ip_address("192.0.2.53"),),
        ),
    )
    assert request.conversion.customizations == (Customization("firstboot", FIELDS["firstboot"][0], is_content=True),)
    assert (request.conversion.root, request.options.tpm, request.options.secure_boot) == ("/dev/sda3", False, False)
    assert isinstance(request.conversion.keys[0], DiskKey)


def test_a_job_of_before_has_its_password_alone(site: SiteFactory) -> None:
    vault = site(machines=machines(1, (SMALL,))).services.vault
    password = Secret("of the vCenter")
    sealed = vault.seal(password, "job-password")
    assert open_secrets(vault, sealed, 0) == (password, ())
    assert open_secrets(vault, seal_secrets(vault, password), 0) == (password, ())
    assert (open_secrets(vault, None, 2), seal_secrets(vault, None)) == ((None, ()), None)
