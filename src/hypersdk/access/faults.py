"""Errors of authentication and authorization."""

from __future__ import annotations

import re
from typing import Final

from hypersdk.errors import AccessError, HyperSDKError, UsageError, register
from hypersdk.remedies import LogIn, Look, UseToken

UNAUTHENTICATED: Final = register(
    "unauthenticated",
    "The request has no valid token or session.",
    LogIn(),
    UseToken(),
)
LOGIN_WRONG: Final = register(
    "login_wrong", "The user name or the password is wrong.", "Try again; an administrator can set a new password."
)
LOGIN_LOCKED: Final = register(
    "login_locked",
    "There were too many failed logins for this user or from this address.",
    "Wait for the time given in Retry-After, or use an API token.",
)
FORBIDDEN: Final = register(
    "forbidden",
    "The caller's role does not permit this.",
    "Ask an administrator for the role.",
    Look("permissions"),
)
USER_UNKNOWN: Final = register(
    "user_unknown",
    "There is no such user.",
    Look("users"),
    "On the daemon's host, `hypervisord user list` and `hypervisord user add NAME` need no login.",
)
USER_EXISTS: Final = register(
    "user_exists", "A user with that name exists.", "Choose another name, or change that user."
)
USER_INVALID: Final = register(
    "user_invalid", "The user definition is invalid.", "Correct the field that the message names."
)
LAST_ADMIN: Final = register(
    "last_admin",
    "This is the last administrator; without one, nobody could manage users.",
    "Make another user an administrator first.",
)
TOKEN_UNKNOWN: Final = register("token_unknown", "There is no such token.", Look("tokens"))
TOKEN_INVALID: Final = register(
    "token_invalid", "The token request is invalid.", "Correct the field that the message names."
)
TOKEN_OUTLIVES: Final = register(
    "token_outlives",
    "A token can only create tokens that expire no later than itself.",
    "Request a shorter lifetime.",
    LogIn(longer=True),
)
TOKEN_ABOVE: Final = register(
    "token_above",
    "A token can revoke itself, and tokens whose scope is not above its own.",
    "Use a token with that scope.",
    LogIn(),
)
_ID: Final = re.compile(r"^(user|token|endpoint|job)-[0-9a-f]{12}\Z")


class Unauthenticated(AccessError):  # noqa: N818 - named after what happened
    """The caller is not authenticated."""

    default_code = UNAUTHENTICATED


class Forbidden(AccessError):  # noqa: N818
    """The caller is authenticated and not authorized."""

    default_code = FORBIDDEN


class TooMany(HyperSDKError):  # noqa: N818
    """Too many attempts. ``retry_after_s`` in the fields is the time until the next one is allowed."""

    exit_status = 4
    default_code = LOGIN_LOCKED


class Conflict(UsageError):  # noqa: N818
    """The change conflicts with what exists."""


def known_form(key: str) -> bool:
    """Whether ``key`` could be an id or a name at all. Anything else (NUL, lone surrogates) is not passed to the
    database, which would fail on it."""
    return 0 < len(key) <= 200 and key.isascii() and key.isprintable()


def looks_like_id(name: str) -> bool:
    """Whether ``name`` looks like a generated id. Users and endpoints are looked up by both, so such names are not
    allowed."""
    return _ID.match(name) is not None
