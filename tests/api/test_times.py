"""Times and durations on the wire."""

from __future__ import annotations

import pytest

from hypersdk.api.times import go_duration, nanoseconds, rfc3339


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0004, "0s"),
        (0.25, "250ms"),
        (0.9996, "1s"),
        (1, "1s"),
        (9.5, "9.5s"),
        (59.9999, "1m0s"),
        (129.167, "2m9.167s"),
        (3600, "1h0m0s"),
        (90061.5, "25h1m1.5s"),
        (-3, "0s"),
    ],
)
def test_durations_as_go_prints_them(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


def test_moments_are_utc() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000000Z"
    assert rfc3339(1_700_000_000.25) == "2023-11-14T22:13:20.250000Z"
    assert rfc3339(1e18).startswith("9999-")
    assert nanoseconds(1.5) == 1_500_000_000
