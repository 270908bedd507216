"""The event stream."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Header, Query
from pydantic import StringConstraints
from starlette.responses import Response, StreamingResponse

from hypersdk.api.context import Use
from hypersdk.api.feed import TOPICS, Subscription
from hypersdk.api.responses import problems
from hypersdk.api.security import Viewer

router = APIRouter(prefix="/api/v1/events", tags=["events"])
MAX_IDS: Final = 200
Topic = Literal["jobs", "progress", "endpoints"]
Id = Annotated[str, StringConstraints(max_length=128)]
_EXAMPLE: Final = (
    'event: hello\nid: 4711\ndata: {"revision":4711,"timestamp":"2026-01-31T12:00:00.000000Z"}\n\nevent: progress\nid:'
    ' 4712\ndata: {"id":"0b9c3f5e-8a41-4d27-9c1b-6f2e7d5a3480","state":"running","progress":{'
    '"percent_complete":12.5}}\n\n'
)


@router.get(
    "",
    operation_id="events",
    summary="Follow changes (server-sent events)",
    response_class=Response,
    responses={
        200: {
            "description": "Events",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
        },
        **problems(),
    },
)
async def events(
    use: Use,
    _: Viewer,
    topics: Annotated[list[Topic] | None, Query(max_length=10, description="Without any: all")] = None,
    ids: Annotated[
        list[Id] | None, Query(max_length=MAX_IDS, description="Only these objects; without any: all")
    ] = None,
    after: Annotated[
        int | None, Query(ge=0, le=2**53, description="As Last-Event-ID, for the first request: the revision of a list")
    ] = None,
    last_event_id: Annotated[
        str | None, Header(max_length=40, description="The id of the last event that was seen")
    ] = None,
) -> Response:
    """Events: `hello` (where the stream begins), `job` (a whole job, when more than its progress changed), `progress`
    (at most twice a second for one job), `endpoint`, `removed` (`{topic, id}`), `ping` (every 15 s), and `resync`:
    missed events are no longer available; load everything again. The id of an event is a revision of the database; a
    client that comes back with `Last-Event-ID` gets each object that changed meanwhile once, as it is now. A stream
    ends after 15 minutes at most; browsers come back by themselves."""
    use.feed.check_room()
    seen = int(last_event_id) if last_event_id and last_event_id.isascii() and last_event_id.isdigit() else after
    wanted = Subscription(frozenset(topics or TOPICS), frozenset(ids or ()))
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(use.feed.listen(wanted, seen), headers=headers, media_type="text/event-stream")
