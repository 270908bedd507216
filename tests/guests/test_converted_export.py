"""An export whose guest conversion is really killed. ``test_job.py`` and ``test_migrated.py`` have those that end."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from hypersdk.guest.tools import find_tools
from hypersdk.landing.landings import CleanedUp, clean_conversion
from hypersdk.landing.verifying import VERIFY_CONVERTING, verify_export
from hypersdk.transfer.cancel import CancelToken
from tests.support.exports import export_folder
from tests.support.guests.guest import Guest
from tests.support.processes import commands_naming
from tests.support.seeds import SEED
from tests.support.tools import run_tool, sha256
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.guests,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.geteuid() != 0, reason="a root tree, and libvirt's system driver, need root"),
]

ENDED_TIMEOUT_S: Final = 60
WORK: Final = """
import sys
from pathlib import Path
from tests.support.guestconversions import convert_really
convert_really(Path(sys.argv[1]), lambda text: print(text, flush=True))
"""


def codes(folder: Path) -> list[str]:
    return [finding.code for finding in verify_export(folder, cancel=CancelToken()).findings]


def test_killed_with_its_programs_it_leaves_the_image_as_exported(
    guest_folder: Path, debian_without_virtio: Guest
) -> None:
    folder = export_folder(guest_folder / "export", raw=debian_without_virtio.disks)
    (image,) = folder.glob("*.qcow2")
    before = sha256(image)
    with subprocess.Popen([sys.executable, "-c", WORK, folder], stdout=subprocess.PIPE, text=True) as work:
        assert work.stdout is not None
        for line in work.stdout:
            if line.startswith("Opening the source"):
                break
        time.sleep(random.Random(SEED).uniform(0, 10))
        work.kill()
    eventually(lambda: not commands_naming(str(folder)), ENDED_TIMEOUT_S, lambda: commands_naming(str(folder)))
    assert sha256(image) == before
    assert codes(folder) == [VERIFY_CONVERTING]
    assert clean_conversion(folder, find_tools(), state=None, cancel=CancelToken()) is CleanedUp.DROPPED
    assert codes(folder) == []
    run_tool("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 512", image)  # no process holds a lock of it
