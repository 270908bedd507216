"""Checks what was read from a file against the type that it must have.

pydantic is imported at the first check. An export that resumes nothing reads no such file before the first byte of its
data, and the import with the schemas takes as long as all calls of the API until then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError


def validated(shape: Any, value: Any) -> Any:
    """``value`` as an object of the type ``shape``. Raises ValueError with the first invalid field and why."""
    from pydantic import ValidationError

    try:
        return _adapter(shape).validate_python(value)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None


def first_problem(error: ValidationError) -> str:
    """The first invalid field and why, without its value."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def checksum_of(data: Mapping[str, Any]) -> str:
    """Checksum of the content of a JSON document, whatever the layout of its text."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(shape)
