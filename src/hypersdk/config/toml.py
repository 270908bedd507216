"""Reading a TOML file: bounded, every mistake told with its file and its key, and nothing quoted of one that holds
secrets."""

from __future__ import annotations

import difflib
import json
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hypersdk.config.values import TAKES
from hypersdk.errors import UsageError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds, and its permission bits."""

    document: dict[str, Any]
    mode: int

    @property
    def exposed(self) -> bool:
        """Whether other users of this machine can read the file."""
        return bool(self.mode & 0o077)


@dataclass(frozen=True, slots=True)
class TomlFile:
    """One file. ``code`` is that of its errors. ``secret``: messages and causes quote nothing of it."""

    path: Path
    code: str
    limit_bytes: int
    secret: bool = False

    def read(self) -> Content | None:
        """The content; None where there is no such file. Raises UsageError."""
        try:
            with self.path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                data = file.read(self.limit_bytes + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self.error(f"cannot be read: {error.strerror}") from error
        if len(data) > self.limit_bytes:
            raise self.error(f"is larger than {self.limit_bytes} bytes")
        try:
            return Content(tomllib.loads(data.decode("utf-8")), mode)
        except RecursionError:
            raise self.error("is nested too deeply") from None
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            if self.secret:
                raise self.error("is not valid TOML") from None
            raise self.error(f"is not valid TOML: {error}") from error

    def error(self, problem: str, *, key: str | None = None) -> UsageError:
        """What is wrong with the file, as an error to raise."""
        error = UsageError(f"{self.path} {problem}", code=self.code)
        if key is not None:
            error.fields["key"] = key
        return error


def table(shape: type[T], values: Mapping[str, object], *, code: str, where: str, of: str = "") -> T:
    """``values`` as the dataclass ``shape``, whose annotations say what each key takes (``values.py``).

    ``where`` names their source and ``of`` their table in messages. Raises UsageError that names the key, and for an
    unknown one the nearest that is known.
    """
    from pydantic import TypeAdapter, ValidationError

    known = [field.name for field in fields(shape)]  # type: ignore[arg-type] # a dataclass, by the contract
    for key in values:
        if key not in known:
            raise unknown(key, known, code=code, where=where, what="key" + of)
    try:
        return TypeAdapter(shape).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0])
        message = f"{where} has a wrong value for {key}{of}: it takes {_words(first)}"
        raise UsageError(message, code=code, key=key) from None  # whose text would quote the value


def _words(error: ErrorDetails) -> str:
    if error["type"] == TAKES:
        return error["msg"]
    return "one of " + str(error.get("ctx", {}).get("expected", "the known values")).replace("'", "")


def unknown(name: str, known: list[str], *, code: str, where: str, what: str) -> UsageError:
    """The error of a key or table that nobody knows: a misspelt ``insecure`` must not be silently ignored."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
    return UsageError(f"{where} has an unknown {what}: {name[:60]!r}", code=code, next_step=hint, key=name[:60])


def quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are TOML's too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
