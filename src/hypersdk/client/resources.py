"""Endpoints, tokens and users of the daemon."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from hypersdk.access.records import ApiToken, AuditEntry, EndpointInfo, User
from hypersdk.client.records import Me, NewToken, Raw, decode, objects, take
from hypersdk.client.transport import Params, Transport, path_part
from hypersdk.secret import Secret

AUTH: Final = "/api/v1/auth"
TOKENS: Final = f"{AUTH}/tokens"
USERS: Final = f"{AUTH}/users"
ENDPOINTS: Final = "/api/v1/endpoints"
AUDIT_PAGE: Final = 500
MAX_ENTRIES: Final = 2**31
"""More than an audit trail has."""
DIAL_S: Final = 120.0
"""The daemon contacts another server first, which may be slow."""


class Endpoints:
    """Create, test, list, delete. Passwords are never returned."""

    def __init__(self, transport: Transport) -> None:
        self._transport: Final = transport

    def list(self) -> Sequence[EndpointInfo]:
        """All, sorted by name."""
        return tuple(decode(EndpointInfo, endpoint) for endpoint in every(self._transport, ENDPOINTS, "endpoints"))

    def get(self, endpoint: str) -> EndpointInfo:
        """By id or name. Raises LookupFailed."""
        return decode(EndpointInfo, self._transport.request("GET", _path(endpoint)))

    def create(
        self,
        name: str,
        url: str,
        username: str = "",
        password: Secret | None = None,
        *,
        secret_ref: str | None = None,
        thumbprint: str | None = None,
        insecure: bool = False,
        datacenter: str | None = None,
        default: bool = False,
        kind: str | None = None,
    ) -> EndpointInfo:
        """Registers an endpoint; without a ``kind``, a vCenter or ESXi host. ``secret_ref`` is a reference to the
        password that the daemon resolves (``vault:``, ``env:``, ``file:``, ``credential:``).

        Raises Refused ``certificate_unknown`` with the certificate's fingerprint as ``sha256`` in its fields if it is
        not
        trusted: compare it with the one shown on the server itself, then call again with it as ``thumbprint``.
        """
        more = {
            "secret_ref": secret_ref,
            "thumbprint": thumbprint,
            "insecure": insecure,
            "datacenter": datacenter,
            "default": default,
            "kind": kind,
        }
        body: dict[str, Any] = {"name": name, "url": url, "username": username}
        body |= {key: value for key, value in more.items() if value}
        if password is not None:
            body["password"] = password.reveal()
        return decode(EndpointInfo, self._transport.request("POST", ENDPOINTS, json_body=body, timeout_s=DIAL_S))

    def make_default(self, endpoint: str) -> EndpointInfo:
        """Jobs that name no endpoint use this one."""
        return decode(EndpointInfo, self._transport.request("POST", f"{_path(endpoint)}/default"))

    def test(self, endpoint: str) -> Mapping[str, Any]:
        """Logs in and out; returns the server's description of itself. Raises the error if that fails."""
        return self._transport.request("POST", f"{_path(endpoint)}/test", timeout_s=DIAL_S)

    def delete(self, endpoint: str) -> None:
        """Deletes it and its password."""
        self._transport.request("DELETE", _path(endpoint))


def _path(endpoint: str) -> str:
    return f"{ENDPOINTS}/{path_part(endpoint)}"


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
        return _new_token(self._transport.request("POST", TOKENS, json_body=body))

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
        return decode(User, self._transport.request("POST", USERS, json_body=body))

    def change(
        self, user: str, *, role: str | None = None, password: Secret | None = None, disabled: bool | None = None
    ) -> User:
        """Changes the given values; the user's sessions end."""
        values: Mapping[str, Any] = {"role": role, "password": password and password.reveal(), "disabled": disabled}
        body = {key: value for key, value in values.items() if value is not None}
        return decode(User, self._transport.request("PATCH", f"{USERS}/{path_part(user)}", json_body=body))

    def delete(self, user: str) -> None:
        """Deletes a user, with all tokens and sessions."""
        self._transport.request("DELETE", f"{USERS}/{path_part(user)}")


def who_am_i(transport: Transport) -> Me:
    """Raises AccessError if the daemon does not accept the credentials."""
    return decode(Me, transport.request("GET", f"{AUTH}/me"))


def audit_trail(transport: Transport, where: Mapping[str, Any], limit: int | None) -> Iterator[AuditEntry]:
    """Newest first. Entries that are written meanwhile do not shift the pages."""
    before: int | None = None
    left = MAX_ENTRIES if limit is None else limit
    while left > 0:
        params = {**where, "limit": min(left, AUDIT_PAGE), **({} if before is None else {"before": before})}
        answer = transport.request("GET", f"{AUTH}/audit", params=params)
        entries = [decode(AuditEntry, entry) for entry in objects(answer, "entries")]
        yield from entries
        left -= len(entries)
        if answer.get("next") is None or not entries:
            return
        before = take(answer, "next", int)


def log_in(
    transport: Transport, username: str, password: Secret, *, label: str, expires_in_days: float | None = 30.0
) -> tuple[Me, NewToken]:
    """Starts a session with a password, creates a token in it, and ends it. ``transport`` must have no token of its
    own.

    Raises AccessError for a wrong password, TransientError where the account is locked for a while.
    """
    facts = transport.request("POST", f"{AUTH}/login", json_body={"username": username, "password": password.reveal()})
    me = decode(Me, facts)
    session = {"X-CSRF-Token": take(facts, "csrf_token", str)}
    body = {"label": label, "scope": me.role, "expires_in_days": expires_in_days}
    try:
        return me, _new_token(transport.request("POST", TOKENS, json_body=body, headers=session))
    finally:
        transport.request("POST", f"{AUTH}/logout", headers=session)


def _new_token(answer: Mapping[str, Any]) -> NewToken:
    secret = Secret(take(answer, "token", str))
    return NewToken(decode(ApiToken, {key: value for key, value in answer.items() if key != "token"}), secret)


def every(transport: Transport, path: str, key: str, params: Params | None = None) -> Iterator[Raw]:
    """All rows of a list, each once, even if rows are added or deleted while its pages are fetched. Raises as
    ``Transport.request``."""
    seen: set[str] = set()
    offset = 0
    while True:
        # The first page without paging parameters: daemons of the first release return all rows and know no offset.
        asked = {**(params or {}), **({"offset": offset} if offset else {})}
        answer = transport.request("GET", path, params=asked or None)
        rows = objects(answer, key)
        for row in rows:
            row_id = take(row, "id", str)
            if row_id not in seen:
                seen.add(row_id)
                yield row
        offset += len(rows)
        if not rows or offset >= take(answer, "total", int, offset):
            return
