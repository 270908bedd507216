"""The parent of a daemon: starts the API and the workers as processes of their own, watches them, and ends them in
order.

The API never copies data, and workers run with lower CPU and IO priority: so the API answers in milliseconds while
disks are copied. A process that dies is started again, after a pause that grows when it dies at once. One that gives no
sign of life (``signs``) for too long is killed first: it is stopped, or stuck. The watchdog of the service manager is
told that all is well only while no process is silent so long.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

from hypersdk.errors import CODES, HyperSDKError, UsageError, register
from hypersdk.jobs.remedies import next_step
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.jobs.signs import FAILED, KEPT, READY
from hypersdk.jobs.systemd import watchdog_s
from hypersdk.jobs.troubles import PROCESS_DIES, VARIABLE, WORKER_ID_HELD, Troubles
from hypersdk.remedies import Configure
from hypersdk.state.database import DATABASE_NEWER
from hypersdk.state.faults import DATABASE_DAMAGED
from hypersdk.transfer.cancel import SignalFlag
from hypersdk.transfer.files import owned_like_folder, target_errors

LOG: Final = logging.getLogger(__name__)
DAEMON_RUNS: Final = register(
    "daemon_runs",
    "Another daemon is already using this state directory.",
    "Stop the other daemon, or give this one a state directory of its own.",
    Configure("state_dir"),
)
LOOK_S: Final = 0.2
STEADY_S: Final = 30.0
"""A process that lived so long did not die of its start."""
PAUSE_FIRST_S: Final = 0.5
PAUSE_MAX_S: Final = 15.0
QUICK_DEATHS: Final = 3
"""After so many one after another, soon after the start, `/ready` says so."""
LAST_DEATHS: Final = 4
"""After so many, the daemon ends where none of its processes will ever do better."""
HOPELESS: Final = frozenset({DATABASE_DAMAGED, DATABASE_NEWER})
SILENT_S: float = 60.0
"""Without a sign of life for so long, a process counts as hung."""
START_S: float = 900.0
"""The same before it is ready: it may have a large database to copy before an upgrade."""
LOOK_MOST_S: Final = 1.0
"""What one look counts as silence at most: when this process did not run itself, it cannot judge others."""
WORKER_NICENESS: Final = 10
_LIBC: Final = ctypes.CDLL(None, use_errno=True)  # here, because nothing may be loaded between fork and exec
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}.get(platform.machine())


class AlreadyRunning(HyperSDKError):  # noqa: N818 - what is so
    """The other daemon may exit on its own."""

    exit_status = 12
    default_code = DAEMON_RUNS


@dataclass(slots=True)
class Child:
    """One process to keep running. ``name`` is ``api`` or ``worker-N``; ``silent_s`` is how long it may give no sign.

    ``deaths`` counts those soon after a start, one after another; ``said`` is the code of the error that it ends by,
    where it says one, and ``failure`` that of the one before; ``kept`` is the code of what keeps it from its work while
    it lives. ``fell``: it was ready before it died. ``troubles`` are for it to read.
    """

    name: str
    command: Sequence[str]
    nice: int
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    status: int = 0
    pause_s: float = PAUSE_FIRST_S
    again_at: float = 0.0
    silent_s: float = SILENT_S
    silence_s: float = 0.0
    looked: float = 0.0
    killed: bool = False
    deaths: int = 0
    said: str = ""
    failure: str = ""
    kept: str = ""
    fell: bool = False
    troubles: Troubles | None = None
    _spoke: subprocess.Popen[bytes] | None = None
    heard: threading.Event = field(default_factory=threading.Event)
    ready: threading.Event = field(default_factory=threading.Event)
    clock: Callable[[], float] = time.monotonic

    def start(self) -> None:
        """Starts it; its ``ready`` is set when it says so on its standard output, and ``heard`` with whatever it
        says."""
        told = None if self.troubles is None else self.troubles.descriptor
        environ, kept = (None, ()) if told is None else ({**os.environ, VARIABLE: str(told)}, (told,))
        self.failure, self.said = self.said, ""
        self.process = self._spoke = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=self._prepare,
            env=environ,
            pass_fds=kept,
        )
        self.started = self.looked = self.clock()
        self.silence_s, self.killed = 0.0, False
        threading.Thread(target=self._listen, args=(self.process,), name=f"{self.name}-ready", daemon=True).start()

    def _prepare(self) -> None:
        """In the child: ends with its parent, and lets others go first."""
        pr_set_pdeathsig = 1
        _LIBC.prctl(pr_set_pdeathsig, signal.SIGTERM, 0, 0, 0)
        if self.nice:
            os.nice(self.nice)
            # Whoever has to answer takes the processor from a copy at once, not at the end of its turn. Not allowed in
            # some containers.
            with suppress(OSError):
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            _low_io_priority()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as words:
            for line in words:
                if line.startswith(FAILED) and process is self._spoke:  # it may have ended since
                    self.said = line[len(FAILED) :].decode("ascii", "replace").strip()
                if process is not self.process:  # the end of what the one before it said
                    return
                if line == READY:
                    self.ready.set()
                self.kept = line[len(KEPT) :].decode("ascii", "replace").strip() if line.startswith(KEPT) else ""
                self.heard.set()

    @property
    def hung(self) -> bool:
        """Whether it runs, and was silent for too long."""
        return self.process is not None and self.silence_s > (self.silent_s if self.ready.is_set() else START_S)

    @property
    def _is_steady(self) -> bool:
        return self.clock() - self.started >= STEADY_S

    @property
    def trouble(self) -> str | None:
        """The code of why it does not stay alive; None where it does."""
        if self.deaths < QUICK_DEATHS or (
            self.ready.is_set() and not self.fell
        ):  # it came no further than its start before
            return None
        return self.said or self.failure or PROCESS_DIES

    @property
    def is_hopeless(self) -> bool:
        """Whether no further start will do better: what is wrong has to be put right by hand. The worker of a parent
        that was killed may have its place for as long as it takes to bring its jobs to a checkpoint."""
        failure = self.said or self.failure
        if self.deaths < LAST_DEATHS or failure == WORKER_ID_HELD:
            return False
        return failure in HOPELESS or self.status == UsageError.exit_status

    def look(self) -> None:
        """Starts it again when it has died and its pause is over; kills it when it is hung."""
        if self.process is not None:
            status = self.process.poll()
            if status is None:
                if self._is_steady:
                    self.deaths = 0
                self._listened()
                return
            self.status = status
            self.process = None
            self.kept = ""
            self.fell = self.ready.is_set()
            self.ready.clear()
            steady = self._is_steady
            self.deaths = 0 if steady else self.deaths + 1
            self.pause_s = PAUSE_FIRST_S if steady else min(self.pause_s * 2, PAUSE_MAX_S)
            self.again_at = self.clock() + self.pause_s
            LOG.error("%s ended with status %d; it is started again in %.1f s", self.name, status, self.pause_s)
        if self.clock() >= self.again_at:
            self.start()

    def _listened(self) -> None:
        now = self.clock()
        self.silence_s += min(now - self.looked, LOOK_MOST_S)
        self.looked = now
        if self.heard.is_set():
            self.heard.clear()
            self.silence_s = 0.0
        if self.hung and not self.killed:
            self.killed = True
            LOG.error("%s gave no sign of life for %.0f s and is killed", self.name, self.silence_s)
            self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Sends a signal, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self, until: float) -> bool:
        """Whether it has ended by then."""
        if self.process is None:
            return True
        try:
            self.process.wait(max(0.0, until - self.clock()))
        except subprocess.TimeoutExpired:
            return False
        return True


def _low_io_priority() -> None:
    """Best effort, lowest level (ioprio_set, man 2): copying yields to the database and the API."""
    if _IOPRIO_SET is not None:
        who_process, class_best_effort = 1, 2
        _LIBC.syscall(_IOPRIO_SET, who_process, 0, class_best_effort << 13 | 7)


def supervise(
    settings: DaemonSettings,
    arguments: Sequence[str],
    *,
    ready: Callable[[], None],
    watchdog: Callable[[], None] = lambda: None,
    hangup_ends: bool = False,
) -> int:
    """Runs the daemon until SIGTERM or SIGINT, then ends it in order: workers reach checkpoints, the API answers until
    they have.

    ``arguments`` are the flags of this daemon, which its processes are started with. ``ready`` is called once all of
    them are. SIGHUP makes the API read its certificate again; with ``hangup_ends`` it is the end like SIGTERM: a
    terminal that was closed sends it. Returns the exit
    status: that of a part that cannot ever be started, where there is one. Raises DaemonRuns.
    """
    with one_daemon(settings.state_dir):
        troubles = Troubles.make()
        children = _children(settings, arguments)
        for child in children:
            child.troubles = troubles if child.name == "api" else None
        stop, reload = SignalFlag(), SignalFlag()
        _on_signals(stop, stop if hangup_ends else reload)
        told = False
        while not stop.is_set():
            for child in children:
                child.look()
            _tell(troubles, [child for child in children if child.name != "api"])
            if hopeless := next((child for child in children if child.is_hopeless), None):
                failure = hopeless.trouble or PROCESS_DIES
                LOG.critical(
                    "%s cannot be started (%s): the daemon ends. %s",
                    hopeless.name,
                    failure,
                    next_step(CODES.get(failure, CODES[PROCESS_DIES])),
                )
                _end(children, settings.drain_s)
                return hopeless.status
            if not told and all(child.ready.is_set() for child in children):
                told = True
                ready()
            if reload.is_set():
                reload.clear()
                for child in children:
                    child.signal(signal.SIGHUP)
            if not any(child.hung for child in children):
                watchdog()
            stop.wait(LOOK_S)
        return _end(children, settings.drain_s)


def _tell(troubles: Troubles, workers: Sequence[Child]) -> None:
    ends = next((code for child in workers if (code := child.trouble)), None)
    troubles.write(ends or next((child.kept for child in workers if child.kept), None), ends=ends is not None)


def silence_limit(settings: DaemonSettings) -> float:
    """Seconds without a sign after which a process is hung: two periods of the watchdog at least, and longer than a
    worker takes to its end."""
    return max(SILENT_S, 2 * (watchdog_s() or 0.0), settings.drain_s + 10.0)


def _children(settings: DaemonSettings, arguments: Sequence[str]) -> list[Child]:
    # As this process: the folder that it was started in, and with -I the user's own packages, have no say in what runs.
    safe = "-I" if sys.flags.isolated else "-P"
    base = [sys.executable, safe, "-m", "hypersdk.cli.hypervisord", *arguments]
    silent_s = silence_limit(settings)
    children = []
    if "worker" in settings.roles:
        children += [
            Child(f"worker-{number}", [*base, "--process", f"worker:{number}"], WORKER_NICENESS, silent_s=silent_s)
            for number in range(settings.workers)
        ]
    if "api" in settings.roles:
        children.append(Child("api", [*base, "--process", "api"], 0, silent_s=silent_s))
    return children


def _end(children: Sequence[Child], drain_s: float) -> int:
    """Workers first; the API goes on answering meanwhile. What does not end in time is killed: its jobs are resumed at
    the next start."""
    until = time.monotonic() + drain_s + 10.0
    late = False
    for group in ([one for one in children if one.name != "api"], [one for one in children if one.name == "api"]):
        for child in group:
            child.signal(signal.SIGTERM)
        for child in group:
            if not child.wait(until):
                LOG.error("%s did not end within %.0f s and is killed", child.name, drain_s)
                child.signal(signal.SIGKILL)
                child.wait(time.monotonic() + 10.0)
                late = True
    return 1 if late else 0


def _on_signals(stop: SignalFlag, hangup: SignalFlag) -> None:
    def ask(number: int, _frame: FrameType | None) -> None:
        (hangup if number == signal.SIGHUP else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, ask)


@contextmanager
def one_daemon(state_dir: Path) -> Iterator[None]:
    """Holds the state directory for this daemon; says who has it when it is taken."""
    path = state_dir / "daemon.lock"
    with target_errors(f"opening {path}"):
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        owned_like_folder(descriptor, state_dir)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = _holder(descriptor)
            raise AlreadyRunning(f"process {pid} runs a daemon with {state_dir}", pid=pid) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid()}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> int | None:
    try:
        return int(json.loads(os.pread(descriptor, 200, 0))["pid"])
    except (ValueError, KeyError, TypeError):
        return None
