"""The vCenter and ESXi hosts registered with the daemon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from hypersdk.access.records import EndpointInfo
from hypersdk.client.paging import every
from hypersdk.client.records import decode
from hypersdk.client.transport import Transport, path_part
from hypersdk.secret import Secret

ENDPOINTS: Final = "/api/v1/endpoints"
DIAL_S: Final = 120.0
"""The daemon contacts another server first, which may be slow."""


class Endpoints:
    """Create, test, list, delete. Passwords are never returned."""

    def __init__(self, transport: Transport) -> None:
        self._transport: Final = transport

    def list(self) -> Sequence[EndpointInfo]:
        """All, sorted by name."""
        return tuple(decode(EndpointInfo, endpoint) for endpoint in every(self._transport, ENDPOINTS, "endpoints"))

    def get(self, endpoint: str) -> EndpointInfo:
        """By id or name. Raises LookupFailed."""
        return decode(EndpointInfo, self._transport.request("GET", _path(endpoint)).object())

    def create(
        self,
        name: str,
        url: str,
        username: str = "",
        password: Secret | None = None,
        *,
        secret_ref: str | None = None,
        thumbprint: str | None = None,
        insecure: bool = False,
        datacenter: str | None = None,
        default: bool = False,
    ) -> EndpointInfo:
        """Registers an endpoint. ``secret_ref`` is a reference to the password that the daemon resolves (``vault:``,
        ``env:``, ``file:``).

        Raises Refused ``certificate_unknown`` with the certificate's fingerprint as ``sha256`` in its fields if it is
        not
        trusted: compare it with the one shown on the server itself, then call again with it as ``thumbprint``.
        """
        more = {
            "secret_ref": secret_ref,
            "thumbprint": thumbprint,
            "insecure": insecure,
            "datacenter": datacenter,
            "default": default,
        }
        body: dict[str, Any] = {"name": name, "url": url, "username": username}
        body |= {key: value for key, value in more.items() if value}
        if password is not None:
            body["password"] = password.reveal()
        return decode(
            EndpointInfo, self._transport.request("POST", ENDPOINTS, json_body=body, timeout_s=DIAL_S).object()
        )

    def make_default(self, endpoint: str) -> EndpointInfo:
        """Jobs that name no endpoint use this one."""
        return decode(EndpointInfo, self._transport.request("POST", f"{_path(endpoint)}/default").object())

    def test(self, endpoint: str) -> Mapping[str, Any]:
        """Logs in and out; returns the server's description of itself. Raises the error if that fails."""
        return self._transport.request("POST", f"{_path(endpoint)}/test", timeout_s=DIAL_S).object()

    def delete(self, endpoint: str) -> None:
        """Deletes it and its password."""
        self._transport.request("DELETE", _path(endpoint))


def _path(endpoint: str) -> str:
    return f"{ENDPOINTS}/{path_part(endpoint)}"
