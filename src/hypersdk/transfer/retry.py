"""When to try again, and how long to wait before."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from hypersdk.errors import TRUNCATED_STREAM, HyperSDKError, TransientError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """``retries`` more tries after the first; waits of ``first_s``, times ``factor`` each, at most ``max_s``.

    Each wait is drawn from its last ``jitter`` share, so that streams that broke together do not return together.
    """

    retries: int = 3
    first_s: float = 1.0
    factor: float = 3.0
    max_s: float = 60.0
    jitter: float = 0.25

    def delay_s(self, failures: int, draw: float) -> float:
        """The wait after that many failures in a row (from 1); ``draw`` is a random number in 0..1."""
        exponent = min(failures - 1, 64)  # beyond that a float would overflow before max_s cuts it
        full: float = min(self.first_s * self.factor**exponent, self.max_s)
        return full * (1 - self.jitter * draw)


class Attempts:
    """Counts the failures of one piece of work in a row. A try that made progress starts the count again.

    So a stream of hours survives any number of breaks as long as each try brings new data, and one that breaks at the
    same place every time ends after ``retries``.
    """

    def __init__(self, policy: RetryPolicy, draw: Callable[[], float] = random.random) -> None:
        self._policy = policy
        self._draw = draw
        self._failures = 0

    def failed(self, error: HyperSDKError, *, made_progress: bool = False) -> float:
        """How long to wait before the next try, never less than the server asks for (its Retry-After).

        Raises ``error`` itself when another try would not help or all are used up.
        """
        self._failures = 1 if made_progress else self._failures + 1
        if not worth_another_try(error) or self._failures > self._policy.retries:
            raise error
        return max(self._policy.delay_s(self._failures, self._draw()), _asked_wait_s(error))


def _asked_wait_s(error: HyperSDKError) -> float:
    asked = error.fields.get("retry_after_s")
    return float(asked) if isinstance(asked, int | float) else 0.0


def worth_another_try(error: HyperSDKError) -> bool:
    """Transient errors, and a stream that ended early: what came of it is proved block by block, only the rest is
    missing."""
    return isinstance(error, TransientError) or error.code == TRUNCATED_STREAM
