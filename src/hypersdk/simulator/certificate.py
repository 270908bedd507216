"""Certificates made in memory: one authority for each simulator, and one certificate for each of its servers."""

from __future__ import annotations

import ssl
import tempfile
from dataclasses import dataclass
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hypersdk.net.address import ip_address
from hypersdk.net.certificate import format_fingerprint
from hypersdk.simulator.world import now


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """A TLS context with a server's certificate, and its thumbprints as ``AB:CD:...``."""

    context: ssl.SSLContext
    sha256: str
    sha1: str


class Authority:
    """A certificate authority; clients trust it only if configured to. ``pem`` is its own certificate, for a client's
    CA bundle."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("HyperSDK simulator CA")
        certificate = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str, addresses: list[str]) -> ServerCertificate:
        """A certificate for a server of that name, reached by these names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            _builder(_name(name), self._name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([_general_name(address) for address in addresses]), critical=False
            )
            .add_extension(identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        context = _context(key_pem + certificate.public_bytes(serialization.Encoding.PEM))
        sha256, sha1 = certificate.fingerprint(hashes.SHA256()), certificate.fingerprint(hashes.SHA1())  # noqa: S303
        return ServerCertificate(context, format_fingerprint(sha256.hex()), format_fingerprint(sha1.hex()))


def _context(chain_pem: bytes) -> ssl.SSLContext:
    """A server-side context. OpenSSL reads keys from files only, and not each place where the demo runs has /proc."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with tempfile.NamedTemporaryFile(prefix="hypersdk-simulator-", suffix=".pem") as chain:
        chain.write(chain_pem)
        chain.flush()
        context.load_cert_chain(chain.name)
    return context


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    begin = now() - timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=397))
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(text: str) -> x509.GeneralName:
    address = ip_address(text)
    return x509.DNSName(text) if address is None else x509.IPAddress(address)
