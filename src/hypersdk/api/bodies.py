"""Bodies that FastAPI does not parse: job files, and the JSON of the six legacy routes, which programs send with all
sorts of content types."""

from __future__ import annotations

from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from hypersdk.api.refusals import with_status
from hypersdk.errors import UsageError, register
from hypersdk.migration.jobfile import JOB_UNREADABLE
from hypersdk.remedies import Look

BODY_UNREADABLE: Final = register(
    "body_unreadable",
    "The body is not the JSON that this route expects.",
    "The message names the field.",
    Look("request"),
)
BODY_KIND: Final = with_status(
    415,
    register(
        "body_kind",
        "The route does not accept a body of that content type.",
        "Send `Content-Type: application/json`, or application/yaml for a job file.",
    ),
)
_UNSPECIFIED: Final = frozenset(
    {"", "text/plain", "application/octet-stream", "application/x-www-form-urlencoded", "*/*"}
)
"""Content types of programs that do not set one; ``curl -d`` sends the last but one."""
_YAML: Final = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml", "text/vnd.yaml"})
Model = TypeVar("Model", bound=BaseModel)


def kind_of(request: Request) -> str:
    """The MIME type, in lower case and without parameters; empty where there is none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def not_json(request: Request) -> UsageError:
    """The error for a body that FastAPI left as bytes, because its content type is not JSON. ``curl -d`` sends that of
    a form."""
    kind = kind_of(request)
    shown = f", not {kind[:80]}" if kind else ""
    return UsageError(f"the route expects a body with Content-Type: application/json{shown}", code=BODY_KIND)


async def job_file(request: Request) -> tuple[str, str | None]:
    """The text of a job file and its MIME type; None if the client did not set one that says JSON or YAML.

    Raises UsageError ``body_kind``, and ``job_unreadable`` if it is not UTF-8.
    """
    kind = kind_of(request)
    explicit = kind == "application/json" or kind.endswith(("+json", "+yaml")) or kind in _YAML
    if not explicit and kind not in _UNSPECIFIED:
        raise UsageError(f"a job file is JSON or YAML, not {kind[:80]}", code=BODY_KIND)
    data = await request.body()
    try:
        return data.decode("utf-8"), kind if explicit else None
    except UnicodeDecodeError as error:
        raise UsageError(f"the job file is not UTF-8 (byte {error.start})", code=JOB_UNREADABLE) from None


async def json_body(request: Request, model: type[Model]) -> Model:
    """The body as ``model``; an empty one is ``{}``. Raises UsageError ``body_kind`` and
    ``body_unreadable``; the message contains no value."""
    kind = kind_of(request)
    if kind != "application/json" and not kind.endswith("+json") and kind not in _UNSPECIFIED:
        raise UsageError(f"the route expects application/json, not {kind[:80]}", code=BODY_KIND)
    data = await request.body()
    try:
        return model.model_validate_json(data if data.strip() else b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part)[:60] for part in first["loc"]) or "body"
        text = "is not JSON" if first["type"] == "json_invalid" else first["msg"]
        raise UsageError(f"{place}: {text}", code=BODY_UNREADABLE, field=place) from None
