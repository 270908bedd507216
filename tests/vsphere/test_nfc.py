"""What a lease says, and what it must not say."""

from __future__ import annotations

import ssl
import threading
import time
from types import SimpleNamespace

import pytest
from lxml import etree

from hypersdk.errors import Cancelled, LookupFailed, SourceError, TransientError
from hypersdk.simulator import Fault, FaultKind
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere import nfc
from hypersdk.vsphere.nfc import LeaseInfo, ManifestEntry, lease_info
from hypersdk.vsphere.soap import ObjectProperties
from tests.support.leases import SMALL, moref_of
from tests.support.sessions import LogIn
from tests.support.simulator import SimulatorFactory
from tests.support.tls import Identity
from tests.support.waiting import AT_ONCE_S

SHA1 = "AB:" * 19 + "AB"


def info_of(*urls: str, timeout: str = "<leaseTimeout>300</leaseTimeout>") -> LeaseInfo:
    info = etree.fromstring(f'<val xmlns="urn:vim25">{timeout}{"".join(urls)}</val>')
    return lease_info(ObjectProperties("HttpNfcLease", "lease-1", {"info": info}))


def device_url(
    key: str = "/vm-1/VirtualLsiLogicController0:0",
    url: str = "https://esx/nfc/1/disk-0.vmdk",
    rest: str = "<disk>true</disk>",
) -> str:
    return f"<deviceUrl><key>{key}</key><url>{url}</url>{rest}</deviceUrl>"


def test_a_lease_as_a_vcenter_words_it() -> None:
    rest = f"<sslThumbprint>{SHA1}</sslThumbprint><disk>true</disk><targetId>disk-0.vmdk</targetId>"
    other = device_url("/vm-1/nvram", "https://esx/nfc/1/file-1.nvram", "<disk>false</disk><fileSize>8684</fileSize>")
    info = info_of(device_url(rest=rest), other)
    disk, nvram = info.files.values()
    assert info.timeout_s == 300
    assert (disk.key, disk.pin, disk.is_disk, disk.target_id) == (
        "/vm-1/VirtualLsiLogicController0:0",
        "ab" * 20,
        True,
        "disk-0.vmdk",
    )
    assert (nvram.pin, nvram.is_disk, nvram.target_id) == (None, False, "file-1.nvram")


def test_a_certificate_pins_by_its_sha256(tls_certificate: Identity) -> None:
    pem = ssl.DER_cert_to_PEM_cert(tls_certificate.der)
    rest = f"<sslThumbprint>{SHA1}</sslThumbprint><sslCertificate>\n{pem}\n</sslCertificate>"
    (file,) = info_of(device_url(rest=rest)).files.values()
    assert file.pin == tls_certificate.sha256


@pytest.mark.parametrize("timeout", ["", "<leaseTimeout>x</leaseTimeout>", "<leaseTimeout>0</leaseTimeout>"])
def test_a_time_out_that_is_not_told_is_the_usual_one(timeout: str) -> None:
    assert info_of(device_url(), timeout=timeout).timeout_s == 300


@pytest.mark.parametrize(
    ("url", "rest", "is_disk", "target"),
    [
        ("https://esx/nfc/1/disk-0.vmdk?x=1", "", True, "disk-0.vmdk"),
        ("https://esx/nfc/1/a.iso", "", False, "a.iso"),
        ("https://esx/nfc/1/a.VMDK", "<targetId></targetId>", True, "a.VMDK"),
        ("https://esx/nfc/1/a.vmdk", "<disk>false</disk>", False, "a.vmdk"),
    ],
)
def test_what_older_servers_leave_out(url: str, rest: str, is_disk: bool, target: str) -> None:
    (file,) = info_of(device_url(url=url, rest=rest)).files.values()
    assert (file.is_disk, file.target_id) == (is_disk, target)


@pytest.mark.parametrize(
    "urls",
    [
        [],
        [device_url(url="")],
        [device_url(url="https://esx/" + "x" * nfc.MAX_TEXT)],
        [device_url(rest="<sslThumbprint>not a print</sslThumbprint>")],
        [device_url(rest="<sslCertificate>no certificate</sslCertificate>")],
        [device_url()] * (nfc.MAX_FILES + 1),
    ],
)
def test_nonsense_is_refused(urls: list[str]) -> None:
    with pytest.raises(SourceError) as caught:
        info_of(*urls)
    assert caught.value.code == "bad_reply"


@pytest.mark.parametrize(
    ("sha1", "checksum", "kind", "expected"),
    [
        ("A" * 40, "B" * 64, "sha256", ManifestEntry("a" * 40, "b" * 64, 7)),
        ("", "b" * 64, "SHA-256", ManifestEntry(None, "b" * 64, 7)),
        ("", "a" * 40, "sha1", ManifestEntry("a" * 40, None, 7)),
        ("a" * 40, None, None, ManifestEntry("a" * 40, None, 7)),
        ("a" * 39, "b" * 63, "sha256", ManifestEntry(None, None, 7)),
        ("g" * 40, "b" * 64, "sha512", ManifestEntry(None, None, 7)),
    ],
)
def test_digests_count_only_where_they_are_digests(
    sha1: str, checksum: str | None, kind: str | None, expected: ManifestEntry
) -> None:
    assert nfc._entry(SimpleNamespace(sha1=sha1, checksum=checksum, checksumType=kind, size=7)) == expected


def test_a_host_that_takes_too_long(
    simulator: SimulatorFactory, log_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nfc, "READY_TIMEOUT_S", 0.3)
    server = simulator(machines=(SMALL,), lease_ready_s=60)
    session = log_in(server)
    lease = nfc.request_lease(session, moref_of(server), None)
    with pytest.raises(TransientError) as caught:
        nfc.wait_until_ready(session, lease, cancel=CancelToken())
    assert caught.value.code == "lease_not_ready"


def test_cancel_ends_the_wait_for_the_host(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,), lease_ready_s=60)
    session, cancel = log_in(server), CancelToken()
    lease = nfc.request_lease(session, moref_of(server), None)
    timer = threading.Timer(0.3, cancel.cancel, ["test"])
    timer.start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        nfc.wait_until_ready(session, lease, cancel=cancel)
    assert time.monotonic() - started < AT_ONCE_S
    timer.join()


def test_a_lease_that_is_gone(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,))
    session = log_in(server)
    assert nfc.lease_state(session, "session[x]lease-9", CancelToken()) is None
    with pytest.raises(LookupFailed):
        nfc.wait_until_ready(session, "session[x]lease-9", cancel=CancelToken())


@pytest.mark.parametrize("fault", ["NotSupported", "InvalidArgument", "SystemError", "InvalidState"])
def test_a_server_that_keeps_to_sha1(simulator: SimulatorFactory, log_in: LogIn, fault: str) -> None:
    server = simulator(machines=(SMALL,))
    session = log_in(server)
    lease = nfc.request_lease(session, moref_of(server), None)
    info = nfc.wait_until_ready(session, lease, cancel=CancelToken())
    keys = [file.key for file in info.files.values() if file.is_disk]
    assert nfc.manifest_algorithm(session, lease, keys) == "sha256"
    server.set_faults(Fault(FaultKind.CALL, method="HttpNfcLeaseSetManifestChecksumType", fault=fault))
    assert nfc.manifest_algorithm(session, lease, keys) == "sha1"


def test_states(simulator: SimulatorFactory, log_in: LogIn) -> None:
    server = simulator(machines=(SMALL,), lease_ready_s=0.3)
    session = log_in(server)
    lease = nfc.request_lease(session, moref_of(server), None)
    assert nfc.lease_state(session, lease, CancelToken()) == nfc.INITIALIZING
    nfc.wait_until_ready(session, lease, cancel=CancelToken())
    assert nfc.lease_state(session, lease, CancelToken()) == nfc.READY
    nfc.complete(session, lease)
    assert nfc.lease_state(session, lease, CancelToken()) not in nfc.HOLDING
