"""Roles, and what a token may be narrowed to.

::

    viewer reads everything except exported files
    operator also submits, cancels, pauses, retries jobs, downloads their files
    admin also manages users, tokens of others, endpoints
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from hypersdk.secret import Secret

METRICS: Final = "metrics"
"""Scope of a token that may read ``/metrics`` and nothing else."""


class Role(StrEnum):
    """What a user may do. Each role includes those before it."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def allows(self, needed: Role) -> bool:
        """Whether this role includes ``needed``."""
        return SCOPES.index(self) >= SCOPES.index(needed)


SCOPES: Final = (METRICS, *(role.value for role in Role))
"""Of a token, from the least to the most."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The authenticated caller. ``role`` is None for a token that may only read metrics. ``csrf`` is the token that a
    session's writes must carry; ``expires_at`` is when token or session end, None for a token that does not."""

    user_id: str
    name: str
    role: Role | None
    scope: str
    token_id: str | None = None
    csrf: Secret | None = None
    expires_at: float | None = None


ACTIONS: Final[Mapping[str, Role]] = {
    "jobs.view": Role.VIEWER,
    "jobs.submit": Role.OPERATOR,
    "jobs.cancel": Role.OPERATOR,
    "jobs.pause": Role.OPERATOR,
    "jobs.resume": Role.OPERATOR,
    "jobs.retry": Role.OPERATOR,
    "jobs.delete": Role.OPERATOR,
    "jobs.download": Role.OPERATOR,
    "endpoints.view": Role.VIEWER,
    "endpoints.test": Role.OPERATOR,
    "endpoints.create": Role.ADMIN,
    "endpoints.delete": Role.ADMIN,
    "workers.view": Role.VIEWER,
    "metrics.view": Role.VIEWER,
    "tokens.own": Role.VIEWER,
    "tokens.others": Role.ADMIN,
    "users.view": Role.ADMIN,
    "users.change": Role.ADMIN,
    "audit.view": Role.ADMIN,
}
"""The role that each action needs; the source of ``permissions``."""


@dataclass(frozen=True, slots=True)
class Permission:
    """Whether ``action`` is allowed, and the reason if not."""

    action: str
    allowed: bool
    needs: Role
    reason: str | None


def permissions(role: Role | None) -> list[Permission]:
    """All actions for a caller of that role; None is a caller that may only read metrics."""
    found = []
    for action, needed in ACTIONS.items():
        if role is None:
            allowed, reason = action == "metrics.view", "this token may only read metrics"
        else:
            allowed, reason = role.allows(needed), f"needs the role {needed}; you have {role}"
        found.append(Permission(action, allowed, needed, None if allowed else reason))
    return found
