from __future__ import annotations

import pytest

from hypersdk.net.address import host_port, ip_address, is_loopback_address, normal_host, split_host_port


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("vc.example.com", "vc.example.com", None),
        ("vc.example.com:8443", "vc.example.com", 8443),
        ("192.0.2.1:443", "192.0.2.1", 443),
        ("[2001:db8::1]:443", "2001:db8::1", 443),
        ("[2001:db8::1]", "2001:db8::1", None),
        ("2001:db8::1", "2001:db8::1", None),
        ("vc.example.com:x", "vc.example.com:x", None),
        ("vc.example.com:\u0661", "vc.example.com:\u0661", None),
    ],
)
def test_host_and_port_are_split(text: str, host: str, port: int | None) -> None:
    assert split_host_port(text) == (host, port)


@pytest.mark.parametrize("host", ["vc.example.com", "192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize("port", [None, 443, 8443])
def test_what_is_joined_is_split_again(host: str, port: int | None) -> None:
    assert split_host_port(host_port(host, port)) == (host, port)
    assert split_host_port(host_port(host, port, default=443)) == (host, None if port == 443 else port)


def test_addresses_are_told_from_names() -> None:
    assert ip_address("vc.example.com") is None
    assert str(ip_address("[fe80::1%eth0]")) == "fe80::1"
    assert is_loopback_address("127.0.0.3")
    assert not is_loopback_address("localhost")
    assert normal_host("[2001:DB8::1]") == "2001:db8::1"
    assert normal_host("VC.example.com.") == "vc.example.com"
