"""Servers that an administrator registered, with their passwords sealed and their certificates pinned."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from hypersdk.access.faults import Conflict, known_form, looks_like_id
from hypersdk.access.kinds import kind_of
from hypersdk.access.kinds.base import ENDPOINT_INVALID, EndpointLogin
from hypersdk.access.kinds.vsphere import VSPHERE
from hypersdk.access.records import ENDPOINTS, EndpointInfo
from hypersdk.access.references import check_reference
from hypersdk.access.vault import Vault
from hypersdk.errors import LookupFailed, UsageError, register
from hypersdk.remedies import Look
from hypersdk.state.database import Database
from hypersdk.state.outbox import REMOVED, Event, write_events
from hypersdk.state.pages import ListConditions, Listing, PageRequest, PageResult, by_id_first
from hypersdk.state.tables import endpoints, jobs
from hypersdk.text import count as counted
from hypersdk.vsphere.session import About

ENDPOINT_UNKNOWN: Final = register("endpoint_unknown", "There is no such endpoint.", Look("endpoints"))
ENDPOINT_EXISTS: Final = register(
    "endpoint_exists", "An endpoint with that name exists.", "Choose another name, or delete that endpoint first."
)
ENDPOINT_USED: Final = register(
    "endpoint_used",
    "The endpoint is used by jobs that are not finished, or that need it to undo what they changed at their source or"
    " target.",
    "Wait until they are finished, or cancel them with `hyperctl cancel ID`, which also undoes what a failed job left."
    " For a cancelled job, `hyperctl retry ID` does so.",
)
ENDPOINT_AT_WORKERS: Final = register(
    "endpoint_at_workers",
    "The address is a socket on the machines of the workers, which are not in the daemon of this API: only they reach"
    " it.",
    "Run `hyper2kvm doctor` for it on a worker's machine as the workers' user, which is hypersdk in the packages. Each"
    " migration checks its target before it copies.",
)
MAX_ENDPOINTS: Final = 1000
ENDPOINT_LIST: Final = Listing(
    ENDPOINTS,
    endpoints,
    has_password=sa.or_(endpoints.c.secret.is_not(None), endpoints.c.secret_ref.is_not(None)),
)
_NAME: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_ENDED: Final = ("completed", "failed", "cancelled")
_MAY_UNDO: Final = ("failed", "cancelled")
_SHOWN_JOBS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEndpoint(EndpointLogin):
    """An endpoint to register. ``password`` or ``secret_ref``, not both."""

    name: str
    secret_ref: str | None = None
    default: bool = False
    kind: str = VSPHERE


class EndpointStore:
    """Thread-safe. Methods that take an id also take a name; an id has precedence over another endpoint's name."""

    def __init__(self, database: Database, vault: Vault, *, with_workers: bool = True) -> None:
        """``with_workers`` says that the workers are in the same daemon: that a local address is theirs, too."""
        self._database: Final = database
        self._vault: Final = vault
        self._with_workers: Final = with_workers

    def create(self, new: NewEndpoint) -> EndpointInfo:
        """Connects to check the certificate, then stores the endpoint; the first of its kind becomes its default. A
        local address that only the workers can reach is stored unchecked.

        Raises CertificateNotTrusted where the certificate must be pinned, ConnectError where it is not the pinned one
        or the server does not answer, UsageError ``endpoint_invalid`` and Conflict ``endpoint_exists``.
        """
        login = _checked(new)
        self._check_free(new.name)
        if not self._is_of_workers(new.kind, login):
            kind_of(new.kind).check_trust(login)
        endpoint_id = f"endpoint-{secrets.token_hex(6)}"
        purpose = _purpose(endpoint_id)
        with self._database.write() as connection:
            self._database.serialize(connection, "endpoint-default")
            self._check_room(connection)
            default = new.default or self._default_id(connection, new.kind) is None
            if default:
                self._unset_default(connection, new.kind)
            try:
                connection.execute(
                    sa.insert(endpoints).values(
                        id=endpoint_id,
                        name=new.name,
                        kind=new.kind,
                        url=login.url,
                        username=login.username,
                        secret=None if login.password is None else self._vault.seal(login.password, purpose),
                        secret_ref=new.secret_ref,
                        thumbprint=login.thumbprint,
                        insecure=new.insecure,
                        datacenter=new.datacenter,
                        is_default=default,
                        created_at=self._database.now(connection),
                        revision=self._database.revision(connection),
                    )
                )
            except sa.exc.IntegrityError:
                raise _exists(new.name) from None
            return _get(connection, endpoint_id)

    def get(self, endpoint_id: str) -> EndpointInfo:
        """Raises LookupFailed ``endpoint_unknown``."""
        with self._database.read() as connection:
            return _get(connection, endpoint_id)

    def page(self, where: ListConditions, part: PageRequest) -> PageResult[EndpointInfo]:
        """A page of the list. Raises UsageError ``list_query``."""
        query = ENDPOINT_LIST.select()
        with self._database.read() as connection:
            return ENDPOINT_LIST.page(connection, query, ENDPOINT_LIST.conditions(where), part)

    def default(self, kind: str = VSPHERE) -> EndpointInfo | None:
        """The endpoint of that kind for jobs that name none."""
        query = ENDPOINT_LIST.select().where(endpoints.c.is_default, endpoints.c.kind == kind)
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else ENDPOINT_LIST.record(row)

    def make_default(self, endpoint_id: str) -> EndpointInfo:
        """Makes an endpoint the default of its kind. Raises LookupFailed ``endpoint_unknown``."""
        with self._database.write() as connection:
            self._database.serialize(connection, "endpoint-default")
            endpoint = _get(connection, endpoint_id)
            self._unset_default(connection, endpoint.kind)
            revision = self._database.revision(connection)
            change = (
                sa.update(endpoints).where(endpoints.c.id == endpoint.id).values(is_default=True, revision=revision)
            )
            connection.execute(change)
            return _get(connection, endpoint.id)

    def delete(self, endpoint_id: str) -> EndpointInfo:
        """Deletes an endpoint, with its password. Raises LookupFailed ``endpoint_unknown``, Conflict
        ``endpoint_used``."""
        with self._database.write() as connection:
            self._database.serialize(connection, "endpoint-default")
            endpoint = _get(connection, endpoint_id)
            _check_unused(connection, endpoint)
            connection.execute(sa.delete(endpoints).where(endpoints.c.id == endpoint.id))
            revision, now = self._database.revision(connection), self._database.now(connection)
            write_events(connection, now, [Event(revision, "endpoints", endpoint.id, REMOVED, {})])
            return endpoint

    def login_of(self, endpoint_id: str, *, kind: str) -> EndpointLogin:
        """The login of an endpoint, with password and pin. Raises LookupFailed, VaultError, UsageError where it is of
        another kind, and the errors of ``references.follow``."""
        row = self._row(endpoint_id)
        if row.kind != kind:
            raise UsageError(f"the endpoint '{row.name}' is of the kind {row.kind}, not {kind}")
        return self._login_of(row)

    def _row(self, endpoint_id: str) -> Any:
        with self._database.read() as connection:
            return _row(connection, sa.select(endpoints), endpoint_id)

    def _login_of(self, row: Any) -> EndpointLogin:
        password = None
        if row.secret_ref is not None:
            password = self._vault.resolve(row.secret_ref)
        elif row.secret is not None:
            password = self._vault.open(row.secret, _purpose(row.id))
        return EndpointLogin(
            url=row.url,
            username=row.username,
            password=password,
            thumbprint=row.thumbprint,
            insecure=row.insecure,
            datacenter=row.datacenter,
        )

    def probe(self, endpoint_id: str) -> About:
        """Logs in and out again; returns the server's description of itself. Raises ConnectError, AccessError,
        UsageError, and Conflict ``endpoint_at_workers`` for a local address of another daemon's workers."""
        row = self._row(endpoint_id)
        login = self._login_of(row)
        if self._is_of_workers(row.kind, login):
            raise Conflict(f"{login.url} is a socket on the machines of the workers", code=ENDPOINT_AT_WORKERS)
        return kind_of(row.kind).probe(login)

    def _is_of_workers(self, kind: str, login: EndpointLogin) -> bool:
        return not self._with_workers and kind_of(kind).is_local(login)

    def _check_free(self, name: str) -> None:
        """Checks the name before connecting; the unique index makes the final decision."""
        with self._database.read() as connection:
            if connection.execute(sa.select(endpoints.c.id).where(endpoints.c.name == name)).first() is not None:
                raise _exists(name)

    def _check_room(self, connection: sa.Connection) -> None:
        if connection.execute(sa.select(sa.func.count()).select_from(endpoints)).scalar_one() >= MAX_ENDPOINTS:
            raise UsageError(f"there are {MAX_ENDPOINTS} endpoints already", code=ENDPOINT_INVALID)

    def _default_id(self, connection: sa.Connection, kind: str) -> str | None:
        query = sa.select(endpoints.c.id).where(endpoints.c.is_default, endpoints.c.kind == kind)
        return connection.execute(query).scalars().first()

    def _unset_default(self, connection: sa.Connection, kind: str) -> None:
        """There is at most one default of a kind. The caller serializes this, or two calls would each keep the other's
        default."""
        values = {"is_default": False, "revision": self._database.revision(connection)}
        query = sa.update(endpoints).where(endpoints.c.is_default, endpoints.c.kind == kind)
        connection.execute(query.values(**values))


def _checked(new: NewEndpoint) -> EndpointLogin:
    """Checks and normalizes a new endpoint; the password may also be in the URL. Raises UsageError."""
    if not _NAME.match(new.name):
        raise UsageError("name: takes letters, digits and . _ -, up to 128", code=ENDPOINT_INVALID)
    if looks_like_id(new.name):
        raise UsageError("name: looks like an id, and endpoints are also looked up by id", code=ENDPOINT_INVALID)
    if max(len(new.url), len(new.username), len(new.datacenter or "")) > 1024:
        raise UsageError("url, username and datacenter: up to 1024 characters", code=ENDPOINT_INVALID)
    if new.insecure and new.thumbprint:
        raise UsageError("insecure: contradicts thumbprint", code=ENDPOINT_INVALID)
    if new.secret_ref is not None:
        check_reference(new.secret_ref)
    login = kind_of(new.kind).normalize(new)
    if new.secret_ref is not None and login.password:
        raise UsageError("secret_ref: contradicts password", code=ENDPOINT_INVALID)
    return login


def _check_unused(connection: sa.Connection, endpoint: EndpointInfo) -> None:
    """Raises Conflict ``endpoint_used`` with the ids of the jobs, as far as they fit."""
    using = sa.or_(
        _needs(jobs.c.endpoint_id == endpoint.id, jobs.c.source_changes),
        _needs(jobs.c.target_endpoint_id == endpoint.id, jobs.c.target_changes),
    )
    ids = connection.execute(sa.select(jobs.c.id).where(using).order_by(jobs.c.number)).scalars().all()
    if ids:
        shown, more = list(ids[:_SHOWN_JOBS]), ", ..." if len(ids) > _SHOWN_JOBS else ""
        raise Conflict(
            f"the endpoint '{endpoint.name}' is used by {counted(len(ids), 'job')}: {', '.join(shown)}{more}",
            code=ENDPOINT_USED,
            jobs=len(ids),
            job_ids=shown,
        )


def _needs(uses: sa.ColumnElement[bool], changes: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    """Jobs that have not ended, or have ``changes`` there to undo."""
    to_undo = sa.and_(jobs.c.state.in_(_MAY_UNDO), changes > 0)
    return sa.and_(uses, sa.or_(jobs.c.state.not_in(_ENDED), to_undo))


def _exists(name: str) -> Conflict:
    return Conflict(f"there is an endpoint '{name}'", code=ENDPOINT_EXISTS, name=name)


def _purpose(endpoint_id: str) -> str:
    return f"endpoint:{endpoint_id}"


def _row(connection: sa.Connection, query: sa.Select[Any], key: str) -> Any:
    """The row of the endpoint with that id or name. Raises LookupFailed ``endpoint_unknown``."""
    query = query.where(sa.or_(endpoints.c.id == key, endpoints.c.name == key))
    found = connection.execute(query.order_by(by_id_first(endpoints.c.id, key))).first() if known_form(key) else None
    if found is None:
        raise LookupFailed(f"there is no endpoint {key[:128]!a}", code=ENDPOINT_UNKNOWN, id=ascii(key[:128]))
    return found


def _get(connection: sa.Connection, key: str) -> EndpointInfo:
    return ENDPOINT_LIST.record(_row(connection, ENDPOINT_LIST.select(), key))
