"""The interface of a kind of endpoint: checking its address, verifying its server's certificate, and logging in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hypersdk.errors import ConnectError, register
from hypersdk.net.certificate import CERTIFICATE_UNKNOWN
from hypersdk.secret import Secret
from hypersdk.vsphere.session import About

ENDPOINT_INVALID = register(
    "endpoint_invalid", "The endpoint definition is invalid.", "Correct the field that the message names."
)


class CertificateNotTrusted(ConnectError):  # noqa: N818 - these read as what happened
    """The certificate is not trusted; ``sha256`` among the fields is its fingerprint, to be compared and sent back as
    ``thumbprint``."""

    default_code = CERTIFICATE_UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointLogin:
    """Address and login of a server. ``thumbprint`` pins the certificate; ``insecure`` trusts any certificate."""

    url: str
    username: str = ""
    password: Secret | None = None
    thumbprint: str | None = None
    insecure: bool = False
    datacenter: str | None = None


class EndpointKind(Protocol):
    """One kind. Stateless; each call may block as long as a connection does."""

    @property
    def name(self) -> str:
        """The name that is stored and shown."""

    def normalize(self, login: EndpointLogin) -> EndpointLogin:
        """The login in the form in which it is stored: no credentials in the URL, one spelling for each value. Makes no
        connection. Raises UsageError."""

    def is_local(self, login: EndpointLogin) -> bool:
        """Whether the address is a socket of whichever machine connects to it."""

    def check_trust(self, login: EndpointLogin) -> None:
        """Connects without logging in. Raises CertificateNotTrusted where the certificate must be pinned, ConnectError
        where it is not the pinned one or the server does not answer."""

    def probe(self, login: EndpointLogin) -> About:
        """Logs in and out again. Raises ConnectError, AccessError, UsageError."""
