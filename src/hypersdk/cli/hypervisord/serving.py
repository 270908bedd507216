"""Serving: the parent that starts and watches, and the processes that it starts: the API, the workers."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from hypersdk.cli.hypervisord.banner import address_of, show_banner
from hypersdk.cli.hypervisord.daemon import Daemon
from hypersdk.cli.hypervisord.logs import start_logging
from hypersdk.errors import HyperSDKError, UsageError

if TYPE_CHECKING:
    from hypersdk.jobs.liveness import LivenessReporter
    from hypersdk.jobs.settings import DaemonSettings

LOG: Final = logging.getLogger(__name__)


def serve(daemon: Daemon) -> int:
    """The parent. What would keep a part from ever starting is said here, once, with an exit status, and not by
    restarts for ever."""
    from hypersdk.jobs.supervisor import supervise
    from hypersdk.jobs.systemd import READY, Watchdog, notify

    settings = daemon.settings
    start_logging(settings.log_format, sys.stderr, daemon.environ)
    if "api" in settings.roles:
        _check_address(settings)
    if not settings.auth:
        LOG.warning("NO AUTHENTICATION: everybody on this machine may do everything (--no-auth)")
    _prepare(daemon)

    def ready() -> None:
        notify(f"{READY}\nSTATUS=Serving {settings.addr}" if "api" in settings.roles else READY, daemon.environ)
        if daemon.output.live:
            show_banner(daemon.output, settings)
        LOG.info("ready%s", f", serving {address_of(settings)}" if "api" in settings.roles else "")

    # A shell that was told to keep it (nohup, trap '' HUP) has SIGHUP ignored, or its input taken from elsewhere.
    hangup_ends = daemon.stdin.isatty() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    watchdog = Watchdog(time.monotonic, daemon.environ)
    return supervise(settings, daemon.arguments, ready=ready, watchdog=watchdog, hangup_ends=hangup_ends)


def serve_part(daemon: Daemon, name: str) -> int:
    """One process of the daemon; it says ``ready`` on standard output when it is."""
    gc.disable()  # until it is ready: what a start loads stays
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
    raise UsageError(f"there is no process '{name[:40]}'")


def _wait_for_database(settings: DaemonSettings, liveness: LivenessReporter) -> None:
    """A process that is started again in an outage says so once and waits, instead of ending and saying it at each
    start."""
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
        _settle()
        liveness.ready()
        liveness.alive_in_loop()

    run_api(daemon.settings, daemon.environ, ready)
    return 0


def _serve_worker(daemon: Daemon, index: int, liveness: LivenessReporter) -> int:
    from hypersdk.jobs.process import work

    def ready() -> None:
        _settle()
        liveness.ready()

    return work(daemon.settings, index, daemon.environ, ready=ready, alive=liveness.alive)


def _settle() -> None:
    """From here on the garbage collector leaves alone what is loaded. It would look at all of that each time, 70 ms
    during which nothing is answered and nothing is copied."""
    gc.collect()
    gc.freeze()
    gc.enable()


def _prepare(daemon: Daemon) -> None:
    """Schema, key and export roots: what every part needs, and what fails in the same way each time.

    The key is made here on the first start, so that no worker comes before it. A daemon that only works makes none: it
    belongs to a state that is there already.
    """
    from hypersdk.access.vault import Vault
    from hypersdk.jobs.roots import ExportRoots

    settings = daemon.settings
    with daemon.database(make=True) as database:
        database.check()
        Vault.load(settings.state_dir, settings.key_file, daemon.environ, database if "api" in settings.roles else None)
    ExportRoots(settings.roots)


def _check_address(settings: DaemonSettings) -> None:
    """Raises UsageError for an address that must not be served so, ListenError for one that another program has."""
    import socket

    from hypersdk.api.address import ListenError, addresses_of, check_exposure, split_address

    check_exposure(settings)
    host, port = split_address(settings.addr)
    if port == 0:
        return
    for family, address in addresses_of(host, port):
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind((address, port))
            except OSError as error:
                if error.errno in _ABSENT:
                    continue
                raise ListenError(f"{settings.addr} cannot be listened on: {error.strerror}") from error


_ABSENT: Final = frozenset({97, 99})  # EAFNOSUPPORT, EADDRNOTAVAIL: a machine without IPv6
