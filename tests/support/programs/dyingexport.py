"""Exports that kill themselves at a file system call: ``python -m tests.support.programs.dyingexport``.

Each line of JSON on its input is one export: its ``arguments``, its output ``folder``, the ``log`` to write the calls
to, and the number of the call ``at`` which it dies (none: it lives). It runs in a fork, because to import the program
takes longer than to run it; its exit status is printed.

A call counts where it changes a file of the output folder. The process dies in its place, so all before it happened and
nothing after it; with ``torn``, half of what a write has to write is still written.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from hypersdk.cli.app import program
from hypersdk.transfer.policies import CopyOptions

BY_PATH: Final = ("replace", "rename", "unlink")
BY_DESCRIPTOR: Final = ("ftruncate", "pwrite", "pwritev", "fdatasync", "fsync")
CHECKPOINT_BYTES: Final = 1 << 20


class Death:
    """Counts calls in all threads and ends the process at one of them."""

    def __init__(self, folder: Path, log: Path, at: int | None, *, torn: bool) -> None:
        self._folder = folder.name
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._write = os.write
        self._at = at
        self._torn = torn
        self._number = itertools.count()
        self._lock = threading.Lock()

    def call(self, operation: str, name: str, half: Callable[[], object] | None = None) -> None:
        """One call on ``name`` is about to be made; ``half`` makes half of it."""
        if not name.startswith(("web-01", ".hypersdk", self._folder)) and not name.endswith(".new"):
            return
        with self._lock:
            if next(self._number) == self._at:
                if self._torn and half is not None:
                    half()
                os.kill(os.getpid(), signal.SIGKILL)
            self._write(self._log, f"{operation} {name}\n".encode())

    def everywhere(self) -> None:
        """Puts itself in front of all those calls."""
        for operation in BY_PATH:
            self._by_path(operation, getattr(os, operation))
        for operation in BY_DESCRIPTOR:
            self._by_descriptor(operation, getattr(os, operation))
        self._opening(os.open)

    def _by_path(self, operation: str, real: Callable[..., Any]) -> None:
        def call(path: Any, *more: Any, **options: Any) -> Any:
            self.call(operation, Path(os.fspath(path)).name)
            return real(path, *more, **options)

        setattr(os, operation, call)

    def _by_descriptor(self, operation: str, real: Callable[..., Any]) -> None:
        def call(descriptor: int, *more: Any) -> Any:
            half = (lambda: real(descriptor, _half(more[0]), more[1])) if operation.startswith("pwrite") else None
            self.call(operation, Path(f"/proc/self/fd/{descriptor}").readlink().name, half)
            return real(descriptor, *more)

        setattr(os, operation, call)

    def _opening(self, real: Callable[..., int]) -> None:
        def call(path: Any, flags: int, *more: Any, **options: Any) -> int:
            if flags & (os.O_CREAT | os.O_RDWR):
                self.call("create" if flags & os.O_CREAT else "open", Path(os.fspath(path)).name)
            return real(path, flags, *more, **options)

        os.open = call


def _half(data: Any) -> Any:
    if isinstance(data, Sequence) and not isinstance(data, bytes | bytearray | memoryview):
        return [_half(b"".join(data))]
    return memoryview(data)[: len(data) // 2]


def run(order: dict[str, Any]) -> int:
    """One export, in this process."""
    defaults = CopyOptions.__init__.__kwdefaults__
    assert defaults is not None
    defaults["checkpoint_bytes"] = CHECKPOINT_BYTES
    Death(Path(order["folder"]), Path(order["log"]), order["at"], torn=order["torn"]).everywhere()
    with open(os.devnull, "w+") as null:
        return program.main(["export", *order["arguments"]], null, sys.stderr, null, os.environ)


def serve() -> None:
    """Runs the requested exports one after another."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os._exit(run(json.loads(line)))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
