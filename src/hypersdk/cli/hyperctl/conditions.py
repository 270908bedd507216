"""Conditions on the columns of a list, as flags: ``--filter created_before=7d`` is the parameter ``created_before`` of
the list's route, with a time in UTC."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from hypersdk.errors import UsageError
from hypersdk.resource import FilterKind, Resource

TEXT: Final = "text"
_AGE: Final = re.compile(r"(\d{1,6})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def split_words(given: Iterable[str]) -> list[str]:
    """The words of a flag that may be given more than once, each time with several words. Raises UsageError for a text
    without any."""
    words = [[word for word in text.split(",") if word.strip()] for text in given]
    if not all(words):  # an unset variable of a script must not mean every row
        raise UsageError("a status is empty", next_step="Give one, or leave the flag out.")
    return [word for found in words for word in found]


def conditions(
    resource: Resource[Any], expressions: Sequence[str], *, searched: bool = False, now: datetime | None = None
) -> dict[str, Any]:
    """Parameters of the list's route. An expression is ``NAME=VALUE``; in the list of jobs, which can be ``searched``,
    also a text that rows contain. Several values of one column mean any of them.

    Raises UsageError for a name that the list does not have, and for one that is given twice.
    """
    kinds = {name: column.kind for column in resource.columns for name in column.parameters}
    if searched:
        kinds |= dict.fromkeys((TEXT, "id_prefix"), FilterKind.PART)
    found: dict[str, Any] = {}
    for expression in expressions:
        name, equals, value = expression.partition("=")
        if searched and not equals:
            name, value = TEXT, expression
        if name not in kinds:
            raise _unknown(name, kinds)
        if not value.strip():  # an unset variable of a script must not mean every row
            raise UsageError(f"--filter '{expression[:60]}' has no value", next_step="Give one, or leave the flag out.")
        if kinds[name] is FilterKind.VALUES:
            found.setdefault(name, []).append(value)
        elif name in found:
            raise UsageError(f"{name} is given twice", next_step="Give one value; all conditions must hold.")
        else:
            found[name] = moment(value, now) if kinds[name] is FilterKind.TIME else value
    return found


def _unknown(name: str, known: Iterable[str]) -> UsageError:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"Did you mean {near[0]}?" if near else f"One of {', '.join(sorted(known))}."
    return UsageError(f"the list has no condition {name[:60]!r}", next_step=hint)


def moment(text: str, now: datetime | None = None) -> str:
    """A time for the API (RFC 3339): a date or a time, local where it names no zone, or an age such as ``7d``. Raises
    UsageError."""
    try:
        if age := _AGE.fullmatch(text.strip()):
            found = (now or datetime.now(UTC)) - timedelta(**{_UNITS[age[2]]: int(age[1])})
        else:
            found = datetime.fromisoformat(text.strip())
        return found.astimezone(UTC).isoformat()
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"'{text[:40]}' is not a time",
            next_step="Write a date (2026-01-31), a time (2026-01-31T22:00) or an age (30m, 12h, 7d, 2w).",
        ) from error


def merged(parameters: Mapping[str, Any], **more: Sequence[str]) -> dict[str, Any]:
    """Parameters with more values of columns."""
    found = dict(parameters)
    for name, values in more.items():
        if values:
            found[name] = [*found.get(name, ()), *values]
    return found
