"""Users, tokens, sessions, on SQLite and PostgreSQL."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import sqlalchemy as sa

from hypersdk.access import access as access_module
from hypersdk.access.access import Access
from hypersdk.access.faults import Conflict, TooMany, Unauthenticated
from hypersdk.access.lockout import MAX_KEYS, MAX_WAIT_S, Lockout, wait_s
from hypersdk.access.logins import MAX_SESSIONS, SessionStore
from hypersdk.access.passwords import check_password, hash_password
from hypersdk.access.records import User
from hypersdk.access.roles import ACTIONS, Role, permissions
from hypersdk.access.tokens import MAX_TOKENS
from hypersdk.access.users import insert_user
from hypersdk.errors import LookupFailed, UsageError
from hypersdk.secret import Secret
from hypersdk.state.database import Database
from hypersdk.state.pages import ListConditions, PageRequest
from hypersdk.state.tables import api_tokens, logins, users

PASSWORD = Secret("correct horse battery")
BOSS_PASSWORD = Secret("staple of the boss")


@pytest.fixture
def access(database: Database) -> Access:
    return Access(database)


def test_each_role_may_do_what_the_ones_before_it_may() -> None:
    order = list(Role)
    for rank, role in enumerate(order):
        assert [role.allows(other) for other in order] == [index <= rank for index in range(len(order))]


def test_permissions_say_why_not() -> None:
    found = {one.action: one for one in permissions(Role.VIEWER)}
    assert set(found) == set(ACTIONS)
    assert found["jobs.view"].allowed
    assert found["jobs.view"].reason is None
    assert not found["jobs.submit"].allowed
    assert found["jobs.submit"].reason == "needs the role operator; you have viewer"
    assert [one.action for one in permissions(None) if one.allowed] == ["metrics.view"]


def test_passwords_are_argon2id_and_salted() -> None:
    first, second = hash_password(PASSWORD), hash_password(PASSWORD)
    assert first.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert first != second
    assert check_password(first, PASSWORD)
    assert not check_password(first, Secret("correct horse batterz"))
    assert not check_password(None, PASSWORD)
    for text in ("short", "x" * 1025):
        with pytest.raises(UsageError, match="12 to 1024"):
            hash_password(Secret(text))


def test_an_unknown_user_costs_a_whole_check(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def counted(stored: str | None, password: Secret) -> bool:
        seen.append(stored)
        return check_password(stored, password)

    monkeypatch.setattr(access_module, "check_password", counted)
    access.users.create("tokens-only", Role.VIEWER, None)
    for name in ("nobody", "tokens-only"):
        with pytest.raises(Unauthenticated, match="password is wrong"):
            access.login(name, PASSWORD, "192.0.2.1")
    assert seen == [None, None]


@pytest.mark.parametrize("name", ["", " a", "a b", "a\n", "é", "x" * 129, "-a", "../x", "a\x00"])
def test_a_name_is_plain(access: Access, name: str) -> None:
    with pytest.raises(UsageError):
        access.users.create(name, Role.VIEWER, None)


@pytest.mark.parametrize("kind", ["user", "token", "endpoint", "job"])
def test_a_name_is_none_that_could_be_an_id(access: Access, kind: str) -> None:
    with pytest.raises(UsageError) as caught:
        access.users.create(f"{kind}-0123456789ab", Role.VIEWER, None)
    assert caught.value.code == "user_invalid"
    for name in (f"{kind}-0123456789abc", f"{kind}-0123456789AB", f"{kind}-ann", kind):
        assert access.users.create(name, Role.VIEWER, None).name == name


@pytest.fixture
def twins(access: Access, database: Database) -> tuple[User, User]:
    """An administrator, and a viewer of an earlier version who is named like the administrator's id."""
    boss = access.users.create("boss", Role.ADMIN, BOSS_PASSWORD)
    with database.write() as connection:
        now = database.now(connection)
        user_id = insert_user(connection, now, boss.id, Role.VIEWER, hash_password(PASSWORD))
    return boss, access.users.get(user_id)


def test_a_name_like_anothers_id_is_not_that_one(access: Access, database: Database, twins: tuple[User, User]) -> None:
    boss, viewer = twins
    user, begun = access.login(boss.id, PASSWORD, "192.0.2.1")
    assert (user.id, user.role) == (viewer.id, Role.VIEWER)
    session = access.logins.use(begun.cookie)
    assert session is not None
    assert (session.user_id, session.role) == (viewer.id, Role.VIEWER)
    with pytest.raises(Unauthenticated, match="password is wrong"):
        access.login(boss.id, BOSS_PASSWORD, "192.0.2.1")
    with database.read() as connection:
        assert dict(connection.execute(sa.select(users.c.id, users.c.failures)).all()) == {boss.id: 0, viewer.id: 1}
    access.login(boss.id, PASSWORD, "192.0.2.1")
    with database.read() as connection:
        assert dict(connection.execute(sa.select(users.c.id, users.c.failures)).all()) == {boss.id: 0, viewer.id: 0}


def test_a_name_like_anothers_id_changes_its_own_password_only(access: Access, twins: tuple[User, User]) -> None:
    boss, viewer = twins
    access.change_password(boss.id, PASSWORD, Secret("another long one"), "192.0.2.1")
    assert access.login("boss", BOSS_PASSWORD, "192.0.2.1")[0].id == boss.id
    assert access.login(boss.id, Secret("another long one"), "192.0.2.1")[0].id == viewer.id


def test_an_id_wins_over_a_name(access: Access, twins: tuple[User, User]) -> None:
    boss, viewer = twins
    assert access.users.get(boss.id).name == "boss"
    access.users.create("other", Role.ADMIN, None)
    assert access.users.change(boss.id, role=Role.OPERATOR).name == "boss"
    assert access.users.delete(boss.id).name == "boss"
    assert access.users.delete(boss.id).id == viewer.id, "now it is a name only"


def test_users_are_made_changed_and_removed(access: Access) -> None:
    first = access.users.create("ann", Role.ADMIN, PASSWORD)
    second = access.users.create("bob", Role.VIEWER, None)
    assert [user.name for user in access.users.list()] == ["ann", "bob"]
    assert (first.has_password, second.has_password) == (True, False)
    with pytest.raises(Conflict, match="there is a user 'ann'"):
        access.users.create("ann", Role.VIEWER, None)
    assert access.users.change("bob", role=Role.OPERATOR).role is Role.OPERATOR
    assert access.users.get(second.id).role is Role.OPERATOR
    access.users.delete("bob")
    with pytest.raises(LookupFailed) as caught:
        access.users.get("bob")
    assert caught.value.code == "user_unknown"


def test_the_last_administrator_stays(access: Access) -> None:
    access.users.create("ann", Role.ADMIN, None)
    for change in (
        lambda: access.users.change("ann", role=Role.VIEWER),
        lambda: access.users.change("ann", disabled=True),
        lambda: access.users.delete("ann"),
    ):
        with pytest.raises(Conflict) as caught:
            change()
        assert caught.value.code == "last_admin"
    assert access.users.get("ann").role is Role.ADMIN
    access.users.create("bob", Role.ADMIN, None)
    access.users.delete("ann")


def test_a_token_is_256_bits_and_only_its_digest_is_kept(access: Access, database: Database) -> None:
    user = access.users.create("ann", Role.OPERATOR, None)
    token, text = access.tokens.create(user.id, "ci", "operator")
    assert text.reveal().startswith("hst_")
    assert len(text.reveal()) == 4 + 43  # base64 of 32 bytes
    with database.read() as connection:
        row = connection.execute(sa.select(api_tokens)).one()
    assert row.digest == hashlib.sha256(text.reveal().encode()).hexdigest()
    assert text.reveal() not in repr(row)
    found = access.tokens.use(text)
    assert found is not None
    assert (found.name, found.role, found.token_id) == ("ann", Role.OPERATOR, token.id)


def test_a_token_may_no_more_than_its_user(access: Access) -> None:
    user = access.users.create("ann", Role.VIEWER, None)
    access.users.create("root", Role.ADMIN, None)
    _, text = access.tokens.create(user.id, "wide", "admin")
    found = access.tokens.use(text)
    assert found is not None
    assert found.role is Role.VIEWER
    access.users.change("ann", role=Role.ADMIN)
    _, narrow = access.tokens.create(user.id, "narrow", "viewer")
    found = access.tokens.use(narrow)
    assert found is not None
    assert found.role is Role.VIEWER
    _, metrics = access.tokens.create(user.id, "scrape", "metrics")
    found = access.tokens.use(metrics)
    assert found is not None
    assert found.role is None


def test_a_token_ends(access: Access, database: Database) -> None:
    user = access.users.create("ann", Role.VIEWER, None)
    access.users.create("root", Role.ADMIN, None)
    token, text = access.tokens.create(user.id, "short", "viewer", lifetime_s=60)
    assert access.tokens.use(text) is not None
    with database.write() as connection:
        connection.execute(sa.update(api_tokens).values(expires_at=database.now(connection) - 1))
    assert access.tokens.use(text) is None
    other, kept = access.tokens.create(user.id, "other", "viewer")
    access.users.change("ann", disabled=True)
    assert access.tokens.use(kept) is None
    access.users.change("ann", disabled=False)
    assert access.tokens.use(kept) is not None
    access.tokens.revoke(other.id)
    assert access.tokens.use(kept) is None
    with pytest.raises(LookupFailed) as caught:
        access.tokens.revoke(other.id)
    assert caught.value.code == "token_unknown"
    access.users.delete("ann")
    assert token.id not in [one.id for one in access.tokens.page().rows]


@pytest.mark.parametrize(
    "text", ["", "hst_", "hst_x", "' OR 1=1 --", "hst_" + "a" * 43, "hst_" + "ü" * 43, "x" * 100_000]
)
def test_no_other_text_is_a_token(access: Access, text: str) -> None:
    assert access.tokens.use(Secret(text)) is None


def test_a_user_has_no_more_than_so_many_tokens(access: Access) -> None:
    user = access.users.create("ann", Role.VIEWER, None)
    for _ in range(MAX_TOKENS):
        access.tokens.create(user.id, "one of many", "viewer")
    with pytest.raises(UsageError, match="revoke one first"):
        access.tokens.create(user.id, "too many", "viewer")


@pytest.mark.parametrize(
    ("label", "scope", "life"),
    [("", "viewer", None), ("a\nb", "viewer", None), ("a", "root", None), ("a", "viewer", 0)],
)
def test_a_token_is_asked_for_in_order(access: Access, label: str, scope: str, life: float | None) -> None:
    user = access.users.create("ann", Role.VIEWER, None)
    with pytest.raises(UsageError):
        access.tokens.create(user.id, label, scope, lifetime_s=life)


def test_used_at_is_written_once_a_minute(access: Access, database: Database) -> None:
    user = access.users.create("ann", Role.VIEWER, None)
    token, text = access.tokens.create(user.id, "poll", "viewer")
    access.tokens.use(text)
    first = access.tokens.get(token.id).used_at
    assert first is not None
    access.tokens.use(text)
    assert access.tokens.get(token.id).used_at == first
    with database.write() as connection:
        connection.execute(sa.update(api_tokens).values(used_at=first.timestamp() - 3600))
    access.tokens.use(text)
    used_at = access.tokens.get(token.id).used_at
    assert used_at is not None
    assert used_at >= first


def test_a_session_ends_idle_and_absolutely(access: Access, database: Database) -> None:
    user = access.users.create("ann", Role.VIEWER, PASSWORD)
    begun = access.logins.begin(user.id)
    found = access.logins.use(begun.cookie)
    assert found is not None
    assert found.csrf == begun.csrf
    with database.read() as connection:
        row = connection.execute(sa.select(logins)).one()
    assert begun.cookie.reveal() not in repr(row)
    with database.write() as connection:
        connection.execute(sa.update(logins).values(used_at=logins.c.used_at - 3601))
    assert access.logins.use(begun.cookie) is None
    with database.write() as connection:
        connection.execute(sa.update(logins).values(used_at=logins.c.used_at + 3601, expires_at=logins.c.created_at))
    assert access.logins.use(begun.cookie) is None
    other = access.logins.begin(user.id)
    with database.read() as connection:
        assert len(connection.execute(sa.select(logins)).all()) == 1, "the one that ended was removed"
    access.logins.end(other.cookie)
    assert access.logins.use(other.cookie) is None


def test_a_change_of_the_user_ends_its_sessions(access: Access) -> None:
    user = access.users.create("ann", Role.VIEWER, PASSWORD)
    access.users.create("root", Role.ADMIN, None)
    for change in ({"password": Secret("another long one")}, {"role": Role.OPERATOR}, {"disabled": True}):
        cookie = access.logins.begin(user.id).cookie
        access.users.change("ann", **change)
        assert access.logins.use(cookie) is None


def test_only_so_many_sessions_of_one_user(access: Access, database: Database) -> None:
    user = access.users.create("ann", Role.VIEWER, PASSWORD)
    sessions = SessionStore(database, 3600)
    cookies = [sessions.begin(user.id).cookie for _ in range(MAX_SESSIONS + 5)]
    assert sum(sessions.use(cookie) is not None for cookie in cookies) == MAX_SESSIONS
    assert sessions.use(cookies[-1]) is not None


def test_wrong_passwords_lock_the_user_for_longer_and_longer(access: Access, database: Database) -> None:
    access.users.create("ann", Role.VIEWER, PASSWORD)
    for _ in range(4):
        with pytest.raises(Unauthenticated, match="password is wrong"):
            access.login("ann", Secret("wrong"), "192.0.2.1")
    access.login("ann", PASSWORD, "192.0.2.1")  # four are free, and the count begins anew
    for _ in range(5):
        with pytest.raises(Unauthenticated, match="password is wrong"):
            access.login("ann", Secret("wrong"), "192.0.2.1")
    with pytest.raises(TooMany) as caught:
        access.login("ann", PASSWORD, "192.0.2.99")  # from anywhere
    assert caught.value.code == "login_locked"
    assert caught.value.fields["retry_after_s"] in (1, 2, 3)
    # Also in another process, and after a restart: the lock is in the database.
    assert Lockout(database).remaining_s("ann", "192.0.2.50") > 0
    assert access.users.change("ann", password=Secret("another long one")).locked_until is None
    outcomes = [one.outcome for one in access.audit.page(ListConditions(equal=(("action", ("login",)),))).rows]
    assert outcomes[:2] == ["login_locked", "login_wrong"]


def test_an_unknown_name_is_locked_alike(access: Access) -> None:
    for _ in range(5):
        with pytest.raises(Unauthenticated, match="password is wrong"):
            access.login("nobody", Secret("wrong"), "192.0.2.1")
    with pytest.raises(TooMany):
        access.login("nobody", Secret("wrong"), "192.0.2.2")


def test_an_address_that_tries_many_names_is_locked(database: Database) -> None:
    now = 1000.0
    lockout = Lockout(database, clock=lambda: now)
    for number in range(20):
        assert lockout.remaining_s(f"user{number}", "192.0.2.1") == 0
        lockout.failed(f"user{number}", "192.0.2.1")
    assert lockout.remaining_s("another", "192.0.2.1") == pytest.approx(2)
    assert lockout.remaining_s("another", "192.0.2.2") == 0
    now += 2.1
    assert lockout.remaining_s("another", "192.0.2.1") == 0


def test_the_wait_grows_to_a_limit_and_memory_does_not(database: Database) -> None:
    waits = [wait_s(failures) for failures in range(1, 40)]
    assert waits[:8] == [0, 0, 0, 0, 2, 4, 8, 16]
    assert waits == sorted(waits)
    assert waits[-1] == MAX_WAIT_S
    lockout = Lockout(database)
    for number in range(MAX_KEYS + 100):
        lockout._count(f"address {number}", 4)
    assert len(lockout._counts) == MAX_KEYS


def test_the_audit_trail_is_bounded_and_one_line_each(access: Access) -> None:
    for number in range(30):
        access.audit.write("ann\x1b[31m\nroot", "192.0.2.1", "test", target="x" * 10_000, detail={"number": number})
    newest = access.audit.page(part=PageRequest("-number", limit=10)).rows
    assert [one.detail["number"] for one in newest] == list(range(29, 19, -1))
    assert newest[0].actor == "ann\\x1b[31m\\nroot"
    assert len(newest[0].object) == 500
    assert [
        one.detail["number"]
        for one in access.audit.page(part=PageRequest("-number", limit=10), before=newest[-1].number).rows
    ] == list(range(19, 9, -1))
    assert access.audit.prune(max_rows=5) == 25
    assert len(access.audit.page().rows) == 5
    assert access.audit.page(ListConditions(equal=(("actor", ("nobody",)),))).rows == ()


def test_a_right_password_with_old_parameters_is_hashed_anew(access: Access, database: Database) -> None:
    import argon2

    access.users.create("ann", Role.VIEWER, PASSWORD)
    old = argon2.PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(PASSWORD.reveal())
    with database.write() as connection:
        connection.execute(sa.update(users).values(password=old))
    access.login("ann", PASSWORD, "192.0.2.1")
    with database.read() as connection:
        assert "m=65536,t=3" in connection.execute(sa.select(users.c.password)).scalar_one()


def test_the_first_start_makes_an_administrator_where_there_is_none(access: Access, tmp_path: Path) -> None:
    """Whoever added an operator before, or calls a viewer so, is not locked out."""
    access.users.create("ops", Role.OPERATOR, None)
    access.users.create("admin", Role.VIEWER, None)
    path = access.first_start(tmp_path)
    assert path is not None
    found = access.tokens.use(Secret(path.read_text().strip()))
    assert found is not None
    assert (found.name, found.role) == ("admin-2", Role.ADMIN)
    assert access.first_start(tmp_path) is None
