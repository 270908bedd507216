"""``HEAD`` beside ``GET``: the same route once more, guard and parameters with it. The server leaves the body out (RFC
9110, 9.3.2)."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from fastapi import APIRouter
from fastapi.routing import APIRoute


def heads_of(routers: Iterable[APIRouter]) -> APIRouter:
    """``HEAD`` of every ``GET`` of ``routers`` that has none of its own. Not in the OpenAPI document, which would
    describe each address twice."""
    found = APIRouter()
    for router in routers:
        routes = [route for route in router.routes if isinstance(route, APIRoute)]
        own = {route.path for route in routes if "HEAD" in (route.methods or ())}
        found.routes += [_head(route) for route in routes if "GET" in (route.methods or ()) and route.path not in own]
    return found


def _head(route: APIRoute) -> APIRoute:
    head = copy.copy(route)
    head.methods, head.include_in_schema = {"HEAD"}, False
    return head
