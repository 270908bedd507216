"""A booted systemd of the test's own: process 1 of its namespaces, on an overlay over this machine's root.

So units run as they are installed, under the real service manager, with its users, sandboxes and ordering, while the
machine itself needs no systemd and stays as it is. ``bootedsystem.sh`` says what is hidden. Needs root.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.tools import requires
from tests.support.waiting import eventually

SCRIPT: Final = Path(__file__).with_suffix(".sh")
BOOT_S: Final = 120
COMMAND_S: Final = 300
_ENVIRONMENT: Final = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8")


@dataclass(frozen=True, slots=True)
class BootedSystem:
    """A running system. ``init`` is its process 1, as this machine numbers it."""

    init: int

    def run(self, *command: str, statuses: Sequence[int] = (0,)) -> str:
        """Standard output of a command that is run there and must end with one of ``statuses``."""
        target = f"--target={self.init}"
        inside = ("--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", f"--root=/proc/{self.init}/root", "--wd=/")
        done = subprocess.run(
            ["nsenter", target, *inside, *_ENVIRONMENT, *command],
            capture_output=True, text=True, timeout=COMMAND_S, check=False, cwd="/",
        )  # fmt: skip
        assert done.returncode in statuses, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def is_active(self, unit: str) -> bool:
        """Whether the unit has started and runs."""
        return self.run("systemctl", "is-active", unit, statuses=range(8)).strip() == "active"

    def log_of(self, unit: str) -> str:
        """The end of its journal."""
        return self.run("journalctl", "--no-pager", "--lines=60", "--unit", unit)


@contextmanager
def booted_system(files: Sequence[Path]) -> Iterator[BootedSystem]:
    """A system that has booted, with ``files`` in its ``/root``; all of its processes end with the block."""
    for tool in ("unshare", "nsenter", "setpriv", "systemd-analyze"):
        requires(tool)
    state = Path(tempfile.mkdtemp(prefix="hypersdk-system-"))
    kinds = ("--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--fork", "--kill-child=KILL")
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", *kinds, "bash", *map(str, (SCRIPT, state, *files))]
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:

        def said() -> str:
            log.seek(0)
            return f"systemd did not boot: {log.read()}"

        try:
            eventually(lambda: _is_init(process) or process.poll() is not None, BOOT_S, said)
            assert process.poll() is None, said()
            system = BootedSystem(_children(process.pid)[0])
            eventually(lambda: system.is_active("multi-user.target"), BOOT_S, said)
            yield system
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(state)


def _is_init(process: subprocess.Popen[bytes]) -> bool:
    """Whether the script has become systemd, and listens."""
    children = _children(process.pid)
    return bool(children) and Path(f"/proc/{children[0]}/root/run/systemd/private").exists()


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
