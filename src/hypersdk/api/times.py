"""Times and durations in responses."""

from __future__ import annotations

from datetime import UTC, datetime

from hypersdk.state.pages import moment


def rfc3339(at: datetime | float) -> str:
    """A time, or seconds since 1970, in UTC to the microsecond: ``2026-01-31T12:00:00.250000Z``."""
    found = at.astimezone(UTC) if isinstance(at, datetime) else moment(at)
    return found.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def maybe_rfc3339(at: datetime | float | None) -> str | None:
    """As ``rfc3339``; None for an unknown time."""
    return None if at is None else rfc3339(at)


def now_rfc3339() -> str:
    """The current time of this host."""
    return rfc3339(datetime.now(UTC))


def go_duration(seconds: float) -> str:
    """As Go's ``time.Duration`` prints it, to the millisecond: ``2m9.167s``, ``1h0m0s``, ``250ms``.

    https://pkg.go.dev/time#Duration.String: leading units that are zero are left out, and below a second the unit is a
    smaller one.
    """
    milliseconds = round(max(seconds, 0.0) * 1000)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def nanoseconds(seconds: float) -> int:
    """A duration in Go's unit."""
    return round(max(seconds, 0.0) * 1_000_000_000)
