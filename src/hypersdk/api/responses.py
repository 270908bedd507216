"""What the OpenAPI document says of answers that are no success."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

PROBLEM_TYPE: Final = "application/problem+json"


class Problem(BaseModel):
    """A problem document (RFC 9457) with our stable code, and what to do next."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {
                "type": "about:blank",
                "title": "Not Found",
                "status": 404,
                "detail": "there is no job 'job-3f9a1c20d4e5'",
                "code": "job_unknown",
                "cause": "There is no job with that id.",
                "next_step": "See `hyperctl query -all`.",
            }
        },
    )

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable; see docs/errors.md")
    cause: str = ""
    next_step: str = ""


class LegacyErrorView(BaseModel):
    """An error of the six legacy routes."""

    error: str
    code: str
    timestamp: str


TEXTS: Final = {
    400: "The request cannot be understood",
    401: "No valid token or session",
    403: "The caller's role, or a header that a browser must send, does not allow it",
    404: "There is no such object",
    405: "The route does not take this method",
    409: "The object is in a state, or there is another one, that does not allow it",
    413: "The body is too large",
    415: "The route does not take this kind of body",
    416: "The file does not reach that far",
    422: "A value of the request cannot be used",
    429: "Too many requests; Retry-After says how long to wait",
    502: "The vCenter or ESXi host did not answer as it should",
    503: "The database does not answer, or the daemon is full",
}
ALWAYS: Final = (400, 401, 403, 413, 415, 429, 503)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Problem documents of a native route: those that every route can answer with, and ``statuses``."""
    return {
        status: {"description": TEXTS[status], "model": Problem, "content": {PROBLEM_TYPE: {}}}
        for status in sorted({*ALWAYS, 422, *statuses})
    }


def legacy_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Errors of the six legacy routes."""
    return {
        status: {"description": TEXTS[status], "model": LegacyErrorView}
        for status in sorted({*ALWAYS, 405, 422, *statuses})
    }
