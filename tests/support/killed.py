"""The death of the process, without a process of its own."""

from __future__ import annotations


class Killed(BaseException):
    """The process died here: nothing of ours may catch this, and none of its cleaning up happens."""
