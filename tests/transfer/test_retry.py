from __future__ import annotations

import pytest

from hypersdk.errors import CORRUPT_GRAIN, TRUNCATED_STREAM, IntegrityError, SourceError, TransientError
from hypersdk.transfer.retry import Attempts, RetryPolicy


def test_waits_grow_to_the_limit_and_no_further() -> None:
    policy = RetryPolicy(first_s=1, factor=3, max_s=20, jitter=0)
    assert [policy.delay_s(failures, 0.5) for failures in (1, 2, 3, 4, 5, 10_000)] == [1, 3, 9, 20, 20, 20]


def test_jitter_only_shortens() -> None:
    policy = RetryPolicy(first_s=8, jitter=0.25)
    assert policy.delay_s(1, 0.0) == 8
    assert policy.delay_s(1, 1.0) == 6


def test_gives_the_error_back_once_the_retries_are_used_up() -> None:
    attempts = Attempts(RetryPolicy(retries=3, jitter=0), draw=lambda: 0.0)
    error = TransientError("reset")
    assert [attempts.failed(error) for _ in range(3)] == [1, 3, 9]
    with pytest.raises(TransientError) as raised:
        attempts.failed(error)
    assert raised.value is error


def test_a_try_that_got_somewhere_starts_the_count_again() -> None:
    attempts = Attempts(RetryPolicy(retries=1, jitter=0), draw=lambda: 0.0)
    for _ in range(20):
        assert attempts.failed(TransientError("reset"), made_progress=True) == 1
    attempts_left = Attempts(RetryPolicy(retries=0))
    with pytest.raises(TransientError):
        attempts_left.failed(TransientError("reset"), made_progress=True)


def test_a_stream_that_ended_early_is_tried_again() -> None:
    assert Attempts(RetryPolicy()).failed(IntegrityError("short", code=TRUNCATED_STREAM)) > 0


@pytest.mark.parametrize("error", [SourceError("fault"), IntegrityError("grain", code=CORRUPT_GRAIN)])
def test_what_another_try_does_not_help_is_not_tried(error: SourceError | IntegrityError) -> None:
    with pytest.raises(type(error)):
        Attempts(RetryPolicy()).failed(error)


def test_a_server_that_asks_for_patience_gets_it() -> None:
    attempts = Attempts(RetryPolicy(retries=2, jitter=0), draw=lambda: 0.0)
    assert attempts.failed(TransientError("busy", retry_after_s=7.0)) == 7
    assert attempts.failed(TransientError("busy", retry_after_s=0)) == 3
