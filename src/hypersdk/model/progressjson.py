"""The JSON of progress records, made from their fields: one form for events, one for jobs.

A job's form is read back by the daemon, from its database, and by clients. A missing field gets its default (rows of
earlier releases), and so does an unknown word (a newer daemon).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from functools import cache
from types import NoneType
from typing import Any, Final, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from hypersdk.model.progress import DiskProgress, ExportProgress

R = TypeVar("R")
Form = Literal["event", "job"]
PERCENT: Final = "percent_"
"""A fraction, 0 to 1, under a name that starts like this is written as 0 to 100."""


class JsonField(NamedTuple):
    """A field in JSON. ``attribute`` is its name in the record, ``kind`` its type there; ``default`` is None for a
    property."""

    name: str
    attribute: str
    kind: Any
    default: Any
    about: str
    digits: int


@cache
def json_fields(record: type, form: Form) -> tuple[JsonField, ...]:
    """The fields that a record has in that form, in order. A job's form also has its properties, which are not read
    back."""
    hints = get_type_hints(record)
    found = []
    for field in fields(record):
        name = field.metadata.get(form, "")
        if name is not None:
            about, digits = field.metadata.get("about", ""), field.metadata.get("digits", 1)
            found.append(JsonField(name or field.name, field.name, hints[field.name], field.default, about, digits))
    properties = vars(record).items() if form == "job" else ()
    for name, value in properties:
        if isinstance(value, property):
            found.append(JsonField(name, name, get_type_hints(value.fget)["return"], None, value.__doc__ or "", 1))
    return tuple(found)


def event_object(record: ExportProgress | DiskProgress) -> dict[str, Any]:
    """The JSON of an event of type "progress"."""
    return _object(record, "event")


def job_object(record: ExportProgress | DiskProgress) -> dict[str, Any]:
    """The JSON of a job's progress."""
    return _object(record, "job")


def _object(record: ExportProgress | DiskProgress, form: Form) -> dict[str, Any]:
    kind: type = type(record)
    return {field.name: _plain(getattr(record, field.attribute), field, form) for field in json_fields(kind, form)}


def _plain(value: Any, field: JsonField, form: Form) -> Any:
    if isinstance(value, tuple):
        return [item if isinstance(item, str) else _object(item, form) for item in value]
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float):
        return round(value * 100, 1) if field.name.startswith(PERCENT) else round(value, field.digits)
    return value


def read_job_object(raw: Mapping[str, Any]) -> ExportProgress:
    """The progress of a job from its JSON. Raises ValueError for a value of another type."""
    return ExportProgress(**read_fields(ExportProgress, raw))


def read_fields(record: type, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``record`` from a job's form. Raises ValueError."""
    stored = {field.name for field in fields(record)}
    known = [field for field in json_fields(record, "job") if field.attribute in stored and field.name in raw]
    return {field.attribute: _read(raw[field.name], field) for field in known}


def _read(value: Any, field: JsonField) -> Any:
    if field.attribute == "disks":
        return tuple(
            DiskProgress(**read_fields(DiskProgress, _typed(disk, dict, "disks")))
            for disk in _typed(value, list, "disks")
        )
    if get_origin(field.kind) is tuple:
        return tuple(_typed(name, str, field.name) for name in _typed(value, list, field.name))
    kind, *others = get_args(field.kind) or (field.kind,)
    if value is None and NoneType in others:
        return None
    if issubclass(kind, StrEnum):
        return kind(value) if value in list(kind) else field.default
    if kind is float:
        number = float(_typed(value, (int, float), field.name))
        return round(number / 100, 3) if field.name.startswith(PERCENT) else number
    return _typed(value, kind, field.name)


def _typed(value: Any, kind: type[R] | tuple[type[R], ...], name: str) -> R:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"'{name}' has a value of another type")
    return value
