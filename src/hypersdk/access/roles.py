"""Roles, and what a token may be narrowed to.

::

    viewer    sees everything but the files of exports, changes nothing
    operator  and submits, cancels, pauses, retries jobs, downloads their files
    admin     and keeps users, tokens of others, endpoints
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

METRICS: Final = "metrics"
"""Scope of a token that may read ``/metrics`` and nothing else."""


class Role(StrEnum):
    """What a user may do. Each role may do all that those before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def allows(self, needed: Role) -> bool:
        """Whether this role may do what needs ``needed``."""
        return _RANK[self] >= _RANK[needed]


_RANK: Final = {role: rank for rank, role in enumerate(Role)}
SCOPES: Final = (*(role.value for role in Role), METRICS)

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
"""What needs which role; what ``permissions`` answers from."""


@dataclass(frozen=True, slots=True)
class Permission:
    """Whether ``action`` is allowed, and if not, why not."""

    action: str
    allowed: bool
    needs: Role
    reason: str | None


def permissions(role: Role | None) -> list[Permission]:
    """Every action for a caller of that role; None is a caller that may only read metrics."""
    return [_permission(action, needed, role) for action, needed in ACTIONS.items()]


def _permission(action: str, needed: Role, role: Role | None) -> Permission:
    if role is None:
        allowed = action == "metrics.view"
        return Permission(action, allowed, needed, None if allowed else "this token may only read metrics")
    allowed = role.allows(needed)
    return Permission(action, allowed, needed, None if allowed else f"needs the role {needed}; you have {role}")
