"""Tokens and users of the daemon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from hypersdk.access.records import ApiToken, User
from hypersdk.client.paging import every
from hypersdk.client.records import Me, NewToken, decode, take
from hypersdk.client.transport import Transport, path_part
from hypersdk.secret import Secret

AUTH: Final = "/api/v1/auth"
TOKENS: Final = f"{AUTH}/tokens"
USERS: Final = f"{AUTH}/users"


class Tokens:
    """API tokens: the caller's own, or those of all users for an administrator."""

    def __init__(self, transport: Transport) -> None:
        self._transport: Final = transport

    def list(self, *, everyone: bool = False) -> Sequence[ApiToken]:
        """Newest first, without the secrets themselves."""
        found = every(self._transport, TOKENS, "tokens", {"all": True} if everyone else {})
        return tuple(decode(ApiToken, token) for token in found)

    def create(
        self,
        label: str,
        scope: str = "viewer",
        *,
        expires_in_days: float | Literal["default"] | None = "default",
        user: str | None = None,
    ) -> NewToken:
        """Creates a token. ``scope`` is viewer, operator, admin or metrics; None days: it does not expire.
        ``default``: 90 days, or until the creating token expires, whichever is sooner. The secret is in this answer
        and nowhere else."""
        body: dict[str, Any] = {"label": label, "scope": scope}
        if expires_in_days != "default":
            body["expires_in_days"] = expires_in_days
        if user is not None:
            body["user"] = user
        return _new_token(self._transport.request("POST", TOKENS, json_body=body).object())

    def revoke(self, token_id: str) -> None:
        """Takes effect immediately."""
        self._transport.request("DELETE", f"{TOKENS}/{path_part(token_id)}")


class Users:
    """Users; for administrators."""

    def __init__(self, transport: Transport) -> None:
        self._transport: Final = transport

    def list(self) -> Sequence[User]:
        """All, sorted by name."""
        return tuple(decode(User, user) for user in every(self._transport, USERS, "users"))

    def create(self, name: str, role: str, password: Secret | None = None) -> User:
        """Without a password the user can log in with tokens only."""
        body: dict[str, Any] = {"name": name, "role": role}
        if password is not None:
            body["password"] = password.reveal()
        return decode(User, self._transport.request("POST", USERS, json_body=body).object())

    def change(
        self, user: str, *, role: str | None = None, password: Secret | None = None, disabled: bool | None = None
    ) -> User:
        """Changes the given values; the user's sessions end."""
        values: Mapping[str, Any] = {"role": role, "password": password and password.reveal(), "disabled": disabled}
        body = {key: value for key, value in values.items() if value is not None}
        return decode(User, self._transport.request("PATCH", f"{USERS}/{path_part(user)}", json_body=body).object())

    def delete(self, user: str) -> None:
        """Deletes a user, with all tokens and sessions."""
        self._transport.request("DELETE", f"{USERS}/{path_part(user)}")


def who_am_i(transport: Transport) -> Me:
    """Raises AccessError if the daemon does not accept the credentials."""
    return decode(Me, transport.request("GET", f"{AUTH}/me").object())


def log_in(
    transport: Transport, username: str, password: Secret, *, label: str, expires_in_days: float | None = 30.0
) -> tuple[Me, NewToken]:
    """Starts a session with a password, creates a token in it, and ends it. ``transport`` must have no token of its
    own.

    Raises AccessError for a wrong password, TransientError where the account is locked for a while.
    """
    facts = transport.request(
        "POST", f"{AUTH}/login", json_body={"username": username, "password": password.reveal()}
    ).object()
    me = decode(Me, facts)
    session = {"X-CSRF-Token": take(facts, "csrf_token", str)}
    body = {"label": label, "scope": me.role, "expires_in_days": expires_in_days}
    try:
        return me, _new_token(transport.request("POST", TOKENS, json_body=body, headers=session).object())
    finally:
        transport.request("POST", f"{AUTH}/logout", headers=session)


def _new_token(answer: Mapping[str, Any]) -> NewToken:
    secret = Secret(take(answer, "token", str))
    return NewToken(decode(ApiToken, {key: value for key, value in answer.items() if key != "token"}), secret)
