"""Servers that jobs connect to. Secrets go in and never come out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

import anyio
from anyio import to_thread
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints

from hypersdk.access.endpoints import ENDPOINT_UNKNOWN, NewEndpoint
from hypersdk.access.kinds import KINDS
from hypersdk.access.kinds.vsphere import VSPHERE
from hypersdk.api.context import Use
from hypersdk.api.queries import EndpointQuery
from hypersdk.api.responses import problems
from hypersdk.api.security import Admin, Operator, Viewer
from hypersdk.api.views import EndpointView, PageView, View, listed, view_of
from hypersdk.errors import LookupFailed
from hypersdk.secret import Secret
from hypersdk.vsphere.session import About

router = APIRouter(prefix="/api/v1/endpoints", tags=["endpoints"])
Id = Annotated[str, Path(max_length=128, description="Id or name of an endpoint", examples=["endpoint-3f9a1c20d4e5"])]
Line = Annotated[str, StringConstraints(max_length=1024, pattern=r"^[^\x00-\x1f\x7f]*$")]
DIALS: Final = anyio.CapacityLimiter(4)
"""Limit of concurrent calls that wait for another server, so that they do not take all threads."""
T = TypeVar("T")


class EndpointBody(BaseModel):
    """An endpoint to register. `password` or `secret_ref`, not both."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        json_schema_extra={
            "examples": [
                {
                    "name": "vc1",
                    "url": "https://vcenter.example.com",
                    "username": "export@vsphere.local",
                    "secret_ref": "env:VC1_PASSWORD",
                }
            ]
        },
    )

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    url: Annotated[Line, Field(min_length=1)]
    username: Line = ""
    password: Annotated[SecretStr, Field(max_length=4096)] | None = Field(
        default=None, json_schema_extra={"writeOnly": True}
    )
    secret_ref: Line | None = Field(
        default=None, description="Where the password is: `vault:`, `env:`, `file:` or `credential:`"
    )
    thumbprint: Line | None = Field(
        default=None, description="SHA-256 of the certificate, as the 409 of the first try shows it"
    )
    insecure: bool = Field(default=False, description="Trust any certificate")
    datacenter: Line | None = None
    default: bool = Field(default=False, description="Jobs that name no endpoint of this kind use this one")
    kind: str = Field(default=VSPHERE, max_length=64, json_schema_extra={"enum": [*sorted(KINDS)]})


class EndpointsView(PageView):
    """Sorted by name by default."""

    endpoints: list[EndpointView]


@view_of(About)
class ServerView(View):
    """The server's description of itself."""


async def _dial(call: Callable[..., T], *arguments: Any) -> T:
    return await to_thread.run_sync(call, *arguments, limiter=DIALS)


@router.post(
    "",
    operation_id="create_endpoint",
    summary="Register a vCenter, ESXi host or hypervisor",
    status_code=201,
    responses=problems(409, 502),
)
async def create(body: EndpointBody, use: Use, _: Admin) -> EndpointView:
    """Connects to see the certificate. One that is not trusted is answered with 409 `certificate_unknown` and its
    fingerprint in `sha256`: compare it with the one shown on the server itself, and repeat the request with it as
    `thumbprint`."""
    password = None if body.password is None else Secret(body.password.get_secret_value())
    new = NewEndpoint(
        name=body.name,
        url=body.url,
        username=body.username,
        password=password,
        secret_ref=body.secret_ref,
        thumbprint=body.thumbprint,
        insecure=body.insecure,
        datacenter=body.datacenter,
        default=body.default,
        kind=body.kind,
    )
    return EndpointView.model_validate(await _dial(use.endpoints.create, new))


@router.get("", operation_id="list_endpoints", summary="List endpoints", responses=problems())
def list_endpoints(query: Annotated[EndpointQuery, Query()], use: Use, _: Viewer) -> EndpointsView:
    """Filtered and sorted by any column."""
    found = use.endpoints.page(query.where(), query.part())
    return EndpointsView(endpoints=[EndpointView.model_validate(endpoint) for endpoint in found.rows], **listed(found))


@router.get("/{id}", operation_id="get_endpoint", summary="One endpoint", responses=problems(404))
def get(id: Id, use: Use, _: Viewer) -> EndpointView:  # noqa: A002 - the parameter's name
    """By id or name."""
    return EndpointView.model_validate(use.endpoints.get(_key(id)))


@router.delete(
    "/{id}", operation_id="delete_endpoint", summary="Delete an endpoint", status_code=204, responses=problems(404, 409)
)
def delete(id: Id, use: Use, _: Admin) -> None:  # noqa: A002
    """With its password. Refused while a job uses it that has not ended, or that still has changes at its source to
    undo."""
    use.endpoints.delete(_key(id))


@router.post(
    "/{id}/test", operation_id="test_endpoint", summary="Log in and out again", responses=problems(404, 409, 502)
)
async def test(id: Id, use: Use, _: Operator) -> ServerView:  # noqa: A002
    """Returns the server's description of itself; 502 says what failed."""
    return ServerView.model_validate(await _dial(use.endpoints.probe, _key(id)))


@router.post("/{id}/default", operation_id="default_endpoint", summary="Make it the default", responses=problems(404))
def make_default(id: Id, use: Use, _: Admin) -> EndpointView:  # noqa: A002
    """For jobs that name no endpoint."""
    return EndpointView.model_validate(use.endpoints.make_default(_key(id)))


def _key(text: str) -> str:
    """A string that cannot be the name of an endpoint is not passed to the database."""
    if not (text.isascii() and text.isprintable()):
        raise LookupFailed("there is no endpoint of that name", code=ENDPOINT_UNKNOWN)
    return text
