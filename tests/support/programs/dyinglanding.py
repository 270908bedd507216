"""A landing that kills itself: ``python -m tests.support.programs.dyinglanding FOLDER URI BRIDGE POOL [MOMENT]``.

A moment is the return of a call that changes something: a save of the record, a change of a name in a folder, a call to
libvirt that makes, defines or starts something. At the given one the process dies, so all before it happened and
nothing after it; without one it lives and prints the number of moments.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from hypersdk.landing import disks, land
from hypersdk.landing.record import LandingFile
from tests.support.landings import Lander, on_bridge

CALLS: Final[tuple[tuple[Any, str], ...]] = (
    (LandingFile, "save"),
    (disks, "create_volume"),
    (disks, "upload"),
    (disks, "clone"),
    (disks, "copy"),
    (disks, "drop_name"),
    (os, "link"),
    (land, "define_domain"),
)


def main() -> None:
    """Lands once."""
    folder, uri, bridge, pool, *moment = sys.argv[1:]
    numbers = itertools.count()
    at = int(moment[0]) if moment else None

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **named: Any) -> Any:
            result = call(*args, **named)
            if next(numbers) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return called

    for owner, name in CALLS:
        setattr(owner, name, dying(getattr(owner, name)))
    options = replace(on_bridge(bridge), pool=pool or None)
    Lander(Path(folder), uri, options).land()
    print(next(numbers))


if __name__ == "__main__":
    main()
