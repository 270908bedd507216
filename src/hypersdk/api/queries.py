"""The parameters of each list, and the conditions on jobs in the body of a bulk call. What the names mean is in
``listing``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from hypersdk.access.audit import AUDIT_LIST
from hypersdk.access.endpoints import ENDPOINT_LIST
from hypersdk.access.roles import Role
from hypersdk.access.tokens import TOKEN_LIST
from hypersdk.access.users import USER_LIST
from hypersdk.api.listing import (
    BIGGEST,
    MAX_VALUES,
    SORT,
    Conditions,
    Large,
    Limit,
    PageQuery,
    Whole,
    Word,
    Words,
    one_of,
)
from hypersdk.api.views import Scope, WorkerState
from hypersdk.jobs.figures import WORKER_COLUMNS
from hypersdk.jobs.states import JobState
from hypersdk.jobs.store import ATTEMPT_LIST, JOB_LIST, Filter

MAX_IDS: Final = 1000
Ids = Annotated[list[Word], Field(max_length=MAX_IDS)]
Cursor = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,15}$")]


class JobFilter(Conditions):
    """Which jobs. All conditions must hold; of several values of one field, any."""

    COLUMNS: ClassVar = frozenset(JOB_LIST.columns) - {"id", "state"}
    ROUNDED: ClassVar = {"percent": 0.05}

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

    revision_min: Large | None = Field(default=None, description="Changed at this revision or later")
    revision_max: Large | None = None

    def as_filter(self, *, excluded: tuple[str, ...] = (), seen_revision: int | None = None) -> Filter:
        """As the store understands it."""
        return Filter(
            ids=tuple(self.id),
            states=tuple(self.state),
            text=self.text,
            excluded=excluded,
            where=self.where(),
            seen_revision=seen_revision,
        )


class JobQuery(JobFilter, PageQuery):
    """A page of the list of jobs."""

    limit: Limit = 100
    sort: Annotated[str, one_of(JOB_LIST.columns)] = Field(default="-number", description=SORT)
    cursor: Cursor | None = Field(
        default=None, description="`next_cursor` of the page before: for programs; goes with sort number or -number"
    )


class AttemptQuery(PageQuery):
    """Some attempts of a job."""

    COLUMNS: ClassVar = frozenset(ATTEMPT_LIST.columns)

    epoch_min: Large | None = None
    epoch_max: Large | None = None
    attempt_min: Whole | None = None
    attempt_max: Whole | None = None
    worker_id: Words = Field(default=[])
    outcome: Words = Field(default=[])
    started_after: AwareDatetime | None = None
    started_before: AwareDatetime | None = None
    ended_after: AwareDatetime | None = None
    ended_before: AwareDatetime | None = None
    sort: Annotated[str, one_of(ATTEMPT_LIST.columns)] = Field(default="epoch", description=SORT)


class WorkerQuery(PageQuery):
    """Some workers."""

    COLUMNS: ClassVar = frozenset(WORKER_COLUMNS)
    ROUNDED: ClassVar = {"age_s": 0.0005}

    id: Words = Field(default=[])
    host: Words = Field(default=[])
    pid_min: Whole | None = None
    pid_max: Whole | None = None
    version: Words = Field(default=[])
    state: list[WorkerState] = Field(default=[], max_length=MAX_VALUES)
    roots: Word = Field(default="", description="Id of an export root that it sees, or a part of it")
    started_after: AwareDatetime | None = None
    started_before: AwareDatetime | None = None
    age_s_min: Annotated[float, Field(ge=0, le=BIGGEST)] | None = None
    age_s_max: Annotated[float, Field(ge=0, le=BIGGEST)] | None = Field(
        default=None, description="Seconds since its last sign of life"
    )
    sort: Annotated[str, one_of(WORKER_COLUMNS)] = Field(default="state", description=SORT)


class EndpointQuery(PageQuery):
    """Some endpoints."""

    COLUMNS: ClassVar = frozenset(ENDPOINT_LIST.columns)

    id: Words = Field(default=[])
    name: Words = Field(default=[])
    kind: Words = Field(default=[])
    url: Word = Field(default="", description="Part of it, in any case")
    username: Words = Field(default=[])
    has_password: bool | None = None
    secret_ref: Word = Field(default="", description="Part of it, in any case")
    thumbprint: Words = Field(default=[])
    insecure: bool | None = None
    datacenter: Words = Field(default=[])
    is_default: bool | None = None
    created_after: AwareDatetime | None = None
    created_before: AwareDatetime | None = None
    revision_min: Large | None = None
    revision_max: Large | None = None
    sort: Annotated[str, one_of(ENDPOINT_LIST.columns)] = Field(default="name", description=SORT)


class UserQuery(PageQuery):
    """Some users."""

    COLUMNS: ClassVar = frozenset(USER_LIST.columns)

    id: Words = Field(default=[])
    name: Words = Field(default=[])
    role: list[Role] = Field(default=[], max_length=len(Role))
    has_password: bool | None = None
    disabled: bool | None = None
    locked_until_after: AwareDatetime | None = None
    locked_until_before: AwareDatetime | None = None
    created_after: AwareDatetime | None = None
    created_before: AwareDatetime | None = None
    sort: Annotated[str, one_of(USER_LIST.columns)] = Field(default="name", description=SORT)


class TokenQuery(PageQuery):
    """Some tokens."""

    COLUMNS: ClassVar = frozenset(TOKEN_LIST.columns)

    everyone: bool = Field(default=False, alias="all", description="Of all users; administrators only")
    id: Words = Field(default=[])
    user_id: Words = Field(default=[])
    user: Words = Field(default=[], description="Name of a user")
    label: Word = Field(default="", description="Part of it, in any case")
    scope: list[Scope] = Field(default=[], max_length=MAX_VALUES)
    created_after: AwareDatetime | None = None
    created_before: AwareDatetime | None = None
    expires_after: AwareDatetime | None = None
    expires_before: AwareDatetime | None = None
    used_after: AwareDatetime | None = None
    used_before: AwareDatetime | None = None
    sort: Annotated[str, one_of(TOKEN_LIST.columns)] = Field(default="-created_at", description=SORT)


class AuditQuery(PageQuery):
    """Some lines of the audit trail."""

    COLUMNS: ClassVar = frozenset(AUDIT_LIST.columns)

    number_min: Large | None = None
    number_max: Large | None = None
    at_after: AwareDatetime | None = None
    at_before: AwareDatetime | None = None
    actor: Words = Field(default=[])
    address: Words = Field(default=[])
    action: Words = Field(default=[])
    object: Word = Field(default="", description="Part of it, in any case")
    outcome: Words = Field(default=[])
    detail: Word = Field(default="", description="Part of it as JSON, in any case")
    before: Large | None = Field(
        default=None, description="`next` of the page before: for programs; goes with sort -number"
    )
    limit: Limit = 100
    sort: Annotated[str, one_of(AUDIT_LIST.columns)] = Field(default="-number", description=SORT)


class Bulk(BaseModel):
    """One action on many jobs: either `ids`, or `filter` with the `revision` of the list that the caller saw. Jobs that
    came later are left alone, and so are those in `except`."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {"action": "cancel", "ids": ["job-3f9a1c20d4e5"]},
                {"action": "retry", "filter": {"state": ["failed"]}, "except": ["job-3f9a1c20d4e5"], "revision": 4711},
            ]
        },
    )

    action: Literal["cancel", "pause", "resume", "retry", "delete"]
    ids: Ids | None = None
    filter: JobFilter | None = None
    except_: Ids = Field(default=[], alias="except")
    revision: Large | None = None
    keep_partial: bool = Field(
        default=False, description="For cancel: what was copied so far stays, and retry goes on from there"
    )
    discard: bool = Field(default=False, description="For retry: begins anew")
