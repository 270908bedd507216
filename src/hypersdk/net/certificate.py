"""Verification of server certificates: TLS contexts, pins, and the certificate shown to the user when it is not
trusted.

The rules, strictest first; no certificate is trusted silently:

1. a pin (``--thumbprint``, or the one that vCenter gives for an ESXi host): that certificate and no other;
2. ``--insecure``: any certificate;
3. the given CA bundle, else the system's; where it does not verify the certificate, a fingerprint in a known-hosts
   file.

A pin is checked as part of the handshake, before a password or cookie is sent over it. Trust is decided
by ``ssl`` or by the fingerprint of the whole certificate; the certificate's contents are only shown, so
``cryptography`` is imported only for an untrusted certificate and by ``doctor``.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import warnings
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hypersdk.errors import ConnectError, UsageError, register
from hypersdk.net.proxy import CONNECT_TIMEOUT_S, Proxy, dial
from hypersdk.units import KiB

if TYPE_CHECKING:
    from cryptography import x509
from hypersdk.remedies import First, TrustCertificate

CERTIFICATE_UNKNOWN: Final = register(
    "certificate_unknown",
    "The server's certificate is not signed by an authority that this host trusts.",
    First("compare the SHA-256 fingerprint with the one shown in vCenter or on the host itself"),
    TrustCertificate(),
)
CERTIFICATE_CHANGED: Final = register(
    "certificate_changed",
    "The server's certificate is not the one that was pinned: it was renewed, or the connection is intercepted.",
    First("find out whether it was renewed"),
    TrustCertificate(renewed=True),
)
TLS_FAILED: Final = register(
    "tls_failed",
    "The TLS handshake failed: the port does not use TLS, or there is no common protocol version.",
    "Check host and port; a proxy or load balancer may terminate TLS itself.",
)

MAX_CERTIFICATE_BYTES: Final = 64 * KiB
MAX_CONTEXTS: Final = 256
"""Kept for later connections: one for each pin of an ESXi host, and one for each set of authorities."""
_HEX: Final = re.compile(r"^(?:[0-9a-f]{40}|[0-9a-f]{64})$")


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """How one server's certificate is verified. ``thumbprint`` pins; ``known`` is a fingerprint from a known-hosts
    file, accepted where the CA check fails.

    Both are SHA-256 (64 hex digits) or SHA-1 (40), as ``parse_fingerprint`` returns them.
    """

    insecure: bool = False
    ca_bundle: Path | None = None
    thumbprint: str | None = None
    known: str | None = None


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """A certificate presented by a server, trusted or not. Fingerprints are lower-case hex without colons.

    ``subject`` and ``issuer`` are for display, like ``CN=vc.example.com, O=Example``.
    """

    sha256: str
    sha1: str
    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime


def parse_fingerprint(text: str) -> str:
    """``AA:BB:..`` or ``aabb..``, with or without ``SHA256:`` in front, as 40 or 64 lower-case hex digits. Raises
    UsageError for anything else."""
    bare = re.sub(r"^(?:sha-?(?:1|256))[:=]", "", text.strip().lower())
    digits = bare.replace(":", "").replace(" ", "")
    if not _HEX.match(digits):
        raise UsageError(
            f"'{text[:100]}' is not a certificate fingerprint",
            next_step="Give the SHA-256 (64 hex digits) or SHA-1 (40 hex digits) fingerprint, with or without colons.",
        )
    return digits


def format_fingerprint(digits: str) -> str:
    """A fingerprint for display: ``AA:BB:CC``."""
    return ":".join(digits[i : i + 2] for i in range(0, len(digits), 2)).upper()


class _PinnedSocket(ssl.SSLSocket):
    """Checks the pin of its context as part of the handshake, before anything else can be sent."""

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        try:
            _check_pin_of_context(self)
        except BaseException:
            self.close()
            raise


class _PinnedObject(ssl.SSLObject):
    """As ``_PinnedSocket``, for TLS inside the TLS of a proxy (httpx with ``HTTPS_PROXY=https://...``)."""

    def do_handshake(self) -> None:
        super().do_handshake()
        _check_pin_of_context(self)


class _PinnedContext(ssl.SSLContext):
    """Trusts the certificate with the fingerprint ``pin``, and no other."""

    sslsocket_class = _PinnedSocket
    sslobject_class = _PinnedObject
    pin: str


def _check_pin_of_context(peer: _PinnedSocket | _PinnedObject) -> None:
    assert isinstance(peer.context, _PinnedContext)
    check_pin(peer, peer.context.pin, host=str(peer.server_hostname))


def ssl_context(tls: TlsPolicy) -> ssl.SSLContext:
    """A client context whose handshake verifies the certificate by the rules of this module.

    All connections of one policy share it, since reading the authorities takes longer than a handshake: it must not be
    changed. They are read again when their file changes. Raises UsageError when the CA bundle cannot be read. The
    handshake raises ssl.SSLCertVerificationError, or ConnectError ``certificate_changed`` for another certificate than
    the pinned one.
    """
    if tls.thumbprint is not None or tls.insecure:
        return _pinned_context(tls.thumbprint)
    return _verifying_context(tls.ca_bundle, tuple(map(_version_of, _authority_places(tls.ca_bundle))))


def _authority_places(bundle: Path | None) -> list[str | Path]:
    """The files and folders that authorities are read from."""
    system = ssl.get_default_verify_paths()
    return [place for place in (system.cafile, system.capath, bundle) if place is not None]


def _version_of(place: str | Path) -> tuple[int, ...] | None:
    """Changes when the file is replaced or written, and when a file is added to the folder."""
    try:
        found = Path(place).stat()
    except OSError:
        return None  # the error is raised where it is read
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


@lru_cache(maxsize=MAX_CONTEXTS)
def _pinned_context(pin: str | None) -> ssl.SSLContext:
    """Checks the ``pin``, or nothing without one; no authorities are read."""
    context = (ssl.SSLContext if pin is None else _PinnedContext)(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if isinstance(context, _PinnedContext) and pin is not None:
        context.pin = pin
    return context


@lru_cache(maxsize=MAX_CONTEXTS)
def _verifying_context(bundle: Path | None, _versions: tuple[tuple[int, ...] | None, ...]) -> ssl.SSLContext:
    """Trusts the system's authorities and those of ``bundle``, as they are in these versions."""
    context = ssl.create_default_context()
    # vCenter's own authority issues certificates that fail the strict profile which newer Pythons switch on.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if bundle is not None:
        # An intermediate or the server's own certificate may be the anchor.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            kind = "capath" if bundle.is_dir() else "cafile"
            context.load_verify_locations(**{kind: str(bundle)})
        except (OSError, ssl.SSLError) as exc:
            raise UsageError(f"the CA bundle {bundle} cannot be used: {exc.strerror or exc}") from exc
    return context


def read_certificate(der: bytes) -> PeerCertificate:
    """A DER certificate. Raises ConnectError ``tls_failed`` when it is not one, or longer than
    ``MAX_CERTIFICATE_BYTES``."""
    from cryptography import x509
    from cryptography.utils import CryptographyDeprecationWarning

    if len(der) > MAX_CERTIFICATE_BYTES:
        raise ConnectError(
            f"the server's certificate exceeds the limit of {MAX_CERTIFICATE_BYTES} bytes", code=TLS_FAILED
        )
    try:
        with warnings.catch_warnings():  # old ESXi hosts have certificates that violate rules irrelevant here
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            found = x509.load_der_x509_certificate(der)
            return PeerCertificate(
                sha256=hashlib.sha256(der).hexdigest(),
                sha1=hashlib.sha1(der, usedforsecurity=False).hexdigest(),
                subject=_for_people(found.subject),
                issuer=_for_people(found.issuer),
                not_before=found.not_valid_before_utc,
                not_after=found.not_valid_after_utc,
            )
    except (ValueError, x509.InvalidVersion) as error:
        raise ConnectError("the server's certificate cannot be read", code=TLS_FAILED) from error


def _for_people(name: x509.Name) -> str:
    """A distinguished name, most specific part first."""
    from cryptography.x509.oid import NameOID

    labels = {NameOID.EMAIL_ADDRESS: "emailAddress"}
    text = ", ".join(part.rfc4514_string(labels) for part in reversed(name.rdns)) or "(no name)"
    return "".join(char if char.isprintable() else "?" for char in text)


def check_pin(peer: ssl.SSLSocket | ssl.SSLObject, pin: str, *, host: str) -> None:
    """Raises ConnectError ``certificate_changed`` unless the certificate of ``peer`` has the fingerprint
    ``pin``. Nothing else of the certificate is checked.
    """
    der = peer.getpeercert(binary_form=True) or b""
    digits = parse_fingerprint(pin)
    digest = hashlib.sha256(der) if len(digits) == 64 else hashlib.sha1(der, usedforsecurity=False)
    if not der or digest.hexdigest() != digits:
        shown = format_fingerprint(digest.hexdigest())
        raise ConnectError(
            f"the certificate of {host} is not the pinned one: expected {format_fingerprint(digits)}, got {shown}",
            code=CERTIFICATE_CHANGED,
            host=host,
            expected=format_fingerprint(digits),
            sha256=format_fingerprint(hashlib.sha256(der).hexdigest()),
            sha1=format_fingerprint(hashlib.sha1(der, usedforsecurity=False).hexdigest()),
        )


def unknown_error(
    host: str, reason: str, certificate: PeerCertificate | None, *, of_daemon: bool = False
) -> ConnectError:
    """The error ``certificate_unknown``, with the fingerprints where the certificate could be fetched. ``of_daemon``:
    the server is ``hypervisord``, not vSphere."""
    if certificate is None:
        return ConnectError(f"the certificate of {host} is not trusted: {reason}", code=CERTIFICATE_UNKNOWN, host=host)
    shown = format_fingerprint(certificate.sha256)
    return ConnectError(
        f"the certificate of {host} is not trusted: {reason} (SHA-256 {shown})",
        code=CERTIFICATE_UNKNOWN,
        remedies=(
            First("compare the fingerprint with the one shown on the server itself"),
            TrustCertificate(shown, of_daemon=of_daemon),
        ),
        host=host,
        sha256=shown,
        sha1=format_fingerprint(certificate.sha1),
        subject=certificate.subject,
        issuer=certificate.issuer,
        not_before=certificate.not_before.isoformat(),
        not_after=certificate.not_after.isoformat(),
    )


def peer_certificate(
    host: str, port: int, *, proxy: Proxy | None = None, timeout_s: float = CONNECT_TIMEOUT_S
) -> PeerCertificate:
    """Fetches the server's certificate, to be compared by the user: makes a TLS handshake without verification, sends
    no data, and closes the connection.

    Raises OSError (``ssl.SSLError`` included) when there is no answer, ConnectError when it is not a certificate.
    """
    context = ssl_context(TlsPolicy(insecure=True))
    with (
        dial(host, port, proxy=proxy, timeout_s=timeout_s) as sock,
        context.wrap_socket(sock, server_hostname=host) as wrapped,
    ):
        der = wrapped.getpeercert(binary_form=True)
    if not der:
        raise ConnectError("the server sent no certificate", code=TLS_FAILED)
    return read_certificate(der)
