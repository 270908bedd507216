"""Reading a TOML file: its size is limited, errors name the file and the key, and nothing is quoted from a file that
holds secrets."""

from __future__ import annotations

import difflib
import json
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from hypersdk.config.values import TAKES
from hypersdk.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a file, and its permission bits."""

    document: dict[str, Any]
    mode: int

    @property
    def exposed(self) -> bool:
        """Whether other users of this machine can read the file."""
        return bool(self.mode & 0o077)


@dataclass(frozen=True, slots=True)
class TomlFile:
    """A TOML file. Its errors have the code ``code``; with ``secret`` they quote nothing of it."""

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

    def error(self, problem: str) -> UsageError:
        """The error for a ``problem`` with the file."""
        return UsageError(f"{self.path} {problem}", code=self.code)


def table(shape: type[T], values: Mapping[str, object], *, code: str, where: str, of: str = "") -> T:
    """``values`` as the dataclass ``shape``, whose annotations say what each key takes (``values.py``).

    ``where`` names their source and ``of`` their table in messages. Raises UsageError that names the key, and for an
    unknown one the most similar known key.
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
        takes = first["msg"]
        if first["type"] != TAKES:
            takes = "one of " + str(first.get("ctx", {}).get("expected", "the known values")).replace("'", "")
        message = f"{where} has a wrong value for {key}{of}: it takes {takes}"
        raise UsageError(message, code=code, key=key) from None  # its text would quote the value


def unknown(name: str, known: list[str], *, code: str, where: str, what: str) -> UsageError:
    """The error for an unknown key or table: a misspelt ``insecure`` must not be silently ignored."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
    return UsageError(f"{where} has an unknown {what}: {name[:60]!r}", code=code, next_step=hint, key=name[:60])


def quoted(value: object) -> str:
    """A value as TOML, which JSON's is too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
