"""Pages of lists, filtered, sorted and counted by the database. A ``Resource`` declares the columns of a list; a
``Listing`` maps them to those of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import EnumType
from typing import Any, Final, Generic, TypeVar, get_origin

import sqlalchemy as sa

from hypersdk.errors import UsageError, register
from hypersdk.resource import FilterKind, ListRecord, Named, Resource, fields_of
from hypersdk.state.tables import counters

LIST_QUERY: Final = register(
    "list_query",
    "The list cannot be filtered or sorted in this way.",
    "The message names the column and what it accepts.",
)
MAX_PAGE: Final = 1000
LAST_SECOND: Final = 253_402_300_799.0
"""The end of the year 9999, the last one of RFC 3339."""
T = TypeVar("T")
R = TypeVar("R", bound=ListRecord)


@dataclass(frozen=True, slots=True)
class ListConditions:
    """Selects rows for which all conditions hold; of several values, any matches."""

    equal: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    """Columns and the values that they may have."""
    within: tuple[tuple[str, float | None, float | None], ...] = ()
    """Columns of numbers and times, with the least value (inclusive) and the upper limit (exclusive)."""
    containing: tuple[tuple[str, str], ...] = ()
    """Columns of text and a text that they contain, ignoring case."""


EVERYTHING: Final = ListConditions()


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A page of a list. ``sort`` is a column, with ``-`` before it for descending order; rows without a value come
    last."""

    sort: str
    offset: int = 0
    limit: int = MAX_PAGE


@dataclass(frozen=True, slots=True)
class PageResult(Generic[T]):
    """A page of a list, with the number of all matching rows, the revision at which the list was read, and the number
    of matching rows by value of each facet column."""

    rows: tuple[T, ...]
    total: int
    revision: int
    facets: Mapping[str, Mapping[str, int]]


class Listing(Generic[R]):
    """A resource in the database. Each column is the one of ``table`` with the same name, or ``computed``; KeyError if
    there is neither."""

    def __init__(self, resource: Resource[R], table: sa.Table, **computed: sa.ColumnElement[Any]) -> None:
        def column(name: str) -> sa.ColumnElement[Any]:
            return computed[name] if name in computed else table.c[name]

        self.resource: Final = resource
        self.columns: Final = {named.name: _comparable(column(named.name), named) for named in resource.columns}
        self._selected: Final = [column(named.name).label(named.name) for named in fields_of(resource.record)]
        self._readers: Final = [_reader(named) for named in fields_of(resource.record)]

    def select(self) -> sa.Select[Any]:
        """A query whose rows ``record`` takes."""
        return sa.select(*self._selected)

    def record(self, row: Sequence[Any]) -> R:
        """The record of a row of ``select``."""
        return self.resource.record(
            **{name: read(value) for (name, read), value in zip(self._readers, row, strict=True)}
        )

    def conditions(self, where: ListConditions) -> list[sa.ColumnElement[bool]]:
        """As SQL."""
        found: list[sa.ColumnElement[bool]] = [self.columns[name].in_(values) for name, values in where.equal]
        for name, least, too_high in where.within:
            if least is not None:
                found.append(self.columns[name] >= least)
            if too_high is not None:
                found.append(self.columns[name] < too_high)
        return found + [self.columns[name].icontains(text, autoescape=True) for name, text in where.containing]

    def page(
        self,
        connection: sa.Connection,
        query: sa.Select[Any],
        conditions: Sequence[sa.ColumnElement[bool]],
        part: PageRequest,
        *,
        beyond: sa.ColumnElement[bool] | None = None,
    ) -> PageResult[R]:
        """A page of ``query``, which comes from ``select``. ``beyond`` is the condition of a cursor, which is not
        applied to counts.

        Raises UsageError ``list_query``.
        """
        shown = query.where(*conditions).order_by(*self._order(part.sort)).limit(part.limit).offset(part.offset)
        if not 0 < part.limit <= MAX_PAGE or part.offset < 0:
            raise UsageError(f"limit is from 1 to {MAX_PAGE}, offset from 0", code=LIST_QUERY)
        rows = connection.execute(shown if beyond is None else shown.where(beyond)).all()
        matching = query.where(*conditions).order_by(None)
        total = connection.execute(matching.with_only_columns(sa.func.count(), maintain_column_froms=True)).scalar_one()
        facets = {name: _facet(connection, matching, self.columns[name]) for name in self.resource.facets}
        return PageResult(tuple(self.record(row) for row in rows), total, current_revision(connection), facets)

    def _order(self, sort: str) -> list[sa.ColumnElement[Any]]:
        name, down = sort.removeprefix("-"), sort.startswith("-")
        if name not in self.columns:
            raise UsageError(
                f"{self.resource.noun} cannot be sorted by '{name[:60]}'",
                code=LIST_QUERY,
                next_step=f"One of {', '.join(self.columns)}.",
            )
        column, key = self.columns[name], self.columns[self.resource.key]
        return [(column.desc() if down else column.asc()).nulls_last(), key.desc() if down else key.asc()]


def _comparable(column: sa.ColumnElement[Any], named: Named) -> sa.ColumnElement[Any]:
    """A JSON document is searched as text."""
    return sa.cast(column, sa.Text) if named.kind is FilterKind.PART and isinstance(column.type, sa.JSON) else column


def _reader(named: Named) -> tuple[str, Callable[[Any], Any]]:
    """The conversion of a value of the database to one of the record."""
    choices = named.column.choices
    read = choices if isinstance(choices, EnumType) else _READERS.get(get_origin(named.type) or named.type, _same)
    return named.name, (lambda value: None if value is None else read(value)) if named.optional else read


def _same(value: Any) -> Any:
    return value


def _items(value: Sequence[Any] | None) -> tuple[Any, ...]:
    return tuple(value or ())


def moment(seconds: float) -> datetime:
    """A time from the database (seconds since 1970)."""
    return datetime.fromtimestamp(min(max(seconds, 0.0), LAST_SECOND), UTC)


_READERS: Final[Mapping[Any, Callable[[Any], Any]]] = {datetime: moment, bool: bool, tuple: _items}


def current_revision(connection: sa.Connection) -> int:
    """The revision of the last change."""
    return int(connection.execute(sa.select(counters.c.value).where(counters.c.name == "revision")).scalar_one())


def by_id_first(ids: sa.Column[str], key: str) -> sa.ColumnElement[int]:
    """Order for rows whose id or name is ``key``: the one with that id comes first."""
    return sa.case((ids == key, 0), else_=1)


def _facet(connection: sa.Connection, matching: sa.Select[Any], column: sa.ColumnElement[Any]) -> dict[str, int]:
    # By position: PostgreSQL does not recognize an expression with parameters that is sent twice.
    counted = matching.with_only_columns(column, sa.func.count(), maintain_column_froms=True).group_by(sa.text("1"))
    return {_shown(value): count for value, count in connection.execute(counted)}


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
