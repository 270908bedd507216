"""Acting on many jobs: first the selection, then exactly the selected jobs, ``MAX_AT_ONCE`` in one request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from hypersdk.client.errors import family_of_exit, remote_error
from hypersdk.client.records import Raw, objects, take
from hypersdk.client.transport import Transport
from hypersdk.errors import HyperSDKError

BULK: Final = "/api/v1/jobs/bulk"
MAX_AT_ONCE: Final = 1000
"""Jobs of one request."""
Action: TypeAlias = Literal["cancel", "pause", "resume", "retry", "delete"]
"""What can be done with many jobs at once."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Jobs of a filter: those whose state allows the action, oldest first, and how many others match."""

    ids: tuple[str, ...]
    skipped: int


@dataclass(frozen=True, slots=True)
class BulkResult:
    """The jobs that were acted on, and the daemon's error for each other one."""

    done: tuple[str, ...]
    failed: Mapping[str, HyperSDKError]


def select(transport: Transport, action: Action, where: Mapping[str, Any]) -> Selection:
    """Selects jobs as they are when this is called: later pages have no job that came meanwhile."""
    ids: list[str] = []
    body: dict[str, Any] = {"action": action, "filter": dict(where), "dry_run": True}
    skipped: int | None = None
    while True:
        answer = transport.request("POST", BULK, json_body=body)
        found = [take(result, "id", str) for result in objects(answer, "results")]
        ids += found
        skipped = take(answer, "skipped", int) if skipped is None else skipped
        if answer.get("next_cursor") is None or not found:
            return Selection(tuple(ids), skipped)
        body |= {"revision": take(answer, "revision", int), "cursor": take(answer, "next_cursor", str)}


def act(transport: Transport, action: Action, ids: Sequence[str], flags: Mapping[str, bool]) -> BulkResult:
    """Acts on up to ``MAX_AT_ONCE`` jobs."""
    answer = transport.request("POST", BULK, json_body={"action": action, "ids": list(ids), **flags})
    done: list[str] = []
    failed: dict[str, HyperSDKError] = {}
    for result in objects(answer, "results"):
        job_id = take(result, "id", str)
        if take(result, "ok", bool):
            done.append(job_id)
        else:
            failed[job_id] = _error(take(result, "error", dict), job_id)
    return BulkResult(tuple(done), failed)


def _error(facts: Raw, job_id: str) -> HyperSDKError:
    family = family_of_exit(facts.get("exit_status"))
    message = str(facts.get("message") or f"job '{job_id}' was refused")
    return remote_error(family, message, facts, family.default_code, {"job": job_id})
