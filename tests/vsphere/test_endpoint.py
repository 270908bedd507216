from __future__ import annotations

import socket
import traceback
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.cli.remedies import next_step
from hypersdk.config.user import Connection
from hypersdk.errors import UsageError
from hypersdk.net.certificate import TlsPolicy
from hypersdk.net.knownhosts import remember_host
from hypersdk.secret import Secret
from hypersdk.vsphere.connection import open_connection
from hypersdk.vsphere.endpoint import Endpoint, http_proxy_for, known_hosts_file, resolve_endpoint

PRINT = "ab" * 32
OTHER = "cd" * 20


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}


@pytest.mark.parametrize(
    ("url", "host", "port", "username", "password"),
    [
        ("vc.example.com", "vc.example.com", 443, "", None),
        ("vc.example.com:8443", "vc.example.com", 8443, "", None),
        ("https://vc.example.com", "vc.example.com", 443, "", None),
        ("https://vc.example.com/", "vc.example.com", 443, "", None),
        ("https://vc.example.com/sdk", "vc.example.com", 443, "", None),
        ("https://vc.example.com/ui/app/home", "vc.example.com", 443, "", None),
        ("root:secret@192.0.2.7", "192.0.2.7", 443, "root", "secret"),
        ("https://root@192.0.2.7/sdk", "192.0.2.7", 443, "root", None),
        (
            "https://a%40vsphere.local:p%2Fw%3A%40x@vc.example.com/sdk",
            "vc.example.com",
            443,
            "a@vsphere.local",
            "p/w:@x",
        ),
        ("a@vsphere.local:pw@vc.example.com", "vc.example.com", 443, "a@vsphere.local", "pw"),
        ("https://[2001:db8::7]:8443/sdk", "2001:db8::7", 8443, "", None),
        ("  HTTPS://VC.Example.com/sdk ", "vc.example.com", 443, "", None),
    ],
)
def test_every_form_of_govc_url(
    url: str, host: str, port: int, username: str, password: str | None, home: dict[str, str]
) -> None:
    endpoint = resolve_endpoint({**home, "GOVC_URL": url}, None)
    assert (endpoint.host, endpoint.port, endpoint.username) == (host, port, username)
    assert endpoint.password == (None if password is None else Secret(password))
    assert endpoint.tls == TlsPolicy()


@pytest.mark.parametrize(
    "url",
    [
        "http://vc.example.com",
        "ftp://vc.example.com",
        "https://",
        "https:///sdk",
        "vc example.com",
        "vc.example.com:port",
        "https://vc.example.com:99999",
        "vc.example.com\r\nX: y",
        "-\x00",
    ],
)
def test_an_address_that_cannot_be_used_is_refused(url: str, home: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        resolve_endpoint({**home, "GOVC_URL": url}, None)


def test_no_address_has_its_own_code(home: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_endpoint(home, Connection())
    assert caught.value.code == "no_endpoint"


def test_flags_go_before_environment_before_configuration(home: dict[str, str]) -> None:
    config = Connection(url="c.example.com", username="cu", password="cp", datacenter="CDC", ca_bundle="/c.pem")
    environ = {
        **home,
        "GOVC_URL": "eu:ep@e.example.com",
        "GOVC_DATACENTER": "EDC",
        "GOVC_INSECURE": "true",
        "GOVC_TLS_CA_CERTS": "/e.pem",
    }
    from_config = resolve_endpoint(home, config)
    assert (from_config.host, from_config.username, from_config.password) == ("c.example.com", "cu", Secret("cp"))
    assert (from_config.datacenter, from_config.tls.ca_bundle) == ("CDC", Path("/c.pem"))
    from_env = resolve_endpoint(environ, config)
    assert (from_env.host, from_env.username, from_env.password) == ("e.example.com", "eu", Secret("ep"))
    assert (from_env.datacenter, from_env.tls) == ("EDC", TlsPolicy(insecure=True, ca_bundle=Path("/e.pem")))
    flags = resolve_endpoint(
        environ,
        config,
        url="f.example.com",
        username="fu",
        password=Secret("fp"),
        insecure=False,
        thumbprint=PRINT.upper(),
        ca_bundle=Path("/f.pem"),
        datacenter="FDC",
    )
    assert (flags.host, flags.username, flags.password, flags.datacenter) == (
        "f.example.com",
        "fu",
        Secret("fp"),
        "FDC",
    )
    assert flags.tls == TlsPolicy(insecure=False, ca_bundle=Path("/f.pem"), thumbprint=PRINT)


def test_govc_username_and_password_override_the_url(home: dict[str, str]) -> None:
    environ = {**home, "GOVC_URL": "u:p@vc.example.com", "GOVC_USERNAME": "x", "GOVC_PASSWORD": "y"}
    endpoint = resolve_endpoint(environ, None)
    assert (endpoint.username, endpoint.password) == ("x", Secret("y"))


def test_govc_password_may_name_a_file(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(" from file \n")
    endpoint = resolve_endpoint(
        {**home, "GOVC_URL": "vc", "GOVC_USERNAME": "u", "GOVC_PASSWORD": str(tmp_path / "pw")}, None
    )
    assert endpoint.password == Secret("from file")


def test_password_file_of_the_configuration_keeps_inner_and_outer_spaces(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(" a b \n")
    config = Connection(url="vc.example.com", username="u", password_file=str(tmp_path / "pw"))
    assert resolve_endpoint(home, config).password == Secret(" a b ")
    with pytest.raises(UsageError, match="password file"):
        resolve_endpoint(home, replace(config, password_file=str(tmp_path / "none")))


def test_credentials_of_the_configuration_go_to_its_own_host_only(home: dict[str, str]) -> None:
    config = Connection(url="c.example.com", username="cu", password="cp", insecure=True, thumbprint=PRINT)
    own = resolve_endpoint(home, config, url="https://c.example.com/sdk")
    assert (own.username, own.password, own.tls.insecure, own.tls.thumbprint) == ("cu", Secret("cp"), True, PRINT)
    other = resolve_endpoint({**home, "GOVC_URL": "e.example.com"}, config)
    assert (other.username, other.password, other.tls) == ("", None, TlsPolicy())


def test_credentials_of_govc_url_do_not_follow_to_another_host(home: dict[str, str]) -> None:
    endpoint = resolve_endpoint({**home, "GOVC_URL": "u:p@a.example.com"}, None, url="b.example.com")
    assert (endpoint.host, endpoint.username, endpoint.password) == ("b.example.com", "", None)


def test_a_wrong_fingerprint_in_the_configuration_is_named(home: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="xyz"):
        resolve_endpoint(home, Connection(url="vc", thumbprint="xyz"))


@pytest.mark.parametrize(
    ("text", "expected"), [("1", True), ("TRUE", True), ("0", False), ("false", False), ("", False)]
)
def test_govc_insecure(text: str, expected: bool, home: dict[str, str]) -> None:
    assert resolve_endpoint({**home, "GOVC_URL": "vc", "GOVC_INSECURE": text}, None).tls.insecure is expected


def test_govc_insecure_that_is_neither_is_an_error(home: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="GOVC_INSECURE"):
        resolve_endpoint({**home, "GOVC_URL": "vc", "GOVC_INSECURE": "maybe"}, None)


def test_a_remembered_print_is_found_again(home: dict[str, str], tmp_path: Path) -> None:
    remember_host(known_hosts_file(home, Connection()), "vc.example.com", 443, PRINT)
    assert resolve_endpoint({**home, "GOVC_URL": "VC.example.com"}, None).tls.known == PRINT
    assert resolve_endpoint({**home, "GOVC_URL": "vc.example.com:444"}, None).tls.known is None
    govc = tmp_path / "govc_hosts"
    govc.write_text(f"vc.example.com {':'.join([OTHER[:2].upper()] * 20)}\n")
    listed = {**home, "GOVC_URL": "vc.example.com", "GOVC_TLS_KNOWN_HOSTS": f"{tmp_path}/missing:{govc}"}
    assert resolve_endpoint(listed, None).tls.known == OTHER


def test_proxy_is_taken_from_the_environment_and_bypassed_by_no_proxy(home: dict[str, str]) -> None:
    environ = {
        **home,
        "GOVC_URL": "vc.example.com",
        "HTTPS_PROXY": "http://p.example.com:3128",
        "NO_PROXY": ".corp.example.com",
    }
    endpoint = resolve_endpoint(environ, None)
    proxy = http_proxy_for(endpoint, "vc.example.com")
    assert proxy is not None
    assert (proxy.host, proxy.port) == ("p.example.com", 3128)
    assert http_proxy_for(endpoint, "esx1.corp.example.com") is None
    assert http_proxy_for(resolve_endpoint({**home, "GOVC_URL": "vc"}, None), "vc") is None


PASSWORD = "s3cr3t-" + "Zq9"


@pytest.mark.parametrize(
    "environ",
    [
        {"GOVC_URL": f"https://u:{PASSWORD}@vc.example.com", "HTTPS_PROXY": f"http://pu:{PASSWORD}@p.example.com"},
        {"GOVC_URL": f"https://u:{PASSWORD}@vc.example.com:bad"},
        {"GOVC_URL": f"http://u:{PASSWORD}@vc.example.com"},
        {"GOVC_URL": f"https://u:{PASSWORD}/@vc.example.com"},
        {"GOVC_URL": f"https://u:{PASSWORD}@[vc"},
        {"GOVC_URL": "vc", "HTTPS_PROXY": f"socks5://pu:{PASSWORD}@p.example.com"},
        {"GOVC_URL": "vc", "HTTPS_PROXY": f"http://pu:{PASSWORD}@p.example.com:bad"},
    ],
)
def test_no_password_in_any_text(environ: dict[str, str], home: dict[str, str]) -> None:
    try:
        text = repr(resolve_endpoint({**home, **environ}, None))
    except UsageError as exc:
        text = "".join(traceback.format_exception(exc)) + repr(exc.as_dict())
    assert PASSWORD not in text


@given(
    username=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    password=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60),
)
def test_any_credentials_survive_percent_encoding_in_the_url(username: str, password: str) -> None:
    url = f"https://{quote(username, safe='')}:{quote(password, safe='')}@vc.example.com/sdk"
    endpoint = resolve_endpoint({"GOVC_URL": url, "HOME": "/nonexistent"}, None)
    assert (endpoint.username, endpoint.password) == (username, Secret(password))


@given(st.text(max_size=80))
def test_any_text_as_address_gives_an_endpoint_or_a_usage_error(text: str) -> None:
    try:
        endpoint = resolve_endpoint({"HOME": "/nonexistent"}, None, url=text)
    except UsageError:
        return
    assert isinstance(endpoint, Endpoint)
    assert endpoint.host
    assert not set(endpoint.host) & set("/@ \r\n\0")


@pytest.mark.parametrize(
    "url",
    [
        "https://u:p#w@vc.example.com/sdk",
        "https://u:p/w@vc.example.com",
        "https://u:p?w@vc.example.com",
        "https://vc.example.com/sdk#x@y",
        "https://vc.example.com#@192.0.2.9",
        "https://[::1",
        "https://u@[::1",
        "https://[192.0.2.1]",
        "https://vc.example.com:0",
        "https://vc.example.com:-1",
        "https://vc.example.com:１",
        "https://a..b",
        "https://.",
        "https://" + "a" * 64 + ".example.com",
        "https://a b",
        "https://a\nb",
        "https://u\ud800@h",
        "https://u:p＠vc.example.com",
        "https://vc.example.com＃x",
        "#",
        "@",
        "https://#@",
        "https://u:p@#@h",
        "https://\u202evc.example.com",
    ],
)
def test_an_address_that_programs_read_in_different_ways_is_none(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_endpoint({}, None, url=url)
    assert url not in str(caught.value) + next_step(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("url", "host", "username"),
    [
        ("https://administrator@vsphere.local@vc.example.com/sdk", "vc.example.com", "administrator@vsphere.local"),
        ("a@b:c@vc.example.com", "vc.example.com", "a@b"),
        ("https://@vc.example.com", "vc.example.com", ""),
        ("vc.example.com#sdk", "vc.example.com", ""),
    ],
)
def test_a_user_name_may_hold_an_at_sign(url: str, host: str, username: str) -> None:
    found = resolve_endpoint({}, None, url=url)
    assert (found.host, found.username) == (host, username)


def test_a_name_that_no_resolver_takes_is_an_unresolved_name() -> None:
    endpoint = replace(resolve_endpoint({}, None, url="https://vc.example.com"), host="a..b")
    with pytest.raises(socket.gaierror):
        open_connection(endpoint).connect()
