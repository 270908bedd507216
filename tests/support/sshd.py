"""A libvirtd reached by SSH, as a remote one is: real sshd on loopback, real ssh, keys of the test's own.

sshd runs where the daemon's folders are (``libvirtd.sh``), so that libvirt's helper on "the other side" finds the usual
socket. The client's configuration is a file of the test: neither that of this machine nor that of the user is read.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.libvirtd import Libvirtd
from tests.support.tools import requires, run_tool
from tests.support.waiting import eventually

SSHD: Final = "/usr/sbin/sshd"
SERVER: Final = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/client.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
PidFile none
MaxStartups 100
"""
CLIENT: Final = """
IdentityFile {folder}/client
IdentitiesOnly yes
UserKnownHostsFile {folder}/known_hosts
GlobalKnownHostsFile none
StrictHostKeyChecking yes
"""


@dataclass(frozen=True, slots=True)
class SshTarget:
    """``uri`` reaches the daemon where ``path`` comes first on ``$PATH``: it has an ``ssh`` with its own settings."""

    uri: str
    path: Path
    daemon: Libvirtd

    def sessions(self) -> list[int]:
        """Process ids of the clients that are connected."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                if words[0] == b"/usr/bin/ssh" and str(self.path / "config").encode() in words:
                    found.append(int(process.name))
        return found

    def cut(self) -> None:
        """Ends all connections, as a network does."""
        for session in self.sessions():
            with suppress(ProcessLookupError):
                os.kill(session, signal.SIGKILL)


@contextmanager
def ssh_to(daemon: Libvirtd) -> Iterator[SshTarget]:
    """An sshd for the host of ``daemon``."""
    for tool in (SSHD, "ssh-keygen", "nsenter", "virt-ssh-helper"):
        requires(tool)
    folder = Path(tempfile.mkdtemp(prefix="hypersdk-ssh-"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name in ("host", "client"):
        run_tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
    (folder / "sshd_config").write_text(SERVER.format(port=port, folder=folder))
    (folder / "config").write_text(CLIENT.format(folder=folder))
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "ssh").write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {folder}/config "$@"\n')
    (folder / "ssh").chmod(0o755)
    usual = daemon.socket.parent / "run/libvirt/libvirt-sock"
    usual.unlink(missing_ok=True)
    usual.symlink_to(daemon.socket)
    Path("/run/sshd").mkdir(exist_ok=True)  # compiled in
    server = [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")]
    command = ["setpriv", "--pdeathsig", "KILL", *daemon.inside(), *server]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            target = SshTarget(f"qemu+ssh://root@127.0.0.1:{port}/system", folder, daemon)
            eventually(lambda: "listening" in (folder / "log").read_text(), explain=(folder / "log").read_text)
            yield target
        finally:
            target.cut()
            process.kill()
            process.wait()
            usual.unlink()
            shutil.rmtree(folder)
