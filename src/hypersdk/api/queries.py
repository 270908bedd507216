"""The query parameters of each list (see ``listing``), and the body of a bulk call."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from hypersdk.access.records import AUDIT, ENDPOINTS, TOKENS, USERS
from hypersdk.api.listing import Conditions, Large, Limit, PageQuery, Word, query_of
from hypersdk.jobs.ids import EXAMPLE
from hypersdk.jobs.records import ATTEMPTS, JOBS, WORKERS
from hypersdk.jobs.store import Filter

MAX_IDS: Final = 1000
Ids = Annotated[list[Word], Field(max_length=MAX_IDS)]
Cursor = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,15}$")]


@query_of(JOBS)
class JobFilter(Conditions):
    """Which jobs. All conditions must hold; of several values of one field, any."""

    text: Word = Field(default="", description="Part of name, machine, folder or id, ignoring case")
    id_prefix: Word = Field(default="", description="Beginning of the id, ignoring case", examples=[EXAMPLE[:8]])

    def as_filter(
        self, *, excluded: tuple[str, ...] = (), seen_revision: int | None = None, after: int | None = None
    ) -> Filter:
        """The filter for the store."""
        given = self.given()
        return Filter(
            ids=tuple(given["id"][1]) if "id" in given else (),
            id_prefix=self.id_prefix,
            states=tuple(given["state"][1]) if "state" in given else (),
            text=self.text,
            excluded=excluded,
            where=self.where(but=("id", "state")),
            seen_revision=seen_revision,
            after=after,
        )


@query_of(JOBS)
class JobQuery(JobFilter, PageQuery):
    """A page of the list of jobs."""

    limit: Limit = 100
    cursor: Cursor | None = Field(
        default=None, description="`next_cursor` of the previous page: for programs; requires sort number or -number"
    )


@query_of(ATTEMPTS)
class AttemptQuery(PageQuery):
    """A page of the attempts at a job."""


@query_of(WORKERS)
class WorkerQuery(PageQuery):
    """A page of the list of workers."""


@query_of(ENDPOINTS)
class EndpointQuery(PageQuery):
    """A page of the list of endpoints."""


@query_of(USERS)
class UserQuery(PageQuery):
    """A page of the list of users."""


@query_of(TOKENS)
class TokenQuery(PageQuery):
    """A page of the list of tokens."""

    everyone: bool = Field(default=False, alias="all", description="Of all users; administrators only")


@query_of(AUDIT)
class AuditQuery(PageQuery):
    """A page of the audit trail."""

    limit: Limit = 100
    before: Large | None = Field(
        default=None, description="`next` of the previous page: for programs; requires sort -number"
    )


class BulkBody(BaseModel):
    """Act on many jobs: either `ids`, or `filter` with the `revision` of the list that the caller saw. Jobs that
    came later are left alone, and so are those in `except`. A dry run takes a `filter`; its response has the `revision`
    for the next page."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {"action": "cancel", "ids": [EXAMPLE]},
                {
                    "action": "retry",
                    "filter": {"state": ["failed"]},
                    "except": [EXAMPLE],
                    "revision": 4711,
                },
                {"action": "cancel", "filter": {"state": ["queued", "paused"]}, "dry_run": True},
            ]
        },
    )

    action: Literal["cancel", "pause", "resume", "retry", "delete"]
    ids: Ids | None = None
    filter: JobFilter | None = None
    except_: Ids = Field(default=[], alias="except")
    revision: Large | None = None
    dry_run: bool = Field(
        default=False, description="With a filter: selects the jobs as the action would, and changes none of them"
    )
    cursor: Cursor | None = Field(
        default=None, description="With a filter: `next_cursor` of the previous page; only jobs after it are selected"
    )
    keep_partial: bool = Field(
        default=False, description="For cancel: keeps the data copied so far, so that retry continues from there"
    )
    discard: bool = Field(default=False, description="For retry: starts over")
