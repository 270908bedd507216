"""Pages of lists: filtered, sorted and counted by the database, all in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import sqlalchemy as sa

from hypersdk.errors import UsageError, register
from hypersdk.state.tables import counters

LIST_QUERY: Final = register(
    "list_query", "The list cannot be filtered or sorted like that.", "The message names the column and what it takes."
)
MAX_PAGE: Final = 1000
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ListConditions:
    """Which rows. All conditions must hold; of several values, any."""

    equal: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    """Columns and the values that they may have."""
    within: tuple[tuple[str, float | None, float | None], ...] = ()
    """Columns of numbers and times, with the least value and the first one that is too high."""
    containing: tuple[tuple[str, str], ...] = ()
    """Columns of text and what is found in them, in whatever case."""


EVERYTHING: Final = ListConditions()


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which part of a list, in which order. ``sort`` is a column, with ``-`` before it for falling order; rows without
    a value come last."""

    sort: str
    offset: int = 0
    limit: int = MAX_PAGE


@dataclass(frozen=True, slots=True)
class PageResult(Generic[T]):
    """Part of a list; how many match in all; the revision that the list was read at; how many match by value of a
    column."""

    rows: tuple[T, ...]
    total: int
    revision: int
    facets: Mapping[str, Mapping[str, int]]


class Listing:
    """What a list can be filtered and sorted by. ``key`` is a column without equals: it decides between rows that are
    equal in the others."""

    def __init__(
        self, noun: str, columns: Mapping[str, sa.ColumnElement[Any]], *, key: str, facets: Sequence[str] = ()
    ) -> None:
        self.columns: Final = dict(columns)
        self.key: Final = key
        self._noun: Final = noun
        self._facets: Final = tuple(facets)

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
        make: Callable[[Any], T],
        *,
        beyond: sa.ColumnElement[bool] | None = None,
    ) -> PageResult[T]:
        """``query`` selects what ``make`` takes as a row. ``beyond`` is the condition of a cursor, which no count
        heeds.

        Raises UsageError ``list_query``.
        """
        shown = query.where(*conditions).order_by(*self._order(part.sort)).limit(part.limit).offset(part.offset)
        if not 0 < part.limit <= MAX_PAGE or part.offset < 0:
            raise UsageError(f"limit is from 1 to {MAX_PAGE}, offset from 0", code=LIST_QUERY)
        rows = connection.execute(shown if beyond is None else shown.where(beyond)).all()
        matching = query.where(*conditions).order_by(None)
        total = connection.execute(matching.with_only_columns(sa.func.count(), maintain_column_froms=True)).scalar_one()
        facets = {name: _facet(connection, matching, self.columns[name]) for name in self._facets}
        return PageResult(tuple(make(row) for row in rows), total, current_revision(connection), facets)

    def _order(self, sort: str) -> list[sa.ColumnElement[Any]]:
        name, down = sort.removeprefix("-"), sort.startswith("-")
        if name not in self.columns:
            raise UsageError(
                f"{self._noun} cannot be sorted by '{name[:60]}'",
                code=LIST_QUERY,
                next_step=f"One of {', '.join(self.columns)}.",
            )
        column, key = self.columns[name], self.columns[self.key]
        return [(column.desc() if down else column.asc()).nulls_last(), key.desc() if down else key.asc()]


def current_revision(connection: sa.Connection) -> int:
    """The revision of the last change of anything."""
    return int(connection.execute(sa.select(counters.c.value).where(counters.c.name == "revision")).scalar_one())


def by_id_first(ids: sa.Column[str], key: str) -> sa.ColumnElement[int]:
    """Order of the rows that ``key`` may mean, by id or by name: the id's own comes first, whatever the other is
    called."""
    return sa.case((ids == key, 0), else_=1)


def _facet(connection: sa.Connection, matching: sa.Select[Any], column: sa.ColumnElement[Any]) -> dict[str, int]:
    # By position: an expression with parameters is not the same to PostgreSQL when it is sent twice.
    counted = matching.with_only_columns(column, sa.func.count(), maintain_column_froms=True).group_by(sa.text("1"))
    return {_shown(value): count for value, count in connection.execute(counted)}


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
