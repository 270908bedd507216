"""When to retry, and how long to wait before."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from hypersdk.errors import TRUNCATED_STREAM, HyperSDKError, TransientError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """``retries`` more attempts after the first; waits of ``first_s``, times ``factor`` each, at most ``max_s``.

    Each wait is shortened by up to ``jitter`` of it at random, so that streams that broke together do not return
    together.
    """

    retries: int = 3
    first_s: float = 1.0
    factor: float = 3.0
    max_s: float = 60.0
    jitter: float = 0.25

    def delay_s(self, failures: int, draw: float) -> float:
        """Returns the wait after so many failures in a row (from 1); ``draw`` is a random number in 0..1."""
        exponent = min(failures - 1, 64)  # beyond that a float would overflow before max_s cuts it
        full: float = min(self.first_s * self.factor**exponent, self.max_s)
        return full * (1 - self.jitter * draw)


class Attempts:
    """Counts consecutive failures of one task. An attempt that made progress starts the count again.

    So a stream of hours survives any number of breaks as long as each attempt brings new data, and one that always
    breaks at the same place ends after ``retries``.
    """

    def __init__(self, policy: RetryPolicy, draw: Callable[[], float] = random.random) -> None:
        self._policy = policy
        self._draw = draw
        self._failures = 0

    def failed(self, error: HyperSDKError, *, made_progress: bool = False) -> float:
        """Returns the wait before the next attempt, never less than the server asks for (its Retry-After).

        Raises ``error`` itself when a retry would not help or all are used up.
        """
        self._failures = 1 if made_progress else self._failures + 1
        # What came of a truncated stream is in the image: only the rest is missing.
        retryable = isinstance(error, TransientError) or error.code == TRUNCATED_STREAM
        if not retryable or self._failures > self._policy.retries:
            raise error
        asked_s = error.fields.get("retry_after_s")
        wait_s = self._policy.delay_s(self._failures, self._draw())
        return max(wait_s, float(asked_s)) if isinstance(asked_s, int | float) else wait_s
