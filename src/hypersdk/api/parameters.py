"""Refuses query parameters that a route does not have. The six legacy routes ignore them: some programs send any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.requests import HTTPConnection

NATIVE: Final = "/api/v1/"


def check_parameters(request: HTTPConnection) -> None:
    """Raises RequestValidationError with the name of each unknown parameter."""
    if not request.scope["path"].startswith(NATIVE) or not request.query_params:
        return
    known = set(_names(request.scope["route"].dependant))
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise RequestValidationError(
            [
                {"type": "extra_forbidden", "loc": ("query", name), "msg": "Extra inputs are not permitted"}
                for name in unknown
            ]
        )


def _names(dependant: Any) -> Iterator[str]:
    for parameter in dependant.query_params:
        model = parameter.field_info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            yield from (field.alias or name for name, field in model.model_fields.items())
        else:
            yield parameter.alias
    for inner in dependant.dependencies:
        yield from _names(inner)
