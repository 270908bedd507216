"""Logins on test servers, and the calls that they receive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.endpoint import Endpoint, resolve_endpoint
from hypersdk.vsphere.session import Session
from tests.support.peers import Vcsim


class Server(Protocol):
    """A server with its account."""

    @property
    def url(self) -> str: ...
    @property
    def username(self) -> str: ...
    @property
    def password(self) -> str: ...


def environ_of(server: Server) -> dict[str, str]:
    """The variables that lead to a server, its certificate not checked."""
    return {
        "GOVC_URL": server.url,
        "GOVC_USERNAME": server.username,
        "GOVC_PASSWORD": server.password,
        "GOVC_INSECURE": "1",
    }


def log_in_to(server: Server) -> Session:
    """A session on a server; to be closed by the caller."""
    return Session.connect(resolve_endpoint(environ_of(server), None), cancel=CancelToken())


def endpoint_of(server: Vcsim, **changes: str) -> Endpoint:
    """The endpoint of a vcsim, by its login URL, its certificate not checked; ``changes`` are variables of the
    environment."""
    environ = {"GOVC_URL": server.login_url, "GOVC_INSECURE": "1", "HOME": "/nonexistent", **changes}
    return resolve_endpoint(environ, None)


def connect(server: Vcsim, **options: Any) -> Session:
    """A session on a vcsim; to be closed by the caller."""
    return Session.connect(endpoint_of(server), cancel=CancelToken(), **options)


@contextmanager
def noted_calls(session: Session) -> Iterator[list[str]]:
    """The names of the API's methods that the block calls, in their order."""
    calls: list[str] = []
    plain = session.stub.SerializeRequest

    def noting(mo: Any, info: Any, args: Any) -> Any:
        calls.append(info.wsdlName)
        return plain(mo, info, args)

    session.stub.SerializeRequest = noting
    try:
        yield calls
    finally:
        del session.stub.SerializeRequest
