"""Bodies that are read by hand: job files, and the JSON of the six legacy routes, which programs send with all sorts of
content types."""

from __future__ import annotations

from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from hypersdk.errors import UsageError, register
from hypersdk.migration.jobfile import JOB_UNREADABLE
from hypersdk.remedies import Look

BODY_UNREADABLE: Final = register(
    "body_unreadable",
    "The body is not the JSON that this route expects.",
    "The message names the field.",
    Look("request"),
)
BODY_KIND: Final = register(
    "body_kind",
    "The route does not accept a body of that content type.",
    "Send `Content-Type: application/json`, or application/yaml for a job file.",
)
_UNTOLD: Final = frozenset({"", "text/plain", "application/octet-stream", "application/x-www-form-urlencoded", "*/*"})
"""Content types of programs that do not set one; ``curl -d`` sends the last but one."""
_YAML: Final = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml", "text/vnd.yaml"})
Model = TypeVar("Model", bound=BaseModel)


class BodyKind(UsageError):  # noqa: N818 - reads as what happened
    """415: the route does not accept this content type."""

    default_code = BODY_KIND


def kind_of(request: Request) -> str:
    """The MIME type, in lower case and without parameters; empty where there is none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def not_json(request: Request) -> BodyKind:
    """For a body that the framework left as bytes, since it does not say that it is JSON. ``curl -d`` says that it is a
    form."""
    kind = kind_of(request)
    shown = f", not {kind[:80]}" if kind else ""
    return BodyKind(f"the route expects a body with Content-Type: application/json{shown}")


async def job_file(request: Request) -> tuple[str, str | None]:
    """The text of a job file and its MIME type; None where both JSON and YAML are to be tried.

    Raises BodyKind, and UsageError ``job_unreadable`` where it is not UTF-8.
    """
    kind = kind_of(request)
    told = kind == "application/json" or kind.endswith(("+json", "+yaml")) or kind in _YAML
    if not told and kind not in _UNTOLD:
        raise BodyKind(f"a job file is JSON or YAML, not {kind[:80]}")
    data = await request.body()
    try:
        return data.decode("utf-8"), kind if told else None
    except UnicodeDecodeError as error:
        raise UsageError(f"the job file is not UTF-8 (byte {error.start})", code=JOB_UNREADABLE) from None


async def json_body(request: Request, model: type[Model]) -> Model:
    """The body as ``model``; an empty one is ``{}``. Raises BodyKind and UsageError ``body_unreadable``; no value is
    shown."""
    kind = kind_of(request)
    if kind != "application/json" and not kind.endswith("+json") and kind not in _UNTOLD:
        raise BodyKind(f"the route takes application/json, not {kind[:80]}")
    data = await request.body()
    try:
        return model.model_validate_json(data if data.strip() else b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part)[:60] for part in first["loc"]) or "body"
        text = "is not JSON" if first["type"] == "json_invalid" else first["msg"]
        raise UsageError(f"{place}: {text}", code=BODY_UNREADABLE, field=place) from None
