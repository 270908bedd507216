"""Users, tokens, endpoints and lines of the audit trail, as everybody may see them: no secret has a place in any of
them. Each column is declared here and nowhere else (see ``resource``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

from hypersdk.access.roles import Role
from hypersdk.resource import LARGE, Cell, Column, Record, Resource

Scope: TypeAlias = Literal["viewer", "operator", "admin", "metrics"]


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Record):
    """A user of the daemon."""

    id: Annotated[str, Column(cell=Cell("ID", 5, optional=True, style="dim"))]
    name: Annotated[str, Column(cell=Cell("Name", 1, least=12, style="bold"))]
    role: Annotated[str, Column(choices=Role, facet=True, cell=Cell("Role", 2))]
    has_password: Annotated[bool, Column("False: the user logs in with tokens only")] = False
    disabled: Annotated[bool, Column(facet=True, cell=Cell("Login", 3))] = False
    locked_until: Annotated[datetime | None, Column("After too many wrong passwords")] = None
    created_at: Annotated[datetime, Column(cell=Cell("Created", 4, optional=True, style="dim"))]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiToken(Record):
    """What is known of a token after it was created: everything but its text."""

    id: Annotated[str, Column(cell=Cell("ID", 1, style="bold"))]
    user_id: str = ""
    user: Annotated[str, Column("Name of the user", cell=Cell("User", 3, least=8, optional=True))] = ""
    label: Annotated[str, Column(part=True, cell=Cell("Label", 2, least=12))] = ""
    scope: Annotated[str, Column("A role, or metrics", choices=Scope, facet=True, cell=Cell("Scope", 4))]
    created_at: Annotated[datetime, Column(cell=Cell("Created", 7, optional=True, style="dim"))]
    expires_at: Annotated[datetime | None, Column("Null: never", cell=Cell("Expires", 5))] = None
    used_at: Annotated[datetime | None, Column(cell=Cell("Last used", 6, optional=True, style="dim"))] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointInfo(Record):
    """A vCenter or ESXi host that the daemon knows. Its password is never returned."""

    id: Annotated[str, Column(cell=Cell("ID", 6, optional=True, style="dim"))]
    name: Annotated[str, Column(cell=Cell("Name", 1, style="bold"))]
    kind: Annotated[str, Column(facet=True)] = "vsphere"
    url: Annotated[str, Column(part=True, cell=Cell("URL", 2, least=20))] = ""
    username: Annotated[str, Column(cell=Cell("User", 3, least=10))] = ""
    has_password: bool = False
    secret_ref: Annotated[str | None, Column("Where the password is, if the daemon looks it up", part=True)] = None
    thumbprint: Annotated[str | None, Column("Of the pinned certificate", cell=Cell("Trust", 5, optional=True))] = None
    insecure: Annotated[bool, Column("Any certificate is trusted")] = False
    datacenter: str | None = None
    is_default: Annotated[bool, Column(cell=Cell("Default", 4, style="green"))] = False
    created_at: datetime
    revision: Annotated[int, Column(bounds=LARGE)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry(Record):
    """One line of the audit trail. ``outcome`` is ``ok``, ``partial`` where some of many failed, or the code or status
    of the refusal."""

    number: Annotated[int, Column(bounds=LARGE)]
    at: datetime
    actor: str
    address: str
    action: Annotated[str, Column(facet=True)]
    object: Annotated[str, Column(part=True)]
    outcome: Annotated[str, Column(facet=True)]
    detail: Annotated[Mapping[str, Any], Column(part=True)]


USERS: Final = Resource("users", User, key="id", sort="name")
TOKENS: Final = Resource("tokens", ApiToken, key="id", sort="-created_at")
ENDPOINTS: Final = Resource("endpoints", EndpointInfo, key="id", sort="name")
AUDIT: Final = Resource("entries", AuditEntry, key="number", sort="-number")
