"""A libvirtd of the test's own: fixture ``libvirtd``; ``running_libvirtd`` for a test that ends it.

Tests that use the fixture are marked ``waits``.

Real virtlogd, libvirtd (as root, the driver ``qemu:///system``) and qemu, without systemd. They run in namespaces of
mounts and of processes: ``libvirtd.sh`` mounts folders of the test over ``/etc/libvirt``, ``/run/libvirt``,
``/var/lib/libvirt`` and so on, because these paths are compiled in and root's second daemon would be refused. So
parallel tests do not see each other's domains, pools and networks, and all processes, also the guests, end with the
daemon's namespace, even when the test run is killed.

Two things are not private. The network is the host's: take ``bridge_name`` for a bridge; that of a killed run is
removed by the next one. Files are the host's: qemu runs as libvirt's user, who cannot enter pytest's ``tmp_path``.
``guest_folder`` is for that.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from hypersdk.kvm.library import libvirt
from tests.support.guests.shelf import shelf_folder
from tests.support.tools import requires, run_tool
from tests.support.waiting import eventually

START_TIMEOUT_S: Final = 120
SCRIPT: Final = Path(__file__).with_suffix(".sh")
_BRIDGE: Final = "hsdk"
_BRIDGE_NAME: Final = re.compile(rf"{_BRIDGE}[a-z]?(\d+)[a-z-]*")
UNDEFINE: Final = ("MANAGED_SAVE", "SNAPSHOTS_METADATA", "CHECKPOINTS_METADATA", "NVRAM")


@dataclass(frozen=True, slots=True)
class Libvirtd:
    """A running daemon."""

    uri: str
    """For libvirt's clients: ``qemu+unix:///system?socket=...``."""
    socket: Path
    log: Path
    _process: subprocess.Popen[bytes]

    def virsh(self, *args: str | Path) -> str:
        """Standard output of ``virsh`` run on this daemon."""
        return run_tool("virsh", "--quiet", "--connect", self.uri, *args)

    def domains(self) -> list[str]:
        """Names of all domains, running or not."""
        return [line for line in self.virsh("list", "--all", "--name").splitlines() if line]

    def clear(self) -> None:
        """Removes all domains, networks and pools (not the files of disks); guests are ended at once."""
        module = libvirt()
        with closing(module.open(self.uri)) as opened:
            for listed in (opened.listAllDomains, opened.listAllNetworks, opened.listAllStoragePools):
                for found in listed():
                    if found.isActive():
                        found.destroy()
            for domain in opened.listAllDomains():
                domain.undefineFlags(sum(getattr(module, f"VIR_DOMAIN_UNDEFINE_{flag}") for flag in UNDEFINE))
            for found in (*opened.listAllNetworks(), *opened.listAllStoragePools()):
                found.undefine()

    def inside(self) -> list[str]:
        """The begin of a command that runs where the daemon's mounts are seen."""
        (first,) = self._children()
        return ["nsenter", "--mount", f"--target={first}", "--wd=/"]

    def _children(self) -> list[int]:
        """The namespace's process 1: it is only reaped after all the others."""
        pid = self._process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    @property
    def to_kill(self) -> str:
        """A shell command that ends the daemon alone by SIGKILL, without its guests; it is started again at once."""
        return f"kill -KILL $(pgrep -f '^libvirtd -f {self.socket.parent}/')"

    def kill(self) -> None:
        """Ends the daemon and all its guests by SIGKILL; returns when they are gone."""
        for child in self._children():
            os.kill(child, signal.SIGKILL)
        self._process.wait(START_TIMEOUT_S)


@contextmanager
def running_libvirtd(*, settings: str = "", listens: bool = False) -> Iterator[Libvirtd]:
    """A daemon that ends with the block. ``settings`` are lines for its ``libvirtd.conf``; ``listens`` on a port that
    they name."""
    for tool in ("virsh", "virtlogd", "libvirtd", "unshare", "setpriv"):
        requires(tool)
    state = Path(tempfile.mkdtemp(prefix="hypersdk-libvirtd-"))  # short: the path of a socket has at most 107 bytes
    state.chmod(0o755)  # qemu, which is another user, works below it
    lowest = 10_000 + os.getpid() % 500 * 100  # the host's ports: two daemons would give a guest the same one
    (state / "etc/libvirt").mkdir(parents=True)
    (state / "etc/libvirt/qemu.conf").write_text(
        f"remote_display_port_min = {lowest}\nremote_display_port_max = {lowest + 99}\n"
    )
    (state / "libvirtd.conf").write_text(f'unix_sock_dir = "{state}"\nauth_unix_rw = "none"\n{settings}\n')
    command = _command(state, ["--listen"] if listens else [])
    with (state / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        socket = state / "libvirt-sock"
        daemon = Libvirtd(f"qemu+unix:///system?socket={socket}", socket, state / "log", process)
        try:
            _wait_ready(daemon, process)
            yield daemon
            if process.poll() is None:
                daemon.clear()
        finally:
            if process.poll() is None:
                daemon.kill()
            shutil.rmtree(state)


def _command(state: Path, more: list[str]) -> list[str | Path]:
    capabilities = shelf_folder() / "libvirt-capabilities"
    capabilities.mkdir(exist_ok=True)
    namespaces = ("--mount", "--mount-proc", "--pid", "--fork", "--kill-child=KILL")
    program: list[str | Path] = ["bash", SCRIPT, state, capabilities, *more]
    return ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, *program]


def _wait_ready(daemon: Libvirtd, process: subprocess.Popen[bytes]) -> None:
    def said() -> str:
        return f"libvirtd did not start: {daemon.log.read_text(errors='replace')}"

    eventually(lambda: daemon.socket.exists() or process.poll() is not None, START_TIMEOUT_S, said)
    assert process.poll() is None, said()
    daemon.virsh("version")


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on a libvirtd wait for it and for guests most of their time."""
    for item in items:
        if isinstance(item, pytest.Function) and "libvirtd" in item.fixturenames:
            item.add_marker(pytest.mark.waits)


@pytest.fixture(scope="session")
def _shared_libvirtd() -> Iterator[Libvirtd]:
    """One daemon for all tests of a process: a start takes a second."""
    if os.geteuid() != 0:
        pytest.skip("libvirt's system driver and namespaces need root")
    with running_libvirtd() as daemon:
        yield daemon


@pytest.fixture
def libvirtd(_shared_libvirtd: Libvirtd) -> Iterator[Libvirtd]:
    """A libvirtd without domains, networks and pools; all that the test defines is removed after it."""
    yield _shared_libvirtd
    _shared_libvirtd.clear()


@pytest.fixture
def guest_folder() -> Iterator[Path]:
    """An empty folder that libvirt's qemu user can enter, removed after the test."""
    with tempfile.TemporaryDirectory(prefix="hypersdk-guests-", dir="/var/tmp") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


@pytest.fixture(scope="session")
def _no_left_bridges() -> None:
    """Removes the bridges of test processes that were killed."""
    for path in Path("/sys/class/net").glob(f"{_BRIDGE}*"):
        process = _BRIDGE_NAME.fullmatch(path.name)
        if process and not Path(f"/proc/{process[1]}").exists():
            subprocess.run(["ip", "link", "delete", path.name], check=False, capture_output=True)  # or by another one


@pytest.fixture
def bridge_name(_no_left_bridges: None) -> str:
    """A name for a bridge that no other process uses; names of interfaces have at most 15 bytes."""
    return f"{_BRIDGE}{os.getpid()}"


@pytest.fixture
def lan_network(libvirtd: Libvirtd, bridge_name: str, tmp_path: Path) -> str:
    """The name of an isolated network that is started."""
    definition = tmp_path / "lan.xml"
    definition.write_text(f"<network><name>lan</name><bridge name='{bridge_name}'/></network>")
    libvirtd.virsh("net-define", definition)
    libvirtd.virsh("net-start", "lan")
    return "lan"
