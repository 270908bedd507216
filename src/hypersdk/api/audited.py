"""Every write of an authenticated caller adds an entry to the audit trail: who, from where, which route, which object,
and the outcome. Where the line cannot be written, the answer says so in place of success. So does every download of a
file: a disk image holds password hashes and keys. HEAD of one is a line of its own kind, without first and last byte.

Routes of ``/api/v1/auth`` write their own, which say more; what they refuse is written here.
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
"""Sent with POST, but read-only."""
DOWNLOADS: Final = frozenset({"/api/v1/jobs/{id}/artifacts/{name}"})
"""Read-only routes that are audited nevertheless."""
PARTIAL: Final = "partial"
"""Outcome of a write that was answered with success, while some or all of its items failed; the detail has the
numbers."""
MAX_IDS: Final = 100
"""Ids in one entry; the rest is only counted."""
_TOLD: Final = "audit"
OWN: Final = "/api/v1/auth/"


def tell(scope: Scope, detail: Mapping[str, Any], *, ids: Sequence[str] = (), partial: bool = False) -> None:
    """What the line of this request says beside route and object: numbers, words and ids, never a secret. What cannot
    be an id is not shown to the database, only counted."""
    said = dict(detail)
    if ids:
        said["ids"] = [one for one in ids[:MAX_IDS] if possible_id(one)]
        if left_out := len(ids) - len(said["ids"]):
            said["ids_left_out"] = left_out
    scope.setdefault("state", {})[_TOLD] = (said, partial)


def tell_submission(scope: Scope, done: SubmitResult) -> None:
    """The result of a submission."""
    detail = {"action": "submit", "accepted": len(done.accepted), "rejected": len(done.rejected)}
    tell(scope, detail, ids=[job.id for job in done.accepted], partial=bool(done.rejected))


def tell_each(scope: Scope, action: str, outcome: Mapping[str, HyperSDKError | None]) -> None:
    """What became of one action on many jobs."""
    failed = sum(error is not None for error in outcome.values())
    detail = {"action": action, "succeeded": len(outcome) - failed, "failed": failed}
    tell(scope, detail, ids=list(outcome), partial=failed > 0)


class Audited:
    """The layer next to the routes. A repeat that is answered from memory passes none of them and leaves no second
    line."""

    def __init__(self, app: ASGIApp, audit: Audit) -> None:
        self._app = app
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = identity_of(scope) if scope["type"] == "http" else None
        if found is None or scope["path"] in QUERIES:
            await self._app(scope, receive, send)
            return

        refused = False

        async def watched(message: Message) -> None:
            nonlocal refused
            if refused:
                return
            if message["type"] == "http.response.start" and _is_written(scope):
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
        """Before the answer goes out: a line that was promised is there."""
        if status < 400 and scope["path"].startswith(OWN):
            return
        detail, partial = scope.get("state", {}).get(_TOLD, ({}, False))
        outcome = str(status) if status >= 400 else PARTIAL if partial else "ok"
        action = f"{scope['method']} {route_of(scope)}"
        await run_in_threadpool(
            lambda: self._audit.write(
                actor, address_of(scope), action, target=scope["path"], outcome=outcome, detail=detail
            )
        )


def _is_written(scope: Scope) -> bool:
    """Known once the route has been found: before its answer goes out."""
    return scope["method"] not in READS or route_of(scope) in DOWNLOADS
