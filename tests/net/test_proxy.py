from __future__ import annotations

import base64
from pathlib import Path

import pytest

from hypersdk.errors import UsageError
from hypersdk.net.certificate import peer_certificate
from hypersdk.net.proxy import Proxy, dial, proxy_from_environ
from hypersdk.secret import Secret
from tests.support.tls import Authority
from tests.support.tlsserver import ConnectProxy, TlsServer, answering


@pytest.mark.parametrize(
    ("rules", "host", "port", "bypassed"),
    [
        ("", "vc.example.com", 443, False),
        ("*", "vc.example.com", 443, True),
        ("example.com", "vc.example.com", 443, True),
        ("example.com", "example.com", 443, True),
        ("example.com", "badexample.com", 443, False),
        (".example.com", "vc.example.com", 443, True),
        (".example.com", "example.com", 443, False),
        ("*.example.com", "vc.example.com", 443, True),
        ("VC.Example.COM", "vc.example.com.", 443, True),
        ("vc.example.com:443", "vc.example.com", 443, True),
        ("vc.example.com:8443", "vc.example.com", 443, False),
        ("192.0.2.7", "192.0.2.7", 443, True),
        ("192.0.2.7", "192.0.2.70", 443, False),
        ("192.0.2.0/24", "192.0.2.70", 443, True),
        ("192.0.2.0/24", "198.51.100.7", 443, False),
        ("2001:db8::/32", "[2001:db8::7]", 443, True),
        ("other.org, 192.0.2.0/24", "192.0.2.1", 443, True),
        ("192.0.2", "192.0.2.1", 443, False),
        ("", "localhost", 443, True),
        ("", "127.0.0.3", 443, True),
        ("", "::1", 443, True),
    ],
)
def test_no_proxy(rules: str, host: str, port: int, bypassed: bool) -> None:
    proxy = proxy_from_environ({"HTTPS_PROXY": "http://p.example.com:3128", "NO_PROXY": rules})
    assert proxy is not None
    assert proxy.bypassed_for(host, port) is bypassed


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"HTTPS_PROXY": " "}, None),
        ({"https_proxy": "http://p.example.com:1", "HTTPS_PROXY": "http://q.example.com:2"}, Proxy("p.example.com", 1)),
        ({"HTTPS_PROXY": "p.example.com:3128"}, Proxy("p.example.com", 3128)),
        ({"HTTPS_PROXY": "http://p.example.com"}, Proxy("p.example.com", 80)),
        (
            {"HTTPS_PROXY": "http://u%40d:p%3Aw@p.example.com:3128"},
            Proxy("p.example.com", 3128, Secret("Basic " + base64.b64encode(b"u@d:p:w").decode())),
        ),
    ],
)
def test_proxy_of_the_environment(environ: dict[str, str], expected: Proxy | None) -> None:
    assert proxy_from_environ(environ) == expected


@pytest.mark.parametrize(
    "text", ["socks5://p.example.com", "https://p.example.com", "http://p.example.com:x", "http://["]
)
def test_a_proxy_that_cannot_be_used_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="HTTPS_PROXY"):
        proxy_from_environ({"HTTPS_PROXY": text})


def test_a_tunnel_carries_tls_and_authorises(tmp_path: Path) -> None:
    secret = "Basic " + base64.b64encode(b"user:word").decode()
    identity = Authority(tmp_path).identity("localhost", "127.0.0.1")
    with TlsServer(identity, answering(lambda _: b"")) as target, ConnectProxy(authorization=secret) as proxy:
        shown = peer_certificate("127.0.0.1", target.port, proxy=Proxy("127.0.0.1", proxy.port, Secret(secret)))
        assert shown.sha256 == identity.sha256
        assert proxy.requests[0].startswith(f"CONNECT 127.0.0.1:{target.port} HTTP/1.")


def test_a_proxy_that_refuses_is_an_error_without_its_password() -> None:
    with ConnectProxy(authorization="Basic other") as proxy, pytest.raises(OSError, match="407") as caught:
        dial("vc.example.com", 443, proxy=Proxy("127.0.0.1", proxy.port, Secret("Basic c2VjcmV0")))
    assert "c2VjcmV0" not in repr(caught.value)
    assert "c2VjcmV0" not in repr(Proxy("p", 1, Secret("Basic c2VjcmV0")))
