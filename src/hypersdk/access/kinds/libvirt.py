"""Hypervisors, by libvirt. The login is that of the URI: the daemon's user and its SSH keys or TLS certificates."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hypersdk.access.kinds.base import ENDPOINT_INVALID, EndpointLogin
from hypersdk.errors import UsageError
from hypersdk.kvm.address import LibvirtAddress, parse_libvirt_address
from hypersdk.kvm.capabilities import read_facts
from hypersdk.kvm.connection import open_connection
from hypersdk.kvm.doctor import versions_text
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.session import About

LIBVIRT: Final = "libvirt"


class Libvirt:
    """``qemu:///system``, ``qemu+ssh://user@host/system``, ``qemu+tls://host/system``."""

    name: Final = LIBVIRT

    def normalize(self, login: EndpointLogin) -> EndpointLogin:
        """Nothing but the URI says how to log in."""
        given = {
            "username": login.username,
            "password": login.password,
            "thumbprint": login.thumbprint,
            "insecure": login.insecure,
            "datacenter": login.datacenter,
        }
        if unfit := [name for name, value in given.items() if value]:
            raise UsageError(
                f"{', '.join(unfit)}: not of an endpoint of the kind {LIBVIRT}; its URI names the user",
                code=ENDPOINT_INVALID,
            )
        return replace(login, url=str(address_of(login)))

    def is_local(self, login: EndpointLogin) -> bool:
        """``qemu:///system``; not libvirt's test driver, which is in the process that uses it."""
        address = address_of(login)
        return address.is_here

    def check_trust(self, login: EndpointLogin) -> None:
        """libvirt and SSH check the server by their own configuration, when they connect."""
        open_connection(address_of(login), cancel=CancelToken()).close()

    def probe(self, login: EndpointLogin) -> About:
        """Connects and reads what its guests can have, which needs the permission to manage them."""
        address = address_of(login)
        with open_connection(address, cancel=CancelToken()) as connection:
            facts = read_facts(connection)
        return About(
            name=facts.hostname,
            full_name=versions_text(facts) + (", KVM" if facts.accelerated else ", emulated"),
            version=".".join(map(str, facts.qemu_version)),
            build="",
            api_version=".".join(map(str, facts.libvirt_version)),
            api_type=address.driver,
            instance_uuid=None,
        )


def address_of(login: EndpointLogin) -> LibvirtAddress:
    """The address in the login's URL. Raises UsageError."""
    return parse_libvirt_address(login.url)
