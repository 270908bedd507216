"""The query parameters of a list, derived from its resource. A list can be filtered and sorted by every column; the
parameters of a column depend on its type (``resource.FilterKind``)::

    state, user_id     equal to the value; may be repeated
    url, label         contains the text, ignoring case
    created_after      for the time column created_at: at this time or later
    created_before     before this time
    percent_min, _max  for a number: limits, inclusive
    disabled           true or false

An unknown parameter is an error (``parameters``), so that nobody takes it for a filter that was applied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, EnumType
from typing import Annotated, Any, ClassVar, Final, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, create_model

from hypersdk.resource import LARGE, FilterKind, Named, Resource
from hypersdk.state.pages import MAX_PAGE, ListConditions, PageRequest

MAX_VALUES: Final = 100
"""Values of one parameter: as many as a URL of 32 KiB can hold. ``POST /jobs/query`` takes more ids in its body."""
BIGGEST: Final = 2**31 - 1
HALF_SHOWN_S: Final = 0.5e-6
"""Times are shown to the microsecond, and rows are selected by the time that is shown."""
Word = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Large = Annotated[int, Field(ge=LARGE[0], le=LARGE[1])]
Offset = Annotated[int, Field(ge=0, le=BIGGEST, description="Rows to skip: for a scroll bar")]
Limit = Annotated[int, Field(ge=1, le=MAX_PAGE)]
SORT: Final = "A column, prefixed with - for descending order; rows without a value come last"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter and its column. ``end`` is the end of a range that it sets: ``min``, ``max`` or empty."""

    name: str
    column: Named
    end: str
    type: Any
    default: Any
    about: str


def parameters_of(named: Named) -> Iterator[Parameter]:
    """The parameters of a column."""
    name, about = named.name, named.column.about
    if named.kind is FilterKind.VALUES:
        value: Any = named.column.choices or Word
        most = len(value) if isinstance(value, EnumType) else MAX_VALUES
        yield Parameter(name, named, "", Annotated[list[value], Field(max_length=most)], [], about)
    elif named.kind is FilterKind.PART:
        yield Parameter(name, named, "", Word, "", "Part of the text, ignoring case")
    elif named.kind is FilterKind.FLAG:
        yield Parameter(name, named, "", bool | None, None, about)
    elif named.kind is FilterKind.TIME:
        after, before = named.parameters
        yield Parameter(after, named, "min", AwareDatetime | None, None, "At this time or later")
        yield Parameter(before, named, "max", AwareDatetime | None, None, "Before this time")
    elif named.kind is FilterKind.RANGE:
        least, greatest = named.column.bounds or (-BIGGEST, BIGGEST)
        number: Any = Annotated[named.type, Field(ge=least, le=greatest)] | None
        low, high = named.parameters
        yield Parameter(low, named, "min", number, None, about)
        yield Parameter(high, named, "max", number, None, "Inclusive")


class Conditions(BaseModel):
    """Conditions on the columns of a list. All must hold; of several values of one field, any."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    PARAMETERS: ClassVar[tuple[Parameter, ...]] = ()

    def given(self) -> Mapping[str, tuple[Parameter, Any]]:
        """The parameters with a value, by name."""
        found = {parameter.name: (parameter, getattr(self, parameter.name)) for parameter in self.PARAMETERS}
        return {name: pair for name, pair in found.items() if pair[1] not in (None, "", [])}

    def where(self, *, but: Iterable[str] = ()) -> ListConditions:
        """The conditions for the database, without the parameters in ``but``."""
        equal: list[tuple[str, tuple[Any, ...]]] = []
        within: list[tuple[str, float | None, float | None]] = []
        containing: list[tuple[str, str]] = []
        for parameter, value in (pair for name, pair in self.given().items() if name not in but):
            column = parameter.column.name
            if parameter.end:
                limit = _limit(parameter, value)
                within.append((column, limit, None) if parameter.end == "min" else (column, None, limit))
            elif parameter.column.kind is FilterKind.PART:
                containing.append((column, value))
            else:
                values = value if isinstance(value, list) else [value]
                equal.append((column, tuple(each.value if isinstance(each, Enum) else each for each in values)))
        return ListConditions(tuple(equal), tuple(within), tuple(containing))


def _limit(parameter: Parameter, value: datetime | float) -> float:
    """The least value of a range, or the first one above it: values that are shown as ``_max`` are included."""
    if isinstance(value, datetime):
        return value.timestamp() - HALF_SHOWN_S
    if parameter.end == "min":
        return value
    return value + (1 if parameter.column.type is int else 0.5 * 10.0 ** -(parameter.column.column.digits or 0))


class PageQuery(Conditions):
    """A page of a list."""

    sort: str
    offset: Offset = 0
    limit: Limit = MAX_PAGE

    def part(self) -> PageRequest:
        """The page for the database."""
        return PageRequest(self.sort, self.offset, self.limit)


C = TypeVar("C", bound=Conditions)


def query_of(resource: Resource[Any]) -> Callable[[type[C]], type[C]]:
    """A decorator: adds the parameters of the resource."""

    def derive(base: type[C]) -> type[C]:
        parameters = tuple(parameter for column in resource.columns for parameter in parameters_of(column))
        fields: dict[str, Any] = {
            parameter.name: (parameter.type, Field(default=parameter.default, description=parameter.about or None))
            for parameter in parameters
        }
        if issubclass(base, PageQuery):
            allowed = StringConstraints(pattern=rf"^-?({'|'.join(column.name for column in resource.columns)})$")
            fields["sort"] = (Annotated[str, allowed], Field(default=resource.sort, description=SORT))
        made = create_model(base.__name__, __base__=base, __module__=base.__module__, __doc__=base.__doc__, **fields)
        made.PARAMETERS = parameters
        return made

    return derive
