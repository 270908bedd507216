"""vCenter and ESXi hosts."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hypersdk.access.kinds.base import CertificateNotTrusted, EndpointLogin
from hypersdk.errors import ConnectError
from hypersdk.net.certificate import CERTIFICATE_UNKNOWN, format_fingerprint
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.connection import open_connection
from hypersdk.vsphere.endpoint import Endpoint, resolve_endpoint
from hypersdk.vsphere.session import About, Session

VSPHERE: Final = "vsphere"


class Vsphere:
    """A vCenter or ESXi host, over https."""

    name: Final = VSPHERE

    def normalize(self, login: EndpointLogin) -> EndpointLogin:
        """The password may also be in the URL."""
        found = connection_to(login)
        pin = found.tls.thumbprint
        return replace(
            login,
            url=f"https://{found.address}",
            username=found.username,
            password=found.password,
            thumbprint=None if pin is None else format_fingerprint(pin),
        )

    def is_local(self, login: EndpointLogin) -> bool:  # noqa: ARG002 - the interface's
        return False

    def check_trust(self, login: EndpointLogin) -> None:
        target = connection_to(login)
        connection = open_connection(target)
        try:
            connection.connect()
        except ConnectError as error:
            if error.code != CERTIFICATE_UNKNOWN:
                raise
            untrusted = CertificateNotTrusted(error.message, remedies=error.remedies)
            untrusted.fields.update(error.fields)
            raise untrusted from error
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ConnectError(f"{target.address} does not answer: {reason}", host=target.host) from error
        finally:
            connection.close()

    def probe(self, login: EndpointLogin) -> About:
        with Session.connect(connection_to(login), cancel=CancelToken()) as session:
            return session.about


def connection_to(login: EndpointLogin) -> Endpoint:
    """The endpoint for a login; the environment of this process is not used. Raises UsageError."""
    return resolve_endpoint(
        {},
        None,
        url=login.url,
        username=login.username or None,
        password=login.password,
        insecure=login.insecure,
        thumbprint=login.thumbprint,
        datacenter=login.datacenter,
    )
