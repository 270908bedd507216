"""``HEAD`` for every ``GET``: a copy of the route, with its guard and parameters. The server omits the body (RFC
9110, 9.3.2)."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from fastapi import APIRouter
from fastapi.routing import APIRoute


def heads_of(routers: Iterable[APIRouter]) -> APIRouter:
    """A ``HEAD`` route for every ``GET`` route of ``routers`` that has none. They are not in the OpenAPI document,
    which would describe each path twice."""
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
