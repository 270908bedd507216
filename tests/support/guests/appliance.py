"""guestfish: what needs a kernel runs in libguestfs's appliance."""

from __future__ import annotations

import os
import subprocess
from typing import Final

import pytest

from tests.support.tools import requires

ENVIRONMENT: Final = {
    "LIBGUESTFS_BACKEND": "direct",
    "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",  # /dev/kvm may be there and not work
    "LIBGUESTFS_APPEND": "norandmaps",  # else software emulation takes three times as long
}
TIMEOUT_S: Final = 600


def guestfish(*commands: str) -> str:
    """Standard output of a session; fails the test with all that it printed when a command fails."""
    done = subprocess.run(
        [requires("guestfish")],
        input="\n".join(commands),
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"guestfish: exit status {done.returncode}\n{done.stdout}{done.stderr}", pytrace=False)
    return done.stdout
