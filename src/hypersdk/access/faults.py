"""What can go wrong at the door."""

from __future__ import annotations

import re
from typing import Final

from hypersdk.errors import AccessError, HyperSDKError, LookupFailed, UsageError, register

UNAUTHENTICATED: Final = register(
    "unauthenticated",
    "The request shows no token or session that is valid.",
    "Log in with `hyperctl login`, or pass a token with --token-file.",
)
LOGIN_WRONG: Final = register(
    "login_wrong", "The name or the password is not right.", "Try again; an administrator can set a new password."
)
LOGIN_LOCKED: Final = register(
    "login_locked",
    "There were too many wrong passwords for this user or from this address.",
    "Wait as long as Retry-After says, or use an API token.",
)
FORBIDDEN: Final = register(
    "forbidden",
    "The caller's role does not allow this.",
    "Ask an administrator for the role; `GET /api/v1/auth/permissions` says which is needed.",
)
USER_UNKNOWN: Final = register(
    "user_unknown",
    "There is no such user.",
    "See `hyperctl users list`; on the daemon's machine, `hypervisord user list`, and `hypervisord user add NAME --role"
    " admin` makes an administrator.",
)
USER_EXISTS: Final = register(
    "user_exists", "There is a user of that name.", "Choose another name, or change that user."
)
USER_INVALID: Final = register(
    "user_invalid", "The user cannot be like that.", "The message names the field and what it takes."
)
LAST_ADMIN: Final = register(
    "last_admin",
    "It is the last administrator; without one, nobody could let anyone in.",
    "Make another user an administrator first.",
)
TOKEN_UNKNOWN: Final = register("token_unknown", "There is no such token.", "See `GET /api/v1/auth/tokens`.")
TOKEN_INVALID: Final = register(
    "token_invalid", "A token cannot be made like that.", "The message names the field and what it takes."
)
TOKEN_OUTLIVES: Final = register(
    "token_outlives",
    "A token makes only tokens that end no later than itself.",
    "Ask for a shorter life, or log in for longer first: `hyperctl login --days N`.",
)
TOKEN_ABOVE: Final = register(
    "token_above",
    "A token revokes itself, and tokens whose scope is not above its own.",
    "Use a token of that scope, or log in.",
)
_ID: Final = re.compile(r"^(user|token|endpoint|job)-[0-9a-f]{12}\Z")


class Unauthenticated(AccessError):  # noqa: N818 - these read as what happened
    """Nobody is known to be asking."""

    default_code = UNAUTHENTICATED


class Forbidden(AccessError):  # noqa: N818
    """Who asks is known, and may not."""

    default_code = FORBIDDEN


class LoginRefused(Unauthenticated):
    """Wrong name or password; it does not say which."""

    default_code = LOGIN_WRONG


class TooMany(HyperSDKError):  # noqa: N818
    """Too often. ``retry_after_s`` among the fields says when it may be tried again."""

    exit_status = 4
    default_code = LOGIN_LOCKED


class AccountUnknown(LookupFailed):
    """No such user or token."""

    default_code = USER_UNKNOWN


class AccountConflict(UsageError):  # noqa: N818
    """The change contradicts what is there."""

    default_code = USER_EXISTS


def known_form(key: str) -> bool:
    """Whether ``key`` could be an id or a name at all. What could not (NUL, lone surrogates) is not shown to the
    database, which would fail on it."""
    return 0 < len(key) <= 200 and key.isascii() and key.isprintable()


def looks_like_id(name: str) -> bool:
    """Whether ``name`` could be taken for an id of ours. Users and endpoints are asked for by either, so none is named
    like that."""
    return _ID.match(name) is not None
