"""Users, tokens, endpoints and entries of the audit trail, as the API shows them: without secrets. Each column is
declared here and nowhere else (see ``resource``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

from hypersdk.access.roles import Role
from hypersdk.resource import LARGE, ListColumn, ListRecord, Resource, TableColumn

Scope: TypeAlias = Literal["viewer", "operator", "admin", "metrics"]


@dataclass(frozen=True, slots=True, kw_only=True)
class User(ListRecord):
    """A user of the daemon."""

    id: Annotated[str, ListColumn(table=TableColumn("ID", 5, optional=True, style="dim"))]
    name: Annotated[str, ListColumn(table=TableColumn("Name", 1, least=12, style="bold"))]
    role: Annotated[str, ListColumn(choices=Role, facet=True, table=TableColumn("Role", 2))]
    has_password: Annotated[bool, ListColumn("False: the user logs in with tokens only")] = False
    disabled: Annotated[bool, ListColumn(facet=True, table=TableColumn("Login", 3))] = False
    locked_until: Annotated[datetime | None, ListColumn("After too many wrong passwords")] = None
    created_at: Annotated[datetime, ListColumn(table=TableColumn("Created", 4, optional=True, style="dim"))]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiToken(ListRecord):
    """What is known of a token after it was created: everything but its text."""

    id: Annotated[str, ListColumn(table=TableColumn("ID", 1, style="bold"))]
    user_id: str = ""
    user: Annotated[str, ListColumn("Name of the user", table=TableColumn("User", 3, least=8, optional=True))] = ""
    label: Annotated[str, ListColumn(part=True, table=TableColumn("Label", 2, least=12))] = ""
    scope: Annotated[str, ListColumn("A role, or metrics", choices=Scope, facet=True, table=TableColumn("Scope", 4))]
    created_at: Annotated[datetime, ListColumn(table=TableColumn("Created", 7, optional=True, style="dim"))]
    expires_at: Annotated[datetime | None, ListColumn("Null: never", table=TableColumn("Expires", 5))] = None
    used_at: Annotated[datetime | None, ListColumn(table=TableColumn("Last used", 6, optional=True, style="dim"))] = (
        None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointInfo(ListRecord):
    """A vCenter, ESXi host or hypervisor that the daemon knows. Its password is never returned."""

    id: Annotated[str, ListColumn(table=TableColumn("ID", 6, optional=True, style="dim"))]
    name: Annotated[str, ListColumn(table=TableColumn("Name", 1, style="bold"))]
    kind: Annotated[str, ListColumn(facet=True)] = "vsphere"
    url: Annotated[str, ListColumn(part=True, table=TableColumn("URL", 2, least=20))] = ""
    username: Annotated[str, ListColumn(table=TableColumn("User", 3, least=10))] = ""
    has_password: bool = False
    secret_ref: Annotated[str | None, ListColumn("Where the password is, if the daemon looks it up", part=True)] = None
    thumbprint: Annotated[
        str | None, ListColumn("Of the pinned certificate", table=TableColumn("Trust", 5, optional=True))
    ] = None
    insecure: Annotated[bool, ListColumn("Any certificate is trusted")] = False
    datacenter: str | None = None
    is_default: Annotated[bool, ListColumn(table=TableColumn("Default", 4, style="green"))] = False
    created_at: datetime
    revision: Annotated[int, ListColumn(bounds=LARGE)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry(ListRecord):
    """One entry of the audit trail. ``outcome`` is ``ok``, ``partial`` where some of many failed, or the code or status
    of the refusal."""

    number: Annotated[int, ListColumn(bounds=LARGE)]
    at: Annotated[datetime, ListColumn(table=TableColumn("Time", 1, style="dim"))]
    actor: Annotated[str, ListColumn(table=TableColumn("Actor", 2, least=8, style="bold"))]
    address: Annotated[str, ListColumn(table=TableColumn("Address", 7, optional=True, style="dim"))]
    action: Annotated[str, ListColumn(facet=True, table=TableColumn("Action", 4, least=20))]
    object: Annotated[str, ListColumn(part=True, table=TableColumn("Object", 6, least=16, optional=True))]
    outcome: Annotated[str, ListColumn(facet=True, table=TableColumn("Outcome", 3, least=7))]
    detail: Annotated[Mapping[str, Any], ListColumn(part=True, table=TableColumn("Detail", 5, least=16))]


USERS: Final = Resource("users", User, key="id", sort="name")
TOKENS: Final = Resource("tokens", ApiToken, key="id", sort="-created_at")
ENDPOINTS: Final = Resource("endpoints", EndpointInfo, key="id", sort="name")
AUDIT: Final = Resource("entries", AuditEntry, key="number", sort="-number")
