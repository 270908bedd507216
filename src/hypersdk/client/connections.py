"""The daemon's connections to vCenter and ESXi."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from hypersdk.client.records import EndpointInfo, objects
from hypersdk.client.transport import Transport
from hypersdk.secret import Secret

ENDPOINTS: Final = "/api/v1/endpoints"


class Endpoints:
    """Create, test, list, delete. A password goes in and never comes out."""

    def __init__(self, transport: Transport) -> None:
        self._transport: Final = transport

    def list(self) -> Sequence[EndpointInfo]:
        """All of them, by name."""
        return tuple(
            EndpointInfo.of(one) for one in objects(self._transport.request("GET", ENDPOINTS).object(), "endpoints")
        )

    def get(self, endpoint: str) -> EndpointInfo:
        """By id or name. Raises LookupFailed."""
        return EndpointInfo.of(self._transport.request("GET", _path(endpoint)).object())

    def create(
        self, name: str, url: str, username: str, password: Secret | str, *, thumbprint: str | None = None,
        insecure: bool = False, datacenter: str | None = None, default: bool = False,
    ) -> EndpointInfo:  # fmt: skip
        """Keeps a connection. Raises Refused ``certificate_unknown`` with the certificate's print in ``fields`` where nobody vouches for it:
        compare it, then call again with ``thumbprint``. ``password`` may be a reference: ``vault:``, ``env:`` or ``file:``."""
        body: dict[str, Any] = {
            "name": name, "url": url, "username": username,
            "password": password.reveal() if isinstance(password, Secret) else password,
        }  # fmt: skip
        more = {"thumbprint": thumbprint, "insecure": insecure, "datacenter": datacenter, "is_default": default}
        body |= {key: value for key, value in more.items() if value}
        return EndpointInfo.of(self._transport.request("POST", ENDPOINTS, json_body=body).object())

    def test(self, endpoint: str) -> Mapping[str, Any]:
        """Logs in and out. Raises the error where that fails."""
        return self._transport.request("POST", f"{_path(endpoint)}/test", json_body={}).object()

    def delete(self, endpoint: str) -> None:
        """Forgets it, with its password."""
        self._transport.request("DELETE", _path(endpoint))


def _path(endpoint: str) -> str:
    return f"{ENDPOINTS}/{quote(endpoint, safe='')}"
