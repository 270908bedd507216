"""Several machines on their way to KVM: those that wait until a guest can be converted do not keep others from being
copied.

::

    copy, as many as there are places ─> land, in the order in which the copies ended
         └── a place is kept until the end where the source is off the network for it
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import Protocol


class Move(Protocol):
    """One machine. Its methods raise nothing that is expected: an error becomes part of its outcome."""

    @property
    def needs_copy(self) -> bool:
        """Whether something is still to be copied."""

    @property
    def keeps_place(self) -> bool:
        """Whether no other machine takes its place among the copies before it is landed: what it does is not available
        meanwhile, and such a time is to be short."""

    def copy(self) -> bool:
        """Copies; returns whether the machine is to be landed now."""

    def land(self) -> None:
        """Lands it."""


def run_stages(moves: Sequence[Move], *, copies: int, landings: int) -> None:
    """Copies and lands, at most so many at a time; returns when all have ended."""
    with ExitStack() as stack:
        landing = stack.enter_context(ThreadPoolExecutor(max(copies, landings), thread_name_prefix="landing"))
        copying = stack.enter_context(ThreadPoolExecutor(copies, thread_name_prefix="machine"))
        begun = [
            copying.submit(_copy, move, landing) if move.needs_copy else landing.submit(_land, move) for move in moves
        ]
        for first in begun:
            if (second := first.result()) is not None:
                second.result()


def _copy(move: Move, landing: Executor) -> Future[None] | None:
    if not move.copy():
        return None
    landed = landing.submit(move.land)
    if move.keeps_place:
        wait([landed])
    return landed


def _land(move: Move) -> None:
    move.land()
