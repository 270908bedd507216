"""A simulated kill of the process."""

from __future__ import annotations


class Killed(BaseException):
    """The process dies here: product code must not catch this, and its cleanup must not run."""
