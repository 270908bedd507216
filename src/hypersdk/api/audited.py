"""The audit trail of requests: every write of an authenticated caller adds an entry with the caller, its address, the
route, the object and the outcome. If the entry cannot be written, the caller gets an error in place of a success.
Downloads of files are recorded too: a disk image contains password hashes and keys. HEAD of a file is an entry of its
own kind, without first and last byte.

Routes of ``/api/v1/auth`` write their own, more detailed entries; only their refusals are recorded here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hypersdk.access.audit import Audit
from hypersdk.api.metrics import route_of
from hypersdk.api.problems import answer
from hypersdk.api.security import READS, address_of, identity_of
from hypersdk.errors import HyperSDKError
from hypersdk.jobs.service import SubmitResult
from hypersdk.jobs.store import possible_id
from hypersdk.state.database import DatabaseError

QUERIES: Final = frozenset({"/jobs/query"})
"""Routes that are read-only although their method is POST."""
DOWNLOADS: Final = frozenset({"/api/v1/jobs/{id}/artifacts/{name}"})
"""Read-only routes that are audited nevertheless."""
PARTIAL: Final = "partial"
"""Outcome of a write that was answered with success although some or all of its items failed; the detail has the
numbers."""
MAX_IDS: Final = 100
"""Ids in one entry; more are only counted."""
_DETAIL: Final = "audit"
_UNCHANGED: Final = "unchanged"
OWN: Final = "/api/v1/auth/"


def tell(scope: Scope, detail: Mapping[str, Any], *, ids: Sequence[str] = (), partial: bool = False) -> None:
    """Sets the detail of this request's entry: numbers, words and ids, never a secret. A text that cannot be an id is
    not passed to the database, only counted."""
    entry = dict(detail)
    if ids:
        entry["ids"] = [job_id for job_id in ids[:MAX_IDS] if possible_id(job_id)]
        if left_out := len(ids) - len(entry["ids"]):
            entry["ids_left_out"] = left_out
    scope.setdefault("state", {})[_DETAIL] = (entry, partial)


def tell_unchanged(scope: Scope) -> None:
    """This request changed nothing: unless it is refused, it has no entry."""
    scope.setdefault("state", {})[_UNCHANGED] = True


def tell_submission(scope: Scope, done: SubmitResult) -> None:
    """Sets the detail of a submission."""
    detail = {"action": "submit", "accepted": len(done.accepted), "rejected": len(done.rejected)}
    tell(scope, detail, ids=[job.id for job in done.accepted], partial=bool(done.rejected))


def tell_each(scope: Scope, action: str, outcome: Mapping[str, HyperSDKError | None]) -> None:
    """Sets the detail of one action on many jobs."""
    failed = sum(error is not None for error in outcome.values())
    detail = {"action": action, "succeeded": len(outcome) - failed, "failed": failed}
    tell(scope, detail, ids=list(outcome), partial=failed > 0)


class Audited:
    """ASGI middleware around the routes. A repeated request that gets its stored response does not reach it, and adds
    no second entry."""

    def __init__(self, app: ASGIApp, audit: Audit) -> None:
        self._app = app
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = identity_of(scope)
        if found is None or scope["path"] in QUERIES:
            await self._app(scope, receive, send)
            return

        refused = False

        async def watched(message: Message) -> None:
            nonlocal refused
            if refused:
                return
            if message["type"] == "http.response.start" and _is_recorded(scope):
                try:
                    await self._write(scope, found[0].name, message["status"])
                except DatabaseError as error:
                    # A refusal is sent unchanged. Nothing is raised: for the layers below, the response has started.
                    if refused := message["status"] < 400:
                        await answer(scope["path"], error)(scope, receive, send)
                        return
            await send(message)

        await self._app(scope, receive, watched)

    async def _write(self, scope: Scope, actor: str, status: int) -> None:
        """Adds the entry. Called before the response is sent, so that a success always has its entry."""
        unchanged = scope.get("state", {}).get(_UNCHANGED, False)
        if status < 400 and (unchanged or scope["path"].startswith(OWN)):
            return
        detail, partial = scope.get("state", {}).get(_DETAIL, ({}, False))
        outcome = str(status) if status >= 400 else PARTIAL if partial else "ok"
        action = f"{scope['method']} {route_of(scope)}"
        await run_in_threadpool(
            lambda: self._audit.write(
                actor, address_of(scope), action, target=scope["path"], outcome=outcome, detail=detail
            )
        )


def _is_recorded(scope: Scope) -> bool:
    """Whether the request is recorded. Known once its route was found."""
    return scope["method"] not in READS or route_of(scope) in DOWNLOADS
