"""``/api/v1/auth``: browser sessions, the caller's identity and permissions, users, API tokens, the audit trail."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints

from hypersdk.access.access import Access
from hypersdk.access.audit import NEWEST
from hypersdk.access.faults import USER_INVALID, Forbidden
from hypersdk.access.records import Scope
from hypersdk.access.roles import Permission, Role, permissions
from hypersdk.access.tokens import check_revocable
from hypersdk.api.context import Use
from hypersdk.api.queries import AuditQuery, TokenQuery, UserQuery
from hypersdk.api.responses import problems
from hypersdk.api.security import COOKIE, Admin, Caller, Viewer, address_of, came_by_tls
from hypersdk.api.times import maybe_rfc3339, rfc3339
from hypersdk.api.views import AuditEntryView, PageView, TokenView, UserView, View, listed, view_of
from hypersdk.errors import UsageError
from hypersdk.secret import Secret
from hypersdk.state.pages import LIST_QUERY

DAY_S: Final = 86_400.0
router = APIRouter(prefix="/api/v1/auth", tags=["auth"])
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$", examples=["ann"])]
Line = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]


class _StrictBody(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LoginBody(_StrictBody):
    """Name and password of a user."""

    username: Line = Field(examples=["admin"])
    password: SecretStr = Field(max_length=1024)


@view_of(Permission)
class PermissionView(View):
    """Whether the caller may perform an action, and the reason if not."""


class _CallerView(BaseModel):
    user_id: str
    name: str
    role: Role
    scope: str
    via: Literal["token", "cookie", "local"]
    csrf_token: str | None = None
    permissions: list[PermissionView]


class MeView(_CallerView):
    """The caller. ``csrf_token`` must be sent as X-CSRF-Token with every write that uses the session cookie."""

    token_id: str | None = Field(default=None, description="Null without a token")
    expires_at: str | None = Field(default=None, description="When token or session end; null: never")


class LoginView(_CallerView):
    """A new session; the cookie is in the headers."""

    expires_at: str


class UserBody(_StrictBody):
    """A new user; without a password it can log in with tokens only."""

    name: Name
    role: Role = Role.VIEWER
    password: SecretStr | None = Field(default=None, max_length=1024)


class UserChangeBody(_StrictBody):
    """The values to change; omitted ones are kept."""

    role: Role | None = None
    password: SecretStr | None = Field(default=None, max_length=1024)
    disabled: bool | None = None


class PasswordBody(_StrictBody):
    """A new password for the caller."""

    current: SecretStr = Field(max_length=1024)
    new: SecretStr = Field(max_length=1024)


class NewTokenView(TokenView):
    """``token`` is returned only here."""

    token: str = Field(examples=["hst_..."])


class TokenBody(_StrictBody):
    """A new token. Without ``user`` it is the caller's own. ``expires_in_days`` null: it does not expire. A token
    cannot create one that outlives it; if omitted, 90 days or the expiry of the creating token, whichever is sooner."""

    label: Line
    scope: Scope = "viewer"
    expires_in_days: float | None = Field(default=90, gt=0, le=3660)
    user: Name | None = None


class UsersView(PageView):
    """Sorted by name by default."""

    users: list[UserView]


class TokensView(PageView):
    """Newest first by default."""

    tokens: list[TokenView]


class AuditView(PageView):
    """Newest first by default; pass ``next`` as ``before`` for the following page."""

    entries: list[AuditEntryView]
    next: int | None = None


# Sessions


@router.post("/login", summary="Log in", responses=problems())
def login(body: LoginBody, request: Request, response: Response, use: Use) -> LoginView:
    """Starts a session; the cookie is HttpOnly, the CSRF token is in the response."""
    password = _secret(body.password)
    user, begun = use.access.login(body.username, password, address_of(request.scope))
    response.set_cookie(
        COOKIE,
        begun.cookie.reveal(),
        max_age=int(use.settings.session_hours * 3600),
        path="/",
        httponly=True,
        samesite="strict",
        secure=came_by_tls(request.scope),
    )
    return LoginView(
        user_id=user.id,
        name=user.name,
        role=Role(user.role),
        scope=user.role,
        via="cookie",
        csrf_token=begun.csrf.reveal(),
        permissions=_permissions(Role(user.role)),
        expires_at=rfc3339(begun.expires_at),
    )


@router.post("/logout", summary="Log out", status_code=204, responses=problems())
def logout(request: Request, response: Response, caller: Viewer, use: Use) -> None:
    """Ends the session of the cookie. Tokens are not revoked."""
    cookie = request.cookies.get(COOKIE)
    if caller.via == "cookie" and cookie:
        use.access.logins.end(Secret(cookie))
        use.access.audit.write(caller.name, caller.address, "logout")
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")


@router.get("/me", summary="The caller and its role", responses=problems())
async def me(caller: Viewer) -> MeView:
    """The caller's identity and permissions."""
    return MeView(
        user_id=caller.user_id,
        name=caller.name,
        role=caller.role,
        scope=caller.scope,
        via=caller.via,
        csrf_token=None if caller.csrf is None else caller.csrf.reveal(),
        permissions=_permissions(caller.role),
        token_id=caller.token_id,
        expires_at=maybe_rfc3339(caller.expires_at),
    )


@router.get("/permissions", summary="What the caller may do", responses=problems())
async def list_permissions(caller: Viewer) -> list[PermissionView]:
    """All actions: whether the caller may perform them, and the reason if not."""
    return _permissions(caller.role)


@router.post("/password", status_code=204, responses=problems())
def change_password(body: PasswordBody, caller: Viewer, use: Use) -> None:
    """Changes the caller's own password and ends its sessions."""
    current, new = _secret(body.current), _secret(body.new)
    use.access.change_password(caller.name, current, new, caller.address)


# Users


@router.get("/users", responses=problems())
def list_users(query: Annotated[UserQuery, Query()], _caller: Admin, use: Use) -> UsersView:
    """Filtered and sorted by any column."""
    found = use.access.users.page(query.where(), query.part())
    return UsersView(users=[UserView.model_validate(user) for user in found.rows], **listed(found))


@router.post("/users", status_code=201, responses=problems(409))
def create_user(body: UserBody, caller: Admin, use: Use) -> UserView:
    """Creates a user."""
    password = None if body.password is None else _secret(body.password)
    user = use.access.users.create(body.name, body.role, password)
    _note(use.access, caller, "user.create", user.name, role=user.role)
    return UserView.model_validate(user)


@router.get("/users/{user_id}", responses=problems(404))
def get_user(user_id: str, _caller: Admin, use: Use) -> UserView:
    """One user, by id or name."""
    return UserView.model_validate(use.access.users.get(user_id))


@router.patch("/users/{user_id}", responses=problems(404, 409))
def change_user(user_id: str, body: UserChangeBody, caller: Admin, use: Use) -> UserView:
    """Changes the role or the password, or disables the user; its sessions end."""
    password = None if body.password is None else _secret(body.password)
    user = use.access.users.change(user_id, role=body.role, password=password, disabled=body.disabled)
    changed = sorted(body.model_fields_set)
    _note(use.access, caller, "user.change", user.name, changed=changed, role=user.role)
    return UserView.model_validate(user)


@router.delete("/users/{user_id}", status_code=204, responses=problems(404, 409))
def delete_user(user_id: str, caller: Admin, use: Use) -> None:
    """Deletes a user with its tokens and sessions."""
    user = use.access.users.delete(user_id)
    _note(use.access, caller, "user.delete", user.name)


# Tokens


@router.get("/tokens", responses=problems())
def list_tokens(query: Annotated[TokenQuery, Query()], caller: Viewer, use: Use) -> TokensView:
    """The caller's tokens, or with `all` those of all users; filtered and sorted by any column."""
    if query.everyone and not caller.role.allows(Role.ADMIN):
        raise Forbidden("only an administrator may list the tokens of others", needs="admin")
    whose = None if query.everyone else caller.user_id
    found = use.access.tokens.page(whose, query.where(), query.part())
    return TokensView(tokens=[TokenView.model_validate(token) for token in found.rows], **listed(found))


@router.post("/tokens", status_code=201, responses=problems(404))
def create_token(body: TokenBody, caller: Viewer, use: Use) -> NewTokenView:
    """Creates a token. Its secret is in this response and nowhere else. It has no more rights than its user and its
    creator; created by a token, it expires no later than that one."""
    owner = _owner(use.access, caller, body)
    lifetime = None if body.expires_in_days is None else body.expires_in_days * DAY_S
    token, text = use.access.tokens.create(
        owner,
        body.label,
        body.scope,
        lifetime_s=lifetime,
        maker=caller.token_id,
        shorten="expires_in_days" not in body.model_fields_set,
    )
    _note(use.access, caller, "token.create", token.id, user=token.user, scope=token.scope)
    return NewTokenView(**TokenView.model_validate(token).model_dump(), token=text.reveal())


@router.delete("/tokens/{token_id}", status_code=204, responses=problems(404))
def revoke_token(token_id: str, caller: Viewer, use: Use) -> None:
    """Revokes a token, immediately. A token can revoke itself, and tokens whose scope is not above its own."""
    token = use.access.tokens.get(token_id)
    if token.user_id != caller.user_id and not caller.role.allows(Role.ADMIN):
        raise Forbidden("only an administrator may revoke the tokens of others", needs="admin")
    if caller.token_id is not None:
        check_revocable(token, caller.scope, caller.token_id)
    use.access.tokens.revoke(token_id)
    _note(use.access, caller, "token.revoke", token.id, user=token.user)


# Audit


@router.get("/audit", summary="Read the audit trail", responses=problems())
def list_audit(query: Annotated[AuditQuery, Query()], _caller: Admin, use: Use) -> AuditView:
    """The audit trail, filtered and sorted by any column. Paged by `before` for programs, by `offset` for a scroll
    bar."""
    if query.before is not None and query.offset:
        raise UsageError("offset cannot be combined with before", code=LIST_QUERY)
    found = use.access.audit.page(query.where(), query.part(), before=query.before)
    more = len(found.rows) == query.limit and query.sort == NEWEST.sort
    entries = [AuditEntryView.model_validate(entry) for entry in found.rows]
    return AuditView(entries=entries, next=found.rows[-1].number if more else None, **listed(found))


def _owner(access: Access, caller: Caller, body: TokenBody) -> str:
    """The owner of the new token. Raises Forbidden, LookupFailed."""
    owner = caller.user_id
    if body.user is not None and body.user not in (caller.user_id, caller.name):
        if not caller.role.allows(Role.ADMIN):
            raise Forbidden("only an administrator may create tokens for others", needs="admin")
        owner = access.users.get(body.user).id
    elif caller.via == "local":
        owner = access.users.get(body.user or "admin").id
    if body.scope != "metrics" and not caller.role.allows(Role(body.scope)):
        raise Forbidden(f"you are {caller.role} and cannot create a token of scope {body.scope}", needs=body.scope)
    return owner


def _note(access: Access, caller: Caller, action: str, target: str, **detail: Any) -> None:
    access.audit.write(caller.name, caller.address, action, target=target, detail=detail)


def _secret(given: SecretStr) -> Secret:
    """Raises UsageError for invalid Unicode: JSON can encode a lone surrogate."""
    text = given.get_secret_value()
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError("password: is not valid Unicode", code=USER_INVALID) from None
    return Secret(text)


def _permissions(role: Role) -> list[PermissionView]:
    return [PermissionView.model_validate(permission) for permission in permissions(role)]
