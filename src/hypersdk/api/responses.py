"""Error responses in the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, WithJsonSchema

from hypersdk.remedies import KINDS, Remedy

PROBLEM_TYPE: Final = "application/problem+json"


def _schema(kind: str, remedy: type[Remedy]) -> dict[str, Any]:
    schema: dict[str, Any] = TypeAdapter(remedy).json_schema()
    properties = {"kind": {"const": kind, "type": "string"}, **schema.get("properties", {})}
    required = ["kind", *schema.get("required", ())]
    return {**schema, "title": remedy.__name__, "properties": properties, "required": required}


Remedies = list[
    Annotated[
        dict[str, Any],
        WithJsonSchema(
            {
                "title": "Remedy",
                "description": "A remedy that a program can offer. Newer versions may have more kinds.",
                "anyOf": [_schema(kind, remedy) for kind, remedy in KINDS.items()] + [{"type": "object"}],
            }
        ),
    ]
]
"""Stored remedies may come from another version, so they are documented and not validated."""


class Problem(BaseModel):
    """A problem document (RFC 9457) with a stable code, and what to do next."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {
                "type": "about:blank",
                "title": "Not Found",
                "status": 404,
                "detail": "there is no endpoint 'vc9'",
                "code": "endpoint_unknown",
                "cause": "There is no such endpoint.",
                "next_step": "See `hyperctl endpoints list` for the endpoints.",
                "remedies": [{"kind": "look", "at": "endpoints"}],
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
    remedies: Remedies = Field(default_factory=list, description="Remedies, in the order in which to try them")


class LegacyErrorView(BaseModel):
    """An error of the six legacy routes."""

    error: str
    code: str
    timestamp: str


TEXTS: Final = {
    400: "The request cannot be parsed",
    401: "No valid token or session",
    403: "The caller's role, or a header that a browser must send, does not allow it",
    404: "There is no such object",
    405: "The route does not support this method",
    409: "The state of the object, or another object, does not allow it",
    413: "The body is too large",
    415: "The route does not accept this content type",
    416: "The range is beyond the end of the file",
    422: "A value of the request is invalid",
    429: "Too many requests; Retry-After says how long to wait",
    502: "The vCenter or ESXi host could not be reached, or its response is invalid",
    503: "The database does not answer, or the daemon is at a limit",
}
ALWAYS: Final = (400, 401, 403, 413, 415, 429, 503)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a native route: those of every route, and ``statuses``."""
    return {
        status: {"description": TEXTS[status], "model": Problem, "content": {PROBLEM_TYPE: {}}}
        for status in sorted({*ALWAYS, 422, *statuses})
    }


def legacy_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of one of the six legacy routes."""
    return {
        status: {"description": TEXTS[status], "model": LegacyErrorView}
        for status in sorted({*ALWAYS, 405, 422, *statuses})
    }
