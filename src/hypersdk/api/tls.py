"""TLS of the daemon: certificate files or a self-signed certificate, and their renewal without losing connections."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import logging
import socket
import ssl
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hypersdk.access.files import write_private
from hypersdk.errors import UsageError, register
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.net.certificate import format_fingerprint

LOG: Final = logging.getLogger(__name__)
TLS_FILES: Final = register(
    "tls_files",
    "Certificate and key cannot be used together.",
    "Give PEM files: `tls_cert` with the certificate and its chain, `tls_key` with its key, without a passphrase.",
)
SELF_SIGNED: Final = "tls.pem"
LIFE_DAYS: Final = 397
"""The longest lifetime of a certificate that browsers accept."""
RENEW_DAYS: Final = 30


class ReloadableTls:
    """A context for listening sockets, whose certificate can be replaced: later handshakes use the new one, existing
    connections continue.

    The listening context only passes each handshake to the current one: loading a second certificate into a context in
    use would keep the old one beside it if their kinds of keys differ.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._files = (cert, key)
        self._current = _context(cert, key)
        self.context: Final = _context(cert, key)
        self.context.sni_callback = self._choose

    def reload(self) -> bool:
        """Reloads the files. False if they cannot be used: the old certificate is kept, and the reason is logged."""
        try:
            self._current = _context(*self._files)
        except UsageError as error:
            LOG.error("the certificate was not reloaded, the old one stays: %s", error.message)
            return False
        LOG.info("certificate reloaded from %s", self._files[0])
        return True

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current


def tls_of(settings: DaemonSettings) -> ReloadableTls | None:
    """The TLS of the settings; None for plain HTTP. Raises UsageError ``tls_files``."""
    if settings.tls_cert is not None and settings.tls_key is not None:
        return ReloadableTls(settings.tls_cert, settings.tls_key)
    if not settings.tls_self_signed:
        return None
    path = settings.state_dir / SELF_SIGNED
    if not _still_good(path):
        host = settings.addr.rpartition(":")[0].strip("[]")
        write_private(path, self_signed(_names(host)))
        LOG.warning("created a self-signed certificate: %s", path)
    LOG.info("SHA-256 fingerprint of the certificate: %s", fingerprint(path))
    return ReloadableTls(path, path)


def self_signed(names: list[str], *, now: datetime.datetime | None = None) -> str:
    """A new key and its certificate for these names and addresses, as PEM."""
    now = now or datetime.datetime.now(datetime.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=LIFE_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (secret + certificate.public_bytes(serialization.Encoding.PEM)).decode("ascii")


def fingerprint(path: Path) -> str:
    """SHA-256 fingerprint of the first certificate in a PEM file, in pairs of digits for comparison."""
    der = x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(serialization.Encoding.DER)
    return format_fingerprint(hashlib.sha256(der).hexdigest())


def _context(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except (OSError, ssl.SSLError, ValueError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or type(error).__name__
        raise UsageError(f"{cert} and {key} cannot be used: {reason}", code=TLS_FILES) from error
    return context


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")  # OpenSSL would ask at the terminal


def _still_good(path: Path) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return False
    return certificate.not_valid_after_utc > datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=RENEW_DAYS)


def _names(host: str) -> list[str]:
    own = [] if host in ("", "0.0.0.0", "::", "localhost") else [host]  # noqa: S104 - compared, not listened on
    return list(dict.fromkeys([*own, socket.gethostname(), "localhost", "127.0.0.1", "::1"]))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
