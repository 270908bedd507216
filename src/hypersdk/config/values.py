"""Types of configuration values, declared once in the annotation of a key: pydantic checks them, and errors use the
same description.

pydantic is imported when a file is read, not before: it takes longer to import than ``hyper2kvm --help`` takes in all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

from hypersdk.errors import UsageError
from hypersdk.units import parse_size

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

TAKES: Final = "takes"
"""Type of the pydantic errors whose message is ``Takes.words``."""


@dataclass(frozen=True, slots=True, eq=False)
class Takes:
    """A value of exactly the annotated type (no number in quotes) within ``bounds``, or the result of ``convert``,
    which raises ValueError. ``words`` complete the sentence "this key takes ..."."""

    words: str
    bounds: Mapping[str, Any] = field(default_factory=dict)
    convert: Callable[[Any], object] | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        inner: Any = {**handler(source), "strict": True, **self.bounds}
        if self.convert is not None:
            inner = core_schema.no_info_plain_validator_function(self.convert)
        return core_schema.no_info_wrap_validator_function(self._check, inner)

    def _check(self, value: object, check: Callable[[object], object]) -> object:
        from pydantic_core import PydanticCustomError

        try:
            return check(value)
        except ValueError as error:
            raise PydanticCustomError(TAKES, "{words}", {"words": self.words}) from error


def whole(least: int, most: int) -> Takes:
    """A whole number within these bounds."""
    return Takes(f"a whole number from {least} to {most}", {"ge": least, "le": most})


def number(least: float, most: float) -> Takes:
    """A number within these bounds."""
    return Takes(f"a number from {least} to {most}", {"ge": least, "le": most, "allow_inf_nan": False})


def list_of(words: str, convert: Callable[[str], object]) -> Takes:
    """A list of texts, each converted; the result is a tuple."""

    def converted(value: object) -> tuple[object, ...]:
        if not isinstance(value, list | tuple | frozenset | set):
            raise ValueError("not a list")
        return tuple(convert(text) for text in value)

    return Takes(words, convert=converted)


def text_line(value: object) -> str:
    """A text of one line that is not empty. Raises ValueError."""
    if isinstance(value, str) and value and value.isprintable():
        return value
    raise ValueError("not a text")


def file_path(value: object) -> Path:
    """A path, its ``~`` expanded. Raises ValueError."""
    return Path(value if isinstance(value, Path) else text_line(value)).expanduser()


def _size(least: int) -> Takes:
    def convert(value: object) -> int:
        try:
            size = parse_size(value) if isinstance(value, str) else value
        except UsageError as error:
            raise ValueError(error.message) from error
        if not isinstance(size, int) or isinstance(size, bool) or size < least:
            raise ValueError("not a size")
        return size

    return Takes("a size like 20M, 1.5GiB or 500MB", convert=convert)


Text: TypeAlias = Annotated[str, Takes("a non-empty text", {"min_length": 1})]
Line: TypeAlias = Annotated[str, Takes("a text", convert=text_line)]
Flag: TypeAlias = Annotated[bool, Takes("true or false")]
FilePath: TypeAlias = Annotated[Path, Takes("a path", convert=file_path)]
Size: TypeAlias = Annotated[int, _size(1)]
"""Bytes."""
SizeOrNone: TypeAlias = Annotated[int, _size(0)]
"""Bytes; 0 is none."""
