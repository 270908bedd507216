"""Tokens and users of the daemon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from hypersdk.client.records import ApiToken, NewToken, User, objects, take
from hypersdk.client.transport import Transport
from hypersdk.secret import Secret

TOKENS: Final = "/api/v1/auth/tokens"
USERS: Final = "/api/v1/auth/users"


class Tokens:
    """API tokens: of the caller, or for an administrator of all."""

    def __init__(self, transport: Transport) -> None:
        self._transport: Final = transport

    def list(self) -> Sequence[ApiToken]:
        """Newest first, without their texts."""
        return tuple(ApiToken.of(one) for one in objects(self._transport.request("GET", TOKENS).object(), "tokens"))

    def create(self, label: str, scope: str, *, lifetime_s: float | None = None, user: str | None = None) -> NewToken:
        """A new one. ``scope`` is viewer, operator, admin or metrics. Its text is in the answer and nowhere else."""
        body: dict[str, Any] = {"label": label, "scope": scope}
        body |= {key: value for key, value in {"lifetime_s": lifetime_s, "user": user}.items() if value is not None}
        answer = self._transport.request("POST", TOKENS, json_body=body).object()
        secret = Secret(take(answer, "secret", str))
        return NewToken(ApiToken.of({key: value for key, value in answer.items() if key != "secret"}), secret)

    def revoke(self, token_id: str) -> None:
        """It is worth nothing from now on."""
        self._transport.request("DELETE", f"{TOKENS}/{quote(token_id, safe='')}")


class Users:
    """Users; for administrators."""

    def __init__(self, transport: Transport) -> None:
        self._transport: Final = transport

    def list(self) -> Sequence[User]:
        """All of them, by name."""
        return tuple(User.of(one) for one in objects(self._transport.request("GET", USERS).object(), "users"))

    def create(self, name: str, role: str, password: Secret | None = None) -> User:
        """Without a password the user comes in by tokens only."""
        body: dict[str, Any] = {"name": name, "role": role}
        if password is not None:
            body["password"] = password.reveal()
        return User.of(self._transport.request("POST", USERS, json_body=body).object())

    def change(
        self, user: str, *, role: str | None = None, password: Secret | None = None, disabled: bool | None = None
    ) -> User:
        """Changes what is given; the user's sessions end."""
        values: Mapping[str, Any] = {"role": role, "password": password and password.reveal(), "disabled": disabled}
        body = {key: value for key, value in values.items() if value is not None}
        return User.of(self._transport.request("PATCH", f"{USERS}/{quote(user, safe='')}", json_body=body).object())

    def delete(self, user: str) -> None:
        """Removes a user, with all tokens and sessions."""
        self._transport.request("DELETE", f"{USERS}/{quote(user, safe='')}")
