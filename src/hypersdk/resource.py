"""Lists of the daemon: each column is declared once, as an annotated field of the resource's record.

::

    @dataclass(frozen=True, slots=True, kw_only=True)
    class User(ListRecord):                      returned by the daemon's store, and by the client
        name: Annotated[str, ListColumn(table=TableColumn("Name", 1))]

    ListColumn ──> state/pages    SQL: the table's column of that name; filters, order, facets
               ├─> api/queries    query parameters, by the type of the field (see ``FilterKind``)
               ├─> api/views      field of the answer
               ├─> client         decoded from the answer
               └─> hyperctl       column of its table, where there is a ``table``

A field that older daemons do not send has a default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

LARGE: Final = (0, 2**53)
"""Bounds of counters."""


class FilterKind(Enum):
    """How rows are filtered by a column, with the query parameters of a column ``x`` or ``x_at``."""

    VALUES = "x: one of these values; may be given more than once"
    PART = "x: a part of the text, in any case"
    FLAG = "x: true or false"
    RANGE = "x_min, x_max: numbers from this one up to and including that one"
    TIME = "x_after: at this time or later; x_before: before it"
    DOCUMENT = "no filter"


@dataclass(frozen=True, slots=True)
class TableColumn:
    """The column in a table of ``hyperctl``. Columns are in the order of ``place``. In a narrow terminal a column is
    cut to ``least`` cells (0: never), then omitted if it is ``optional``."""

    title: str
    place: int
    least: int = 0
    optional: bool = False
    style: str = ""


@dataclass(frozen=True, slots=True)
class ListColumn:
    """The declaration of a column beside its name and type.

    ``about`` and ``example`` are for the OpenAPI document. ``choices`` is an enum or a Literal: all values that this
    version knows. ``part``: rows are filtered by a part of the text, not by the whole. ``bounds`` are the least and the
    greatest number that may be asked for, ``digits`` the decimal places of a number that is shown rounded. ``facet``:
    matching rows are counted by value. ``derived``: follows from another column, so it is shown, and neither filtered
    nor sorted by. ``internal``: in the daemon's record, and not shown.
    """

    about: str = ""
    example: str = ""
    choices: Any = None
    part: bool = False
    bounds: tuple[float, float] | None = None
    digits: int | None = None
    facet: bool = False
    table: TableColumn | None = None
    derived: bool = False
    internal: bool = False


@dataclass(frozen=True, slots=True)
class Named:
    """A column with its name and the type of its values. ``optional``: a value may be None. ``required``: an answer
    without the column cannot be read."""

    name: str
    type: Any
    column: ListColumn
    optional: bool = False
    required: bool = True

    @property
    def kind(self) -> FilterKind:
        """How rows are filtered by it."""
        if self.column.derived:
            return FilterKind.DOCUMENT
        if self.column.part:
            return FilterKind.PART
        return _KINDS.get(self.type, FilterKind.VALUES if self.column.choices else FilterKind.DOCUMENT)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of its query parameters; of two, the lower limit comes first."""
        if self.kind is FilterKind.TIME:
            stem = self.name.removesuffix("_at")
            return f"{stem}_after", f"{stem}_before"
        if self.kind is FilterKind.RANGE:
            return f"{self.name}_min", f"{self.name}_max"
        return () if self.kind is FilterKind.DOCUMENT else (self.name,)


_KINDS: Final[Mapping[Any, FilterKind]] = {
    str: FilterKind.VALUES,
    bool: FilterKind.FLAG,
    int: FilterKind.RANGE,
    float: FilterKind.RANGE,
    datetime: FilterKind.TIME,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRecord:
    """Base of records. ``raw`` is the JSON object as received, with the fields that only a newer daemon knows; empty in
    the daemon."""

    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


R = TypeVar("R", bound=ListRecord)


@dataclass(frozen=True, slots=True)
class Resource(Generic[R]):
    """A list. ``key`` is a unique column that orders rows which are equal in the sorted column. ``sort`` is the default
    order, ``more`` are columns that are not fields of the record."""

    noun: str
    record: type[R]
    key: str
    sort: str
    more: tuple[Named, ...] = ()

    @property
    def columns(self) -> tuple[Named, ...]:
        """The columns to filter and sort by."""
        return tuple(
            column for column in (*shown_fields(self.record), *self.more) if column.kind is not FilterKind.DOCUMENT
        )

    @property
    def facets(self) -> tuple[str, ...]:
        """The columns by whose values matching rows are counted."""
        return tuple(column.name for column in self.columns if column.column.facet)


def fields_of(record: type[ListRecord]) -> tuple[Named, ...]:
    """The fields of a record in order, without ``raw``."""
    kind: type = record
    return _fields_of(kind)


def shown_fields(record: type[ListRecord]) -> tuple[Named, ...]:
    """The fields of a record that an answer has."""
    return tuple(column for column in fields_of(record) if not column.column.internal)


def table_of(record: type[ListRecord]) -> tuple[tuple[str, TableColumn], ...]:
    """The columns of a record's table with the names of their fields, from left to right."""
    found = [(column.name, column.column.table) for column in fields_of(record) if column.column.table is not None]
    return tuple(sorted(found, key=lambda named: named[1].place))


@cache
def _fields_of(record: type) -> tuple[Named, ...]:
    hints = get_type_hints(record)
    columns = _columns_of(record)
    found = []
    for entry in dataclasses.fields(record):
        if entry.name != "raw":
            kind, optional = _without_none(hints[entry.name])
            required = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
            found.append(Named(entry.name, kind, columns.get(entry.name, ListColumn()), optional, required))
    return tuple(found)


def _columns_of(record: type) -> dict[str, ListColumn]:
    """The declarations of a record and its bases. A class that narrows the type of a field keeps its column."""
    found: dict[str, ListColumn] = {}
    for base in filter(dataclasses.is_dataclass, reversed(record.__mro__)):
        for name, hint in get_type_hints(base, include_extras=True).items():
            if columns := [part for part in get_args(hint) if isinstance(part, ListColumn)]:
                found[name] = columns[0]
    return found


def _without_none(kind: Any) -> tuple[Any, bool]:
    if get_origin(kind) not in (Union, UnionType):
        return kind, False
    (inner,) = (part for part in get_args(kind) if part is not NoneType)
    return inner, True
