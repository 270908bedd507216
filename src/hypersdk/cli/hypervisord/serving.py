"""Serving: the parent process, and the processes that it starts and watches: the API and the workers."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from hypersdk.cli.hypervisord.banner import show_banner
from hypersdk.cli.hypervisord.daemon import Daemon
from hypersdk.cli.programs.logs import start_logging
from hypersdk.errors import HyperSDKError, UsageError

if TYPE_CHECKING:
    from hypersdk.jobs.liveness import LivenessReporter
    from hypersdk.jobs.settings import DaemonSettings

LOG: Final = logging.getLogger(__name__)


def serve(daemon: Daemon) -> int:
    """Runs the parent process. Errors that would stop a process at each start are reported here, once, with an exit
    status, instead of by endless restarts."""
    from hypersdk.jobs.supervisor import supervise
    from hypersdk.jobs.systemd import READY, Watchdog, notify

    settings = daemon.settings
    start_logging(settings.log_format, sys.stderr, daemon.environ)
    if "api" in settings.roles:
        _check_address(settings)
    if not settings.auth:
        LOG.warning("NO AUTHENTICATION: every local user is administrator (--no-auth)")
    _prepare(daemon)

    def ready() -> None:
        notify(f"{READY}\nSTATUS=Serving {settings.addr}" if "api" in settings.roles else READY, daemon.environ)
        show_banner(daemon.output, settings)

    # A daemon that is to outlive its shell (nohup, trap '' HUP) ignores SIGHUP, or its input is not a terminal.
    hangup_ends = daemon.stdin.isatty() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    watchdog = Watchdog(time.monotonic, daemon.environ)
    return supervise(settings, daemon.arguments, ready=ready, watchdog=watchdog, hangup_ends=hangup_ends)


def serve_part(daemon: Daemon, name: str) -> int:
    """Runs one process of the daemon; it writes ``ready`` to standard output."""
    gc.disable()  # until it is ready: what is loaded at the start stays loaded
    start_logging(daemon.settings.log_format, sys.stderr, daemon.environ)
    from hypersdk.jobs.liveness import LivenessReporter

    liveness = LivenessReporter()
    kind, _, number = name.partition(":")
    try:
        if kind == "api" and not number:
            _wait_for_database(daemon.settings, liveness)
            return _serve_api(daemon, liveness)
        if kind == "worker" and number.isdecimal():
            _wait_for_database(daemon.settings, liveness)
            return _serve_worker(daemon, int(number), liveness)
    except HyperSDKError as error:
        liveness.failed(error.code)
        raise
    finally:
        gc.enable()
    raise UsageError(f"there is no process '{name[:40]}'")


def _wait_for_database(settings: DaemonSettings, liveness: LivenessReporter) -> None:
    """Waits for the database, so that a process that is restarted in an outage reports it once instead of at each
    restart."""
    from hypersdk.state.database import Database

    database = Database.open(settings.url)
    database.outage.tell = True
    try:
        database.wait_until_usable(liveness.alive)
    finally:
        database.close()


def _serve_api(daemon: Daemon, liveness: LivenessReporter) -> int:
    from hypersdk.api.process import run_api

    def ready(_server: object) -> None:
        """Called in the server's event loop."""
        _freeze_gc()
        liveness.ready()
        liveness.alive_in_loop()

    run_api(daemon.settings, daemon.environ, ready)
    return 0


def _serve_worker(daemon: Daemon, index: int, liveness: LivenessReporter) -> int:
    from hypersdk.jobs.worker import run_worker

    def ready() -> None:
        _freeze_gc()
        liveness.ready()

    return run_worker(daemon.settings, index, daemon.environ, ready=ready, alive=liveness.alive)


def _freeze_gc() -> None:
    """Excludes all loaded objects from garbage collection. Each full collection would otherwise take 70 ms, in which
    nothing is answered and nothing is copied."""
    gc.collect()
    gc.freeze()
    gc.enable()


def _prepare(daemon: Daemon) -> None:
    """Prepares what every process needs: schema, key and export roots.

    The first start creates the key here, before any worker starts. A daemon with the role worker creates none: it joins
    an existing state.
    """
    from hypersdk.access.vault import Vault
    from hypersdk.jobs.roots import ExportRoots

    settings = daemon.settings
    with daemon.database(make=True) as database:
        database.check()
        Vault.load(settings.state_dir, settings.key_file, daemon.environ, database if "api" in settings.roles else None)
    ExportRoots(settings.roots)


def _check_address(settings: DaemonSettings) -> None:
    """Raises UsageError for an address that is not allowed with these settings, ListenError for one in use."""
    from hypersdk.api.address import check_exposure, listen

    check_exposure(settings)
    for sock in listen(settings.addr):
        sock.close()
