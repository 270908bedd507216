"""A `hyper2kvm` that kills itself: ``python -m tests.support.programs.dyingmigration MOMENT[:COMMAND] ARGUMENTS...``.

A moment is the return of a call that changes something: a save of a record, a change at the source, a domain that is
defined or started. At the given one the process dies, so all before it happened and nothing after it; with ``-`` it
lives and prints the number of moments; ``+NAME`` is the first return of that call. With a COMMAND for the shell, that
is run instead, as ``kill -TERM $PPID``, and the output of the program is shown.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final

from hypersdk.cli.app import program
from hypersdk.landing import land, steps
from hypersdk.landing.record import LandingFile
from hypersdk.migration import journal
from hypersdk.migration.export import MachineExport
from hypersdk.migration.runfile import RunFile

CALLS: Final[tuple[tuple[Any, str], ...]] = (
    (LandingFile, "save"),
    (RunFile, "save"),
    (RunFile, "remove"),
    (MachineExport, "copy"),
    (journal, "power_off"),
    (journal, "disconnect_nics"),
    (land, "define_domain"),
    (land, "start_domain"),
    (steps, "set_autostart"),
)


def main() -> int:
    """Runs one command."""
    (moment, _, command), *arguments = sys.argv[1].partition(":"), *sys.argv[2:]
    numbers = itertools.count()
    begun: set[str] = set()

    def dying(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def called(*args: Any, **named: Any) -> Any:
            result = call(*args, **named)
            first = f"+{name}" not in begun
            begun.add(f"+{name}")
            if str(next(numbers)) == moment or (first and moment == f"+{name}"):
                if not command:
                    os.kill(os.getpid(), signal.SIGKILL)
                subprocess.run(command, shell=True, check=False)
            return result

        return called

    for owner, name in CALLS:
        setattr(owner, name, dying(getattr(owner, name), name))
    with open(os.devnull, "w+") as null:
        status = program.main(arguments, sys.stdout if command else null, sys.stderr, null, os.environ)
    print(next(numbers))
    return status


if __name__ == "__main__":
    sys.exit(main())
