"""The parameters of the list of jobs, and the same conditions in the body of a bulk call. Every column can be filtered and sorted by.

Of every list, a parameter that it does not know is an error: nobody is to believe that it filtered or sorted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from hypersdk.jobs.states import JobState
from hypersdk.jobs.store import MAX_PAGE, SORTABLE, Filter

MAX_VALUES: Final = 100
"""Of one parameter: with the length of a value, what an address of 32 KiB holds. More ids go into the body of ``POST /jobs/query``."""
MAX_IDS: Final = 1000
BIGGEST: Final = 2**31 - 1
Word = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Words = Annotated[list[Word], Field(max_length=MAX_VALUES)]
Ids = Annotated[list[Word], Field(max_length=MAX_IDS)]
Whole = Annotated[int, Field(ge=-BIGGEST, le=BIGGEST)]
Cursor = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,15}$")]
Sort = Annotated[str, StringConstraints(pattern=rf"^-?({'|'.join(SORTABLE)})$")]
_TIMES: Final = ("created", "started", "completed", "updated")
_NUMBERS: Final = ("priority", "attempt", "number", "source_changes", "percent")


async def only_known(request: Request) -> None:
    """Refuses parameters that the route does not name, as ``JobQuery`` does. After the guard: who may not is told that first."""
    known = set(_names(request.scope["route"].dependant))
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise RequestValidationError(
            [{"type": "extra_forbidden", "loc": ("query", name), "msg": "Extra inputs are not permitted"} for name in unknown]
        )  # fmt: skip


def _names(dependant: Any) -> Iterator[str]:
    yield from (one.alias for one in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _names(inner)


OnlyKnown = Annotated[None, Depends(only_known)]
"""Stands behind the guard among the arguments of a list."""


class JobFilter(BaseModel):
    """Which jobs. All conditions must hold; of several values of one field, any."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Words = Field(default=[], description="Exactly this id; may be given more than once, as all lists")
    state: list[JobState] = Field(default=[], max_length=len(JobState))
    format: Words = Field(default=[])
    site: Words = Field(default=[], description="host:port of the vCenter or ESXi host")
    owner: Words = Field(default=[])
    endpoint_id: Words = Field(default=[])
    worker_id: Words = Field(default=[])
    waiting: Words = Field(default=[], description="Code of what a queued job waits for")
    name: Word = Field(default="", description="Part of the name, in any case")
    vm_path: Word = Field(default="", description="Part of the machine's path, in any case")
    output_path: Word = Field(default="", description="Part of the folder, in any case")
    text: Word = Field(default="", description="Part of name, machine, folder or id, in any case")
    created_after: AwareDatetime | None = Field(default=None, description="At this time or later")
    created_before: AwareDatetime | None = Field(default=None, description="Before this time")
    started_after: AwareDatetime | None = None
    started_before: AwareDatetime | None = None
    completed_after: AwareDatetime | None = None
    completed_before: AwareDatetime | None = None
    updated_after: AwareDatetime | None = None
    updated_before: AwareDatetime | None = None
    priority_min: Whole | None = None
    priority_max: Whole | None = Field(default=None, description="This value still counts, as for all that end in _max")
    attempt_min: Whole | None = None
    attempt_max: Whole | None = None
    number_min: Whole | None = None
    number_max: Whole | None = None
    source_changes_min: Whole | None = Field(default=None, description="1: whose source is not as it was found")
    source_changes_max: Whole | None = None
    percent_min: Annotated[float, Field(ge=0, le=100)] | None = None
    percent_max: Annotated[float, Field(ge=0, le=100)] | None = None

    def as_filter(self, *, excluded: tuple[str, ...] = (), seen_revision: int | None = None) -> Filter:
        """As the store understands it."""
        return Filter(
            ids=tuple(self.id), states=tuple(self.state), formats=tuple(self.format), sites=tuple(self.site),
            owners=tuple(self.owner), text=self.text, excluded=excluded, equal=self._equal(), within=self._within(),
            containing=self._containing(), seen_revision=seen_revision,
        )  # fmt: skip

    def _equal(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        given = (("endpoint_id", self.endpoint_id), ("worker_id", self.worker_id), ("waiting", self.waiting))
        return tuple((name, tuple(values)) for name, values in given if values)

    def _containing(self) -> tuple[tuple[str, str], ...]:
        given = (("name", self.name), ("vm_path", self.vm_path), ("output_path", self.output_path))
        return tuple((name, text) for name, text in given if text)

    def _within(self) -> tuple[tuple[str, float | None, float | None], ...]:
        found: list[tuple[str, float | None, float | None]] = []
        for name in _TIMES:
            least, below = (getattr(self, f"{name}_{end}") for end in ("after", "before"))
            found.append((f"{name}_at", least and least.timestamp(), below and below.timestamp()))
        for name in _NUMBERS:
            least, most = (getattr(self, f"{name}_{end}") for end in ("min", "max"))
            step = 0.05 if name == "percent" else 1  # percentages have one decimal
            found.append((name, least, None if most is None else most + step))
        return tuple(one for one in found if one[1] is not None or one[2] is not None)


class JobQuery(JobFilter):
    """A page of the list."""

    sort: Sort = Field(
        default="-number", description=f"A column, with - before it for falling order: {', '.join(SORTABLE)}"
    )
    offset: Annotated[int, Field(ge=0, le=BIGGEST)] = Field(
        default=0, description="Jobs to leave out at the start: for a scroll bar"
    )
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100
    cursor: Cursor | None = Field(
        default=None, description="`next_cursor` of the page before: for programs; goes with sort number or -number"
    )


class Bulk(BaseModel):
    """One action on many jobs: either `ids`, or `filter` with the `revision` of the list that the caller saw. Jobs that came later are
    left alone, and so are those in `except`."""

    model_config = ConfigDict(
        extra="forbid", frozen=True,
        json_schema_extra={"examples": [
            {"action": "cancel", "ids": ["job-3f9a1c20d4e5"]},
            {"action": "retry", "filter": {"state": ["failed"]}, "except": ["job-3f9a1c20d4e5"], "revision": 4711},
        ]},
    )  # fmt: skip

    action: Literal["cancel", "pause", "resume", "retry", "delete"]
    ids: Ids | None = None
    filter: JobFilter | None = None
    except_: Ids = Field(default=[], alias="except")
    revision: Annotated[int, Field(ge=0, le=2**53)] | None = None
    keep_partial: bool = Field(
        default=False, description="For cancel: what was copied so far stays, and retry goes on from there"
    )
    discard: bool = Field(default=False, description="For retry: begins anew")
