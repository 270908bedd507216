"""The actions that a caller may perform on a job now, and why not: from the tables that decide about the actions
themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from hypersdk.access.faults import FORBIDDEN
from hypersdk.access.roles import ACTIONS, Role
from hypersdk.api.artifacts import artifacts_of
from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.states import (
    ENDED,
    JOB_STATE,
    SOURCE_CHANGED_STILL,
    TARGET_CHANGED_STILL,
    JobEvent,
    JobState,
    before,
)
from hypersdk.jobs.store import Filter
from hypersdk.text import count


class AllowedActionView(BaseModel):
    """Whether an action is allowed."""

    model_config = ConfigDict(frozen=True)

    allowed: bool
    code: str | None = Field(
        description="Error code of the attempt; null if it is allowed", examples=[None, "job_state"]
    )
    reason: str | None = Field(examples=[None, "a job that is completed cannot be paused"])


_STATES: dict[str, tuple[frozenset[JobState], str]] = {
    "cancel": (before(JobEvent.CANCEL), "cancelled"),
    "pause": (before(JobEvent.PAUSE), "paused"),
    "resume": (before(JobEvent.RESUME), "resumed"),
    "retry": (before(JobEvent.RETRY), "retried"),
    "delete": (ENDED, "deleted"),
    "download": (frozenset({JobState.COMPLETED, JobState.FAILED}), "downloaded"),
}


_FAILED: Final = frozenset({JobState.FAILED})
_NONE_AT_SOURCE: Final = ("source_changes", None, 1)


def job_permissions(job: JobRecord, role: Role | None) -> dict[str, AllowedActionView]:
    """The permissions on a job, by action."""
    return {action: _permission(action, job, role) for action in _STATES}


def acted_on(which: Filter, action: str) -> list[Filter]:
    """``which`` without the jobs that would refuse ``action``, as filters that have no job in common. A job does not
    match any more after the action, so that repeated calls reach all jobs."""
    states = _STATES[action][0] & set(which.states or JobState)
    within = which.where.within
    parts = [(states, within)]
    if action == "cancel":
        at_target = (*within, _NONE_AT_SOURCE, ("target_changes", 1, None))
        parts = [
            (states - _FAILED, within),
            (states & _FAILED, (*within, ("source_changes", 1, None))),
            (states & _FAILED, at_target),
        ]
    elif action == "delete":
        parts = [(states, (*within, _NONE_AT_SOURCE, ("target_changes", None, 1)))]
    return [
        replace(which, states=tuple(sorted(some)), where=replace(which.where, within=allowed))
        for some, allowed in parts
        if some
    ]


def _permission(action: str, job: JobRecord, role: Role | None) -> AllowedActionView:
    needed = ACTIONS[f"jobs.{action}"]
    if role is None or not role.allows(needed):
        have = f"; you have {role}" if role else ""
        return AllowedActionView(allowed=False, code=FORBIDDEN, reason=f"needs the role {needed}{have}")
    states, done = _STATES[action]
    undone = job.state is JobState.FAILED and not (job.source_changes or job.target_changes)
    empty = job.state is JobState.FAILED and not artifacts_of(job)
    if job.state not in states or (action == "cancel" and undone) or (action == "download" and empty):
        return AllowedActionView(allowed=False, code=JOB_STATE, reason=f"a job that is {job.state} cannot be {done}")
    if action == "delete" and job.source_changes:
        reason = f"not undone at the source: {count(job.source_changes, 'change')}"
        return AllowedActionView(allowed=False, code=SOURCE_CHANGED_STILL, reason=reason)
    if action == "delete" and job.target_changes:
        reason = f"not undone at the target: {count(job.target_changes, 'change')}"
        return AllowedActionView(allowed=False, code=TARGET_CHANGED_STILL, reason=reason)
    return AllowedActionView(allowed=True, code=None, reason=None)
