"""Errors as answers: one table from error class to status, and the two forms that an answer has.

::

    native routes     application/problem+json  (RFC 9457)  type title status detail code cause next_step ...fields
    the six legacy    application/json                      error code timestamp

Anything that is not a HyperSDKError is a bug: the traceback goes to the log, the answer says nothing but that.
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
from hypersdk.api.bodies import BodyKind, not_json
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
from hypersdk.jobs.store import JOB_EXISTS
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
    BodyKind: 415,
    JobStateError: 409,
    DatabaseError: 503,
    UsageError: 400,
    ConnectError: 502,
    AccessError: 502,  # vSphere refused our login there; who calls us is let in or not by the classes above
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
"""An error has the status of the nearest of its classes."""
_CODE_STATUS: Final[Mapping[str, int]] = {JOB_EXISTS: 409}
_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
LEGACY_PATHS: Final = frozenset({"/health", "/status", "/jobs/submit", "/jobs/query", "/jobs/cancel"})


def status_of(error: HyperSDKError) -> int:
    """The HTTP status of an error."""
    own: int | None = getattr(type(error), "http_status", None)
    if own is not None:
        return own
    if error.code in _CODE_STATUS:
        return _CODE_STATUS[error.code]
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def is_legacy(path: str) -> bool:
    """Whether the path is one of the six legacy routes."""
    return path in LEGACY_PATHS or path.startswith("/jobs/")


def answer(path: str, error: HyperSDKError) -> Response:
    """The answer that says what went wrong, in the form of the route at ``path``."""
    status = status_of(error)
    if status >= 500 and not isinstance(error, DatabaseError):  # which says so itself, once
        LOG.warning("%s answered %d: %s (%s)", path, status, error.message, error.code)
    document = _legacy(error) if is_legacy(path) else problem(error, status)
    kind = "application/json" if is_legacy(path) else PROBLEM_TYPE
    return Response(json.dumps(document, default=str), status, _headers(error, status), kind)


def problem(error: HyperSDKError, status: int) -> dict[str, Any]:
    """RFC 9457; fields of ours never hide one of its own."""
    document = {key: value for key, value in error_dict(error).items() if value is not None}
    del document["message"]
    document.pop("close", None)
    return document | {
        "type": "about:blank",
        "title": _title(status),
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
    allow = error.fields.get("allow")
    if isinstance(allow, str):
        headers["Allow"] = allow
    if error.fields.get("close"):
        headers["Connection"] = "close"
    return headers


def _title(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Error"


class HttpError(HyperSDKError):
    """What the framework refuses, as an error of ours."""

    exit_status = 2
    default_code = HTTP_ERROR


def install(app: FastAPI) -> None:
    """Makes the framework's own errors look like ours."""

    @app.exception_handler(HyperSDKError)
    async def _known(request: Request, error: Exception) -> Response:
        assert isinstance(error, HyperSDKError)
        return answer(request.url.path, error)

    @app.exception_handler(HTTPException)
    async def _framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            error = HTTPException(405, headers={"Allow": ", ".join(_methods_at(request))})
        return from_framework(request.url.path, error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        if isinstance(error.body, bytes) and error.body:
            return answer(request.url.path, not_json(request))
        return answer_as(request.url.path, 422, _of_validation(error))


def _methods_at(request: Request) -> list[str]:
    """Of all routes at the address, which the framework does not say: it names those of the first that it found."""
    asked = {name: request.scope[name] for name in ("type", "path", "root_path") if name in request.scope}
    return [
        method
        for method in _METHODS
        if any(route.matches(asked | {"method": method})[0] is Match.FULL for route in request.app.routes)
    ]


def from_framework(path: str, error: HTTPException) -> Response:
    """404, 405 and what else the framework raises."""
    code = {404: ROUTE_UNKNOWN, 405: METHOD_REFUSED}.get(error.status_code, HTTP_ERROR)
    allow = (error.headers or {}).get("Allow") or (error.headers or {}).get("allow")
    text = {404: "there is no such path", 405: "the path does not support that method"}.get(error.status_code)
    return answer_as(path, error.status_code, HttpError(text or str(error.detail)[:300], code=code, allow=allow))


def answer_as(path: str, status: int, error: HyperSDKError) -> Response:
    """``answer`` with a status of its own."""
    document = _legacy(error) if is_legacy(path) else problem(error, status)
    kind = "application/json" if is_legacy(path) else PROBLEM_TYPE
    return Response(json.dumps(document, default=str), status, _headers(error, status), kind)


def internal(path: str) -> Response:
    """For what should not happen."""
    return answer_as(path, 500, HttpError("the daemon failed to answer", code=INTERNAL))


def _of_validation(error: RequestValidationError) -> HyperSDKError:
    """Without the values, which may be secrets."""
    found = [(".".join(str(part)[:60] for part in one["loc"]), str(one["msg"])[:200]) for one in error.errors()[:5]]
    text = "; ".join(f"{place}: {message}" for place, message in found)
    return HttpError(text or "the request is invalid", code=REQUEST_INVALID, fields=[place for place, _ in found])
