"""Addresses of libvirt: what is accepted, its canonical form, and what a hostile one may not do."""

from __future__ import annotations

import pytest

from hypersdk.errors import UsageError
from hypersdk.kvm.address import parse_libvirt_address


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("qemu:///system", "qemu:///system"),
        ("qemu:///session/", "qemu:///session"),
        ("qemu+unix:///system", "qemu:///system"),
        ("QEMU+SSH://root@KVM-1.example.com./system", "qemu+ssh://root@kvm-1.example.com/system"),
        ("qemu+ssh://admin%40example.com@[2001:db8::1]:2222/system", None),
        ("qemu+ssh://kvm1/system?proxy=native", "qemu+ssh://kvm1/system?proxy=native"),
        ("qemu://kvm1.example.com/system", "qemu+tls://kvm1.example.com/system"),
        ("qemu+tls://192.0.2.7:16514/system", "qemu+tls://192.0.2.7:16514/system"),
        ("qemu+tcp://127.0.0.1:16509/system", "qemu+tcp://127.0.0.1:16509/system"),
        ("qemu+unix:///system?socket=/run/other/libvirt-sock", "qemu+unix:///system?socket=/run/other/libvirt-sock"),
        ("test:///default", "test:///default"),
    ],
)
def test_canonical_form_is_stable(text: str, canonical: str | None) -> None:
    written = str(parse_libvirt_address(text))
    assert canonical is None or written == canonical
    assert str(parse_libvirt_address(written)) == written


@pytest.mark.parametrize(
    "text",
    [
        "qemu+ssh://kvm1/system?command=/tmp/evil",
        "qemu+ssh://kvm1/system?netcat=/tmp/evil",
        "qemu+ssh://kvm1/system?keyfile=/etc/ssh/id_rsa",
        "qemu+ssh://kvm1/system?no_verify=1",
        "qemu+ssh://kvm1/system?socket=/tmp/x;id",
        "qemu+ssh://kvm1/system?proxy=$(id)",
        "qemu+ssh://kvm1/system?proxy=native&proxy=netcat",
        "qemu+tls://kvm1/system?pkipath=/tmp/keys",
        "qemu+tls://kvm1/system?no_verify=1",
        "qemu+unix:///system?socket=relative",
        "qemu+unix:///system?socket=/a%0Ab",
        "qemu:///system?authfile=/etc/shadow",
        "qemu+ext://kvm1/system?command=/tmp/evil",
        "qemu+libssh2://kvm1/system",
        "qemu+ssh://-oProxyCommand=id/system",
        "qemu+ssh://%2doProxyCommand=id/system",
        "qemu+ssh://a%20b/system",
        "qemu+ssh://-l@kvm1/system",
        "qemu+ssh://a%20b@kvm1/system",
        "qemu+ssh://user:secret@kvm1/system",
        "qemu+ssh:///system",
        "qemu+unix://kvm1/system",
        "qemu+ssh://kvm1:99999/system",
        "qemu+ssh://kvm1/embed?root=/tmp",
        "qemu:///embed",
        "qemu:///system#x",
        "xen:///system",
        "esx://vcenter.example.com/DC",
        "test:///etc/passwd",
        "test+ssh://kvm1/default",
        "qemu",
        "",
        "qemu:///system\n",
        "qemu:///" + "x" * 2000,
    ],
)
def test_what_runs_programs_reads_files_or_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_libvirt_address(text)
    assert caught.value.code == "libvirt_address"
    assert "secret" not in caught.value.message


def test_plain_tcp_is_for_this_machine_or_where_it_was_allowed() -> None:
    for remote in ("qemu+tcp://kvm1/system", "qemu+tcp://192.0.2.7/system"):
        with pytest.raises(UsageError) as caught:
            parse_libvirt_address(remote)
        assert caught.value.code == "libvirt_plain_tcp"
        assert parse_libvirt_address(remote, plain_tcp=True).transport == "tcp"


def test_files_are_shared_only_over_a_socket_that_is_a_file() -> None:
    assert parse_libvirt_address("qemu:///system").is_local
    assert parse_libvirt_address("qemu+unix:///session?socket=/run/x").is_local
    for text in ("qemu+ssh://root@kvm1/system", "qemu+tcp://127.0.0.1/system", "qemu+ssh://localhost/system"):
        assert not parse_libvirt_address(text).is_local, "it may be the end of a tunnel"


def test_ssh_does_not_ask_where_nobody_sees_it() -> None:
    assert parse_libvirt_address("qemu+ssh://kvm1/system").uri == "qemu+ssh://kvm1/system?no_tty=1"
    assert parse_libvirt_address("qemu+ssh://kvm1/system?mode=legacy").uri.endswith("?mode=legacy&no_tty=1")
