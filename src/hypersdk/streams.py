"""The standard streams of a process, usable in whatever state its parent left them: closed, full, or a pipe that nobody
reads.

A closed descriptor is opened as ``/dev/null``, read-only: reading it ends at once, writing to it fails, and no image or
socket that is opened later gets its number. A failed write is remembered instead of raised: what ends or goes on
because of it is decided in one place (``cli.output``), not wherever something happens to be printed, and the
interpreter's flush at exit cannot fail.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Final, TextIO

from hypersdk.errors import HyperSDKError, register

EXIT_BROKEN_PIPE: Final = 141
"""128 + SIGPIPE, as shells report a program of coreutils whose reader closed the pipe."""
STANDARD: Final = 3
"""Descriptors 0 to 2."""


class StdoutFailed(HyperSDKError):  # noqa: N818 - reads as what happened
    """Standard output: full, closed, or not writable. What the command changed or exported stays as it is."""

    exit_status = 14
    default_code = register(
        "stdout_failed",
        "The file or device behind standard output is full or closed.",
        "Free space, or redirect the output elsewhere, and run the command again.",
    )


class SafeStream(io.TextIOWrapper):
    """A text stream on a descriptor that is not closed with it. Writing never fails: ``failure`` is the first error,
    and what comes after it is dropped."""

    def __init__(self, descriptor: int, like: TextIO | None) -> None:
        self._raw = _Descriptor(descriptor, "w", closefd=False)
        terminal = self._raw.isatty()
        super().__init__(
            io.BufferedWriter(self._raw),  # type: ignore[type-var]  # its write is narrower than typeshed wants
            encoding=getattr(like, "encoding", None) or "utf-8",
            errors="backslashreplace",  # a character that the terminal's encoding lacks is no reason to stop
            line_buffering=terminal,
            write_through=bool(getattr(like, "write_through", False)),
        )

    @property
    def failure(self) -> OSError | None:
        """Why something written so far (and flushed) was lost."""
        return self._raw.failure


class _Descriptor(io.FileIO):
    failure: OSError | None = None

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        if self.failure is None:
            try:
                while (written := super().write(data)) is None:  # somebody made the descriptor non-blocking
                    select.select((), (self.fileno(),), ())
                return written
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes


def take_standard_streams() -> tuple[TextIO, TextIO, TextIO]:
    """Makes ``sys.stdin``, ``sys.stdout`` and ``sys.stderr`` safe, before the process opens anything, and returns
    them."""
    _open_closed_descriptors()
    if sys.stdin is None:
        sys.stdin = open(_null(), encoding="utf-8")  # noqa: SIM115 - as long as the process
    sys.stdout, sys.stderr = _safe(1, sys.stdout), _safe(2, sys.stderr)
    return sys.stdin, sys.stdout, sys.stderr


def failure_of(stream: TextIO) -> OSError | None:
    """Why output to ``stream`` was lost; None for a stream that raises its errors."""
    stream.flush()
    return stream.failure if isinstance(stream, SafeStream) else None


def status_of(failure: OSError) -> int:
    """The exit status of a program that did all but could not print it."""
    return EXIT_BROKEN_PIPE if isinstance(failure, BrokenPipeError) else StdoutFailed.exit_status


def failure_text(program: str, failure: OSError, more: str = "") -> str:
    """The line on standard error about it."""
    why = failure.strerror or type(failure).__name__
    return f"{program}: standard output cannot be written: {why}{more} (exit status {status_of(failure)})"


def _open_closed_descriptors() -> None:
    while (descriptor := _null()) < STANDARD:
        os.set_inheritable(descriptor, True)  # else the processes that this one starts would lack it again
    os.close(descriptor)


def _safe(descriptor: int, stream: TextIO | None) -> SafeStream:
    # None: closed when the interpreter started; what has the number by now, if not /dev/null, is not ours to write to
    return SafeStream(_null() if stream is None else descriptor, stream)


def _null() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
