"""What all lists have in common. Every column can be filtered and sorted by, and a field says by its name what it
does::

    state, user_id     one of these values; may be given more than once
    url, label         of a single text: a part of it, in any case
    created_after      of a time: the column created_at, then or later
    created_before     before then
    percent_min, _max  of a number: these two and what is between them
    disabled           true or false

A parameter that a route does not know is an error (``parameters``): nobody is to believe that it filtered or sorted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from hypersdk.state.pages import MAX_PAGE, ListConditions, PageRequest

MAX_VALUES: Final = 100
"""Of one parameter: with the length of a value, what an address of 32 KiB holds. More ids go into the body of ``POST
/jobs/query``."""
BIGGEST: Final = 2**31 - 1
HALF_SHOWN_S: Final = 0.5e-6
"""Times are shown to the microsecond: a row is at the time that it shows."""
Word = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Words = Annotated[list[Word], Field(max_length=MAX_VALUES)]
Whole = Annotated[int, Field(ge=-BIGGEST, le=BIGGEST)]
Large = Annotated[int, Field(ge=0, le=2**53)]
Offset = Annotated[int, Field(ge=0, le=BIGGEST, description="Rows to leave out at the start: for a scroll bar")]
Limit = Annotated[int, Field(ge=1, le=MAX_PAGE)]


def one_of(columns: Iterable[str]) -> StringConstraints:
    """What a ``sort`` may be."""
    return StringConstraints(pattern=rf"^-?({'|'.join(columns)})$")


SORT: Final = "A column, with - before it for falling order; rows without a value come last"


class Conditions(BaseModel):
    """Conditions on the columns of a list, by the names of the fields. All must hold; of several values of one field,
    any."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    COLUMNS: ClassVar[Collection[str]] = ()
    ROUNDED: ClassVar[Mapping[str, float]] = {}
    """How far above its ``_max`` a value still shows as that, of columns that are no whole numbers."""

    def where(self) -> ListConditions:
        """As the database understands it."""
        equal: list[tuple[str, tuple[Any, ...]]] = []
        within: list[tuple[str, float | None, float | None]] = []
        containing: list[tuple[str, str]] = []
        for name in type(self).model_fields:
            value = getattr(self, name)
            column, _, end = name.rpartition("_")
            if value is None or value in ("", []):
                continue
            if name in self.COLUMNS:
                if isinstance(value, str):
                    containing.append((name, value))
                else:
                    values = value if isinstance(value, list) else [value]
                    equal.append((name, tuple(one.value if isinstance(one, Enum) else one for one in values)))
            elif end in ("after", "before") and isinstance(value, datetime):
                at = column if column in self.COLUMNS else f"{column}_at"
                moment = value.timestamp() - HALF_SHOWN_S
                within.append((at, moment, None) if end == "after" else (at, None, moment))
            elif end in ("min", "max"):
                above = self.ROUNDED.get(column, 1)
                within.append((column, value, None) if end == "min" else (column, None, value + above))
        return ListConditions(tuple(equal), tuple(within), tuple(containing))


class PageQuery(Conditions):
    """A part of a list. Each list says by which columns and how it is sorted where nothing is asked for."""

    sort: str
    offset: Offset = 0
    limit: Limit = MAX_PAGE

    def part(self) -> PageRequest:
        """As the database understands it."""
        return PageRequest(self.sort, self.offset, self.limit)
