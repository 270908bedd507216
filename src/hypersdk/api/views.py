"""Response models of the native routes, made from records. None of them has a field for a secret."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from hypersdk.access.records import ApiToken, AuditEntry, EndpointInfo, User
from hypersdk.api.responses import Remedies
from hypersdk.api.times import rfc3339
from hypersdk.jobs.records import Attempt, JobColumns, StepColumns, WorkerInfo
from hypersdk.model import DiskProgress, ExportProgress, job_object, json_fields
from hypersdk.resource import Named, shown_fields
from hypersdk.state.pages import PageResult


def _written(at: datetime | str) -> str:
    return at if isinstance(at, str) else rfc3339(at)


Moment = Annotated[
    str, BeforeValidator(_written), Field(description="RFC 3339, UTC", examples=["2026-01-31T12:00:00.250000Z"])
]
_JSON: Final[Mapping[Any, Any]] = {datetime: Moment, Mapping[str, Any]: dict[str, Any], tuple[str, ...]: list[str]}


class View(BaseModel):
    """Base of all responses; made from a record by ``model_validate``."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class OpenView(View):
    """Base of responses to which fields may be added."""

    model_config = ConfigDict(extra="allow", json_schema_serialization_defaults_required=True)


def _fields_of(record: type) -> type[OpenView]:
    first = job_object(record())
    fields: Any = {
        entry.name: (_type_in_json(entry.kind), Field(default=first[entry.name], description=entry.about or None))
        for entry in json_fields(record, "job")
    }
    return create_model(f"{record.__name__}Fields", __base__=OpenView, **fields)


def _type_in_json(kind: Any) -> Any:
    if get_origin(kind) is tuple:
        return list[str] if str in get_args(kind) else list[DiskProgressView]
    if isinstance(kind, type):
        return str if issubclass(kind, StrEnum) else kind
    return _type_in_json(get_args(kind)[0]) | None


class DiskProgressView(_fields_of(DiskProgress)):  # type: ignore[misc] # made from the record
    """Progress of one disk of a job. More fields may be added."""


class ProgressView(_fields_of(ExportProgress)):  # type: ignore[misc] # made from the record
    """Progress of a job. Every field is present from the first response on; unknown values are 0, empty or null."""


class ErrorView(OpenView):
    """Why a job failed."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    code: str = Field(description="Stable; see docs/errors.md", examples=["no_space"])
    message: str
    cause: str = ""
    next_step: str = ""
    remedies: Remedies = Field(default_factory=list, description="Remedies, in the order in which to try them")


def _completed(error: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return None if error is None else {"code": "unknown", "message": "", **error}


StoredError = Annotated[ErrorView | None, BeforeValidator(_completed)]
"""An error as it was stored, perhaps by another version."""
V = TypeVar("V", bound=View)


def view_of(record: type[Any], *, but: str = "", **types: Any) -> Callable[[type[V]], type[V]]:
    """A decorator: adds the fields of a dataclass, in their order, without the one named ``but``. ``types`` are those
    of fields that hold JSON objects."""

    def derive(base: type[V]) -> type[V]:
        shown = [field for field in shown_fields(record) if field.name != but]
        fields: dict[str, Any] = {field.name: _shown(field, types.get(field.name)) for field in shown}
        return create_model(base.__name__, __base__=base, __module__=base.__module__, __doc__=base.__doc__, **fields)

    return derive


def _shown(named: Named, kind: Any) -> tuple[Any, Any]:
    column = named.column
    kind = kind or column.choices or _JSON.get(named.type, named.type)
    if column.digits is not None:
        kind = Annotated[kind, BeforeValidator(partial(round, ndigits=column.digits))]
    texts: dict[str, Any] = {"description": column.about, "examples": column.example and [column.example]}
    return (kind | None if named.optional else kind), Field(**{key: text for key, text in texts.items() if text})


@view_of(StepColumns, error=StoredError)
class StepView(View):
    """A named part of a job's work."""


@view_of(JobColumns, steps=list[StepView], progress=ProgressView, error=StoredError)
class JobView(View):
    """One job."""


class PageView(View):
    """A page of a list."""

    total: int = Field(description="Rows that match, on all pages")
    revision: int = Field(
        description="Revision of all lists: for bulk calls, and to follow changes from here on with the event stream"
    )
    facets: dict[str, dict[str, int]] = Field(
        description="Counts of matching rows by value of a column",
        examples=[{"state": {"running": 3, "completed": 120}}],
    )


class JobsView(PageView):
    """A page of the list of jobs."""

    jobs: list[JobView]
    next_cursor: str | None = Field(
        description="Cursor of the next page; null on the last page, and for sort orders without a cursor"
    )


@view_of(Attempt, error=StoredError)
class AttemptView(View):
    """One attempt of a worker at the job. `outcome` is null while it is running, and if the worker died."""


@view_of(WorkerInfo)
class WorkerView(View):
    """One worker process."""


@view_of(User)
class UserView(View):
    """A user."""


@view_of(ApiToken)
class TokenView(View):
    """A token, without its secret."""


@view_of(EndpointInfo)
class EndpointView(View):
    """An endpoint, without its password."""


@view_of(AuditEntry)
class AuditEntryView(View):
    """One entry of the audit trail."""


def listed(found: PageResult[Any]) -> dict[str, Any]:
    """The values of the fields of ``PageView``."""
    facets = {name: dict(counts) for name, counts in found.facets.items()}
    return {"total": found.total, "revision": found.revision, "facets": facets}
