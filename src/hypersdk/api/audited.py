"""Every write that a known caller makes leaves a line in the audit trail: who, from where, which route, which object, how it ended.
So does every download of a file: a disk image holds password hashes and keys.

Routes of ``/api/v1/auth`` write their own, which say more; what they refuse is written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hypersdk.access.audit import Audit
from hypersdk.api.metrics import route_of
from hypersdk.api.security import READS, address_of, identity_of

QUERIES: Final = frozenset({"/jobs/query"})
"""Written with POST, and only look."""
DOWNLOADS: Final = frozenset({"/api/v1/jobs/{id}/artifacts/{name}"})
"""Routes that only look, and are written down all the same."""
_DETAIL: Final = "audit"
OWN: Final = "/api/v1/auth/"


def tell(scope: Scope, detail: Mapping[str, Any]) -> None:
    """What the line of this request says beside route and object: ids, numbers and words, never a secret."""
    scope.setdefault("state", {})[_DETAIL] = dict(detail)


class Audited:
    """The layer next to the routes. A repeat that is answered from memory passes none of them and leaves no second line."""

    def __init__(self, app: ASGIApp, audit: Audit) -> None:
        self._app = app
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = identity_of(scope) if scope["type"] == "http" else None
        if found is None or scope["path"] in QUERIES:
            await self._app(scope, receive, send)
            return

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and _is_written(scope):
                await self._write(scope, found[0].name, message["status"])
            await send(message)

        await self._app(scope, receive, watched)

    async def _write(self, scope: Scope, actor: str, status: int) -> None:
        """Before the answer goes out: a line that was promised is there."""
        if status < 400 and scope["path"].startswith(OWN):
            return
        outcome = "ok" if status < 400 else str(status)
        action = f"{scope['method']} {route_of(scope)}"
        detail = scope.get("state", {}).get(_DETAIL)
        await run_in_threadpool(
            lambda: self._audit.write(
                actor, address_of(scope), action, target=scope["path"], outcome=outcome, detail=detail
            )
        )


def _is_written(scope: Scope) -> bool:
    """Known once the route has been found: before its answer goes out."""
    return scope["method"] not in READS or route_of(scope) in DOWNLOADS
