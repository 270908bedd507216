"""The supervisor, parent of a daemon's processes: starts the API and the workers, watches them, and ends them in order.

The API never copies data, and workers run with lower CPU and IO priority: so the API answers in milliseconds while
disks are copied. A process that dies is started again, after a pause that grows if it dies soon after its start. One
that reports nothing (``liveness``) for too long is killed first: it is stopped, or stuck. The service manager's
watchdog is fed only while no process is silent.
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

from hypersdk.errors import CODES, HyperSDKError, UsageError, register
from hypersdk.jobs.liveness import BLOCKED, FAILED, READY
from hypersdk.jobs.remedies import next_step
from hypersdk.jobs.settings import ROLES, DaemonSettings
from hypersdk.jobs.systemd import watchdog_s
from hypersdk.jobs.workerfault import PROCESS_DIES, VARIABLE, WORKER_ID_HELD, SharedFault, WorkerFault
from hypersdk.remedies import Configure
from hypersdk.state.database import DATABASE_NEWER
from hypersdk.state.faults import DATABASE_DAMAGED
from hypersdk.transfer.cancel import SignalFlag
from hypersdk.transfer.files import owned_like_folder, target_errors

LOG: Final = logging.getLogger(__name__)
DAEMON_RUNS: Final = register(
    "daemon_runs",
    "Another daemon is already using this state directory.",
    "Stop the daemon that uses it, or use another state directory.",
    Configure("state_dir"),
)
LOOK_S: Final = 0.2
STEADY_S: Final = 30.0
"""A process that has run for this long has started successfully."""
PAUSE_FIRST_S: Final = 0.5
PAUSE_MAX_S: Final = 15.0
QUICK_DEATHS: Final = 3
"""After so many deaths in a row, each soon after the start, `/ready` reports it."""
LAST_DEATHS: Final = 4
"""After so many, the daemon ends if another start cannot succeed."""
HOPELESS: Final = frozenset({DATABASE_DAMAGED, DATABASE_NEWER})
SILENT_S: float = 60.0
"""A process that is silent for this long is hung."""
START_S: float = 900.0
"""The limit before it is ready: it may have to copy a large database before an upgrade."""
LOOK_MOST_S: Final = 1.0
"""How much silence one look counts at most: the supervisor itself may not have run since the last one."""
WORKER_NICENESS: Final = 10
_LOCKS: Final[Mapping[str, str]] = {"api": "daemon.lock", "worker": "daemon-worker.lock"}
"""The files that a daemon locks in its state directory, by role."""
_LIBC: Final = ctypes.CDLL(None, use_errno=True)  # here, because nothing may be loaded between fork and exec
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}.get(platform.machine())


class AlreadyRunning(HyperSDKError):  # noqa: N818 - a state, not a failure
    """The other daemon may exit on its own."""

    exit_status = 12
    default_code = DAEMON_RUNS


@dataclass(slots=True)
class Child:
    """One process to keep running. ``name`` is ``api`` or ``worker-N``; it may be silent for ``silent_s``.

    ``deaths`` counts those in a row that came soon after a start. ``error_code`` is that of the error which ended the
    last process that ended; ``blocked_by`` that of the error which keeps the running one from its work. ``was_ready``:
    the last process that ended had been ready. ``shared_fault`` is what the process reads.
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
    error_code: str = ""
    blocked_by: str = ""
    was_ready: bool = False
    shared_fault: SharedFault | None = None
    heard: threading.Event = field(default_factory=threading.Event)
    ready: threading.Event = field(default_factory=threading.Event)
    clock: Callable[[], float] = time.monotonic

    def start(self) -> None:
        """Starts it. ``ready`` is set when it reports that on its standard output, ``heard`` with every report."""
        descriptor = None if self.shared_fault is None else self.shared_fault.descriptor
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=self._prepare,
            env=None if descriptor is None else {**os.environ, VARIABLE: str(descriptor)},
            pass_fds=() if descriptor is None else (descriptor,),
        )
        self.started = self.looked = self.clock()
        self.silence_s, self.killed = 0.0, False
        threading.Thread(target=self._listen, args=(self.process,), name=f"{self.name}-reports", daemon=True).start()

    def _prepare(self) -> None:
        """In the child: ends with its parent, and yields CPU and I/O to others."""
        pr_set_pdeathsig = 1
        _LIBC.prctl(pr_set_pdeathsig, signal.SIGTERM, 0, 0, 0)
        if self.nice:
            os.nice(self.nice)
            # The API preempts a copy at once, not at the end of its time slice. Not permitted in some containers.
            with suppress(OSError):
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            if _IOPRIO_SET is not None:  # lowest level of best effort (ioprio_set, man 2)
                who_process, class_best_effort = 1, 2
                _LIBC.syscall(_IOPRIO_SET, who_process, 0, class_best_effort << 13 | 7)

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        error_code = ""
        with process.stdout as lines:
            for line in lines:
                word, _, code = line.decode("ascii", "replace").strip().partition(" ")
                if word == FAILED:
                    error_code = code
                if process is self.process:  # its death has not been noticed yet
                    if word == READY:
                        self.ready.set()
                    self.blocked_by = code if word == BLOCKED else ""
                    self.heard.set()
        if self.process in (process, None):
            self.error_code = error_code

    @property
    def hung(self) -> bool:
        """Whether it runs and has been silent for too long."""
        return self.process is not None and self.silence_s > (self.silent_s if self.ready.is_set() else START_S)

    @property
    def _is_steady(self) -> bool:
        return self.clock() - self.started >= STEADY_S

    @property
    def fault(self) -> WorkerFault | None:
        """Why it does not do its work, for `/ready` and for users."""
        if self.deaths >= QUICK_DEATHS and (self.was_ready or not self.ready.is_set()):
            return WorkerFault(self.error_code or PROCESS_DIES, exits=True)
        return WorkerFault(self.blocked_by, exits=False) if self.blocked_by else None

    @property
    def is_hopeless(self) -> bool:
        """Whether another start cannot succeed: somebody has to fix the cause. A worker of a killed supervisor may hold
        the worker id for as long as it takes to bring its jobs to a checkpoint."""
        if self.deaths < LAST_DEATHS or self.error_code == WORKER_ID_HELD:
            return False
        return self.error_code in HOPELESS or self.status == UsageError.exit_status

    def look(self) -> None:
        """Starts it again if it has died and its pause is over; kills it if it is hung."""
        if self.process is not None:
            status = self.process.poll()
            if status is None:
                if self._is_steady:
                    self.deaths = 0
                self._check_silence()
                return
            self.status = status
            self.process = None
            self.blocked_by = ""
            self.was_ready = self.ready.is_set()
            self.ready.clear()
            steady = self._is_steady
            self.deaths = 0 if steady else self.deaths + 1
            self.pause_s = PAUSE_FIRST_S if steady else min(self.pause_s * 2, PAUSE_MAX_S)
            self.again_at = self.clock() + self.pause_s
            LOG.error("%s ended with status %d; restarting it in %.1f s", self.name, status, self.pause_s)
        if self.clock() >= self.again_at:
            self.start()

    def _check_silence(self) -> None:
        now = self.clock()
        self.silence_s += min(now - self.looked, LOOK_MOST_S)
        self.looked = now
        if self.heard.is_set():
            self.heard.clear()
            self.silence_s = 0.0
        if self.hung and not self.killed:
            self.killed = True
            LOG.error("%s reported nothing for %.0f s and is killed", self.name, self.silence_s)
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
    them are ready. SIGHUP makes the API reload its certificate; with ``hangup_ends`` it ends the daemon like SIGTERM,
    since a closed terminal sends it. Returns the exit status: that of a process that cannot be started, if there is
    one. Raises AlreadyRunning.
    """
    with one_daemon(settings.state_dir, settings.roles):
        shared_fault = SharedFault.make()
        children = _children(settings, arguments)
        for child in children:
            child.shared_fault = shared_fault if child.name == "api" else None
        stop, reload = SignalFlag(), SignalFlag()
        _on_signals(stop, stop if hangup_ends else reload)
        is_ready = False
        while not stop.is_set():
            for child in children:
                child.look()
            faults = [fault for child in children if child.name != "api" and (fault := child.fault) is not None]
            shared_fault.write(max(faults, key=lambda fault: fault.exits, default=None))
            if hopeless := next((child for child in children if child.is_hopeless), None):
                failure = hopeless.error_code or PROCESS_DIES
                LOG.critical(
                    "%s cannot be started (%s): the daemon ends. %s",
                    hopeless.name,
                    failure,
                    next_step(CODES.get(failure, CODES[PROCESS_DIES])),
                )
                _end(children, settings.drain_s)
                return hopeless.status
            if not is_ready and all(child.ready.is_set() for child in children):
                is_ready = True
                ready()
            if reload.is_set():
                reload.clear()
                for child in children:
                    child.signal(signal.SIGHUP)
            if not any(child.hung for child in children):
                watchdog()
            stop.wait(LOOK_S)
        return _end(children, settings.drain_s)


def silence_limit(settings: DaemonSettings) -> float:
    """Seconds of silence after which a process is hung: at least two periods of the watchdog, and longer than a worker
    takes to end."""
    return max(SILENT_S, 2 * (watchdog_s() or 0.0), settings.drain_s + 10.0)


def _children(settings: DaemonSettings, arguments: Sequence[str]) -> list[Child]:
    # As this process: nothing is imported from the current folder nor, with -I, from the user's own packages.
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
    """Ends workers first; the API answers meanwhile. A process that does not end in time is killed, and its jobs are
    resumed at the next start."""
    until = time.monotonic() + drain_s + 10.0
    late = False
    workers = [child for child in children if child.name != "api"]
    for group in (workers, [child for child in children if child not in workers]):
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
def one_daemon(state_dir: Path, roles: Iterable[str] = ROLES) -> Iterator[None]:
    """Locks the state directory for a daemon with these roles: one may serve the API, another one run the workers.
    Raises AlreadyRunning, which names the process that has it."""
    with ExitStack() as stack:
        for role in sorted(roles):
            stack.enter_context(_one_daemon(state_dir, state_dir / _LOCKS[role]))
        yield


@contextmanager
def _one_daemon(state_dir: Path, path: Path) -> Iterator[None]:
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
