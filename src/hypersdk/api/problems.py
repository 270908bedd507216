"""Error responses: the HTTP status of each class of errors, and the two forms of the body.

::

    native routes     application/problem+json  (RFC 9457)  type title status detail code cause next_step ...fields
    the six legacy    application/json                      error code timestamp

Anything that is not a HyperSDKError is a bug: the log has the traceback, the response says no more than that.
"""

from __future__ import annotations

import http
import json
import logging
import math
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from hypersdk.access.faults import Conflict, Forbidden, TooMany, Unauthenticated
from hypersdk.access.kinds.base import CertificateNotTrusted
from hypersdk.api.bodies import not_json
from hypersdk.api.refusals import STATUS_OF_CODE
from hypersdk.api.responses import PROBLEM_TYPE
from hypersdk.api.times import now_rfc3339
from hypersdk.errors import (
    AccessError,
    Cancelled,
    ConnectError,
    HyperSDKError,
    IntegrityError,
    LookupFailed,
    NotRestored,
    PartlyFailed,
    Refused,
    SourceError,
    TargetError,
    TransientError,
    UsageError,
    register,
)
from hypersdk.jobs.remedies import error_dict
from hypersdk.jobs.states import JobStateError
from hypersdk.remedies import Look, ReportBug
from hypersdk.state.database import DatabaseError

LOG: Final = logging.getLogger(__name__)

ROUTE_UNKNOWN: Final = register("route_unknown", "The API has no such path.", Look("request"))
METHOD_REFUSED: Final = register("method_refused", "The path does not support that method.", Look("request"))
REQUEST_INVALID: Final = register(
    "request_invalid",
    "A value of the request is invalid.",
    "The message names the field.",
    Look("request"),
)
INTERNAL: Final = register("daemon_internal", "A bug in HyperSDK.", ReportBug())
HTTP_ERROR: Final = register("http_error", "The request cannot be served.", "Check the status and the message.")

STATUS: Final[Mapping[type[HyperSDKError], int]] = {
    Unauthenticated: 401,
    Forbidden: 403,
    TooMany: 429,
    Conflict: 409,
    CertificateNotTrusted: 409,
    JobStateError: 409,
    DatabaseError: 503,
    UsageError: 400,
    ConnectError: 502,
    AccessError: 502,  # vSphere refused the daemon's login; the classes above are about the caller
    LookupFailed: 404,
    Refused: 409,
    SourceError: 502,
    TransientError: 502,
    IntegrityError: 502,
    TargetError: 409,
    PartlyFailed: 409,
    NotRestored: 409,
    Cancelled: 409,
    HyperSDKError: 500,
}
"""An error has the status of its code in ``refusals``, else that of the nearest of its classes."""
_FRAMEWORK: Final = {
    404: (ROUTE_UNKNOWN, "there is no such path"),
    405: (METHOD_REFUSED, "the path does not support that method"),
}
"""Errors of FastAPI by status; others keep their own text."""
_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
LEGACY_PATHS: Final = frozenset({"/health", "/status", "/jobs/submit", "/jobs/query", "/jobs/cancel"})


def status_of(error: HyperSDKError) -> int:
    """The HTTP status of an error."""
    if error.code in STATUS_OF_CODE:
        return STATUS_OF_CODE[error.code]
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def is_legacy(path: str) -> bool:
    """Whether the path is one of the six legacy routes."""
    return path in LEGACY_PATHS or path.startswith("/jobs/")


def answer(path: str, error: HyperSDKError) -> Response:
    """The error response, in the form of the route at ``path``."""
    status = status_of(error)
    if status >= 500 and not isinstance(error, DatabaseError):  # an outage of the database is logged once
        LOG.warning("%s answered %d: %s (%s)", path, status, error.message, error.code)
    return answer_as(path, status, error)


def problem(error: HyperSDKError, status: int) -> dict[str, Any]:
    """A problem document (RFC 9457). The error's fields cannot replace its members."""
    document = {key: value for key, value in error_dict(error).items() if value is not None}
    del document["message"]
    document.pop("close", None)
    return document | {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": error.message,
    }


def _legacy(error: HyperSDKError) -> dict[str, Any]:
    return {"error": error.message, "code": error.code, "timestamp": now_rfc3339()}


def _headers(error: HyperSDKError, status: int) -> dict[str, str]:
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    wait = error.fields.get("retry_after_s")
    if isinstance(wait, int | float):
        headers["Retry-After"] = str(max(1, math.ceil(wait)))
    size = error.fields.get("size")
    if status == 416 and isinstance(size, int):
        headers["Content-Range"] = f"bytes */{size}"
    allow = error.fields.get("allow")
    if isinstance(allow, str):
        headers["Allow"] = allow
    if error.fields.get("close"):
        headers["Connection"] = "close"
    return headers


def install(app: FastAPI) -> None:
    """Handles all errors of routes, FastAPI's own too, with responses of the same form."""

    @app.exception_handler(HyperSDKError)
    async def _known(request: Request, error: Exception) -> Response:
        assert isinstance(error, HyperSDKError)
        return answer(request.url.path, error)

    @app.exception_handler(HTTPException)
    async def _framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code, text = _FRAMEWORK.get(error.status_code, (HTTP_ERROR, str(error.detail)[:300]))
        allow = ", ".join(_methods_at(request)) if error.status_code == 405 else None
        return answer_as(request.url.path, error.status_code, UsageError(text, code=code, allow=allow))

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        if isinstance(error.body, bytes) and error.body:
            return answer(request.url.path, not_json(request))
        return answer_as(request.url.path, 422, _of_validation(error))


def _methods_at(request: Request) -> list[str]:
    """The methods of all routes at the path. Starlette names only those of the first one that it finds."""
    asked = {name: request.scope[name] for name in ("type", "path", "root_path") if name in request.scope}
    return [
        method
        for method in _METHODS
        if any(route.matches(asked | {"method": method})[0] is Match.FULL for route in request.app.routes)
    ]


def answer_as(path: str, status: int, error: HyperSDKError) -> Response:
    """The error response with the given status."""
    document = _legacy(error) if is_legacy(path) else problem(error, status)
    kind = "application/json" if is_legacy(path) else PROBLEM_TYPE
    return Response(json.dumps(document, default=str), status, _headers(error, status), kind)


def internal(path: str) -> Response:
    """The response if an unexpected error occurred."""
    return answer_as(path, 500, UsageError("the daemon failed to answer", code=INTERNAL))


def _of_validation(error: RequestValidationError) -> HyperSDKError:
    """Without the values, which may be secrets."""
    found = [
        (".".join(str(part)[:60] for part in entry["loc"]), str(entry["msg"])[:200]) for entry in error.errors()[:5]
    ]
    text = "; ".join(f"{place}: {message}" for place, message in found)
    return UsageError(text or "the request is invalid", code=REQUEST_INVALID, fields=[place for place, _ in found])
