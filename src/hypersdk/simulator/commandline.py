"""The command line of the simulator."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from hypersdk.errors import UsageError
from hypersdk.secret import Secret
from hypersdk.simulator.config import DEFAULT_PASSWORD, DEFAULT_USERNAME, SimulatorConfig
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.simulator.server import Simulator
from hypersdk.units import format_size, parse_size

EPILOG = f"""\
faults (--fault, may be given several times):
  KIND[,after=SIZE][,times=N|always][,host=NAME][,disk=MACHINE[:INDEX]][,seconds=S][,rate=SIZE][,status=CODE]
      [,retry-after=S][,method=CALL][,fault=TYPE]
  kinds: {", ".join(FaultKind)}
  by default a fault strikes once

examples:
  python -m hypersdk.simulator --vms 201
  python -m hypersdk.simulator --vms 20 --rate 20MiB --fault reset,after=10MiB,times=2,disk=web-02:0
  python -m hypersdk.simulator --esxi --fault call,method=ExportVm,fault=TaskInProgress,times=always
"""


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="python -m hypersdk.simulator",
        description="An embedded vCenter (or ESXi host) to try, rehearse and test exports against. It holds no real machines.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add(
        "--listen",
        default="127.0.0.1:8989",
        metavar="ADDRESS:PORT",
        help="where to listen (default: %(default)s; port 0: any free one)",
    )
    add("--vms", type=_count, default=24, metavar="N", help="machines in the demo inventory (default: %(default)s)")
    add("--hosts", type=_positive, default=4, metavar="N", help="ESXi hosts per datacenter (default: %(default)s)")
    add("--datacenters", type=_positive, default=1, metavar="N", help="datacenters (default: %(default)s)")
    add(
        "--seed",
        type=int,
        default=1,
        help="another seed gives another inventory and other disks (default: %(default)s)",
    )
    add("--esxi", action="store_true", help="be a standalone ESXi host: one host, NFC URLs with '*'")
    add("--username", default=DEFAULT_USERNAME, help="the one account (default: %(default)s)")
    add("--password-file", type=Path, metavar="FILE", help="file with its password (default: the password 'simulator')")
    add("--rate", type=_size, metavar="SIZE", help="limit of each data stream, in bytes a second, such as 20MiB")
    add(
        "--lease-timeout",
        type=float,
        default=300,
        metavar="S",
        help="seconds until a lease that nobody renews ends (default: %(default)s)",
    )
    add(
        "--session-idle",
        type=float,
        default=1800,
        metavar="S",
        help="seconds until an idle session ends (default: %(default)s)",
    )
    add("--task-time", type=float, default=0.5, metavar="S", help="how long a task takes (default: %(default)s)")
    add("--streams-per-host", type=_positive, metavar="N", help="a host refuses more NFC streams than this")
    add("--datastore-size", type=_size, metavar="SIZE", help="size of a datastore (default: 4TiB)")
    add(
        "--delta-growth",
        type=_size,
        default=0,
        metavar="SIZE",
        help="bytes a second by which a running machine's snapshot grows",
    )
    add(
        "--deny",
        action="append",
        default=[],
        metavar="PRIVILEGE",
        help="take a privilege away, such as VApp.Export (may be repeated)",
    )
    add(
        "--fault",
        action="append",
        default=[],
        type=_fault,
        metavar="FAULT",
        help="make something go wrong, see below (may be repeated)",
    )
    return made


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) > 100_000:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number between 0 and 100000")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 200:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number between 1 and 200")
    return int(text)


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(f"{error.message}. {error.next_step}") from error


def _fault(text: str) -> Fault:
    try:
        return Fault.parse(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(f"{error.message}. {error.next_step}") from error


def config_of(args: argparse.Namespace) -> SimulatorConfig:
    """The configuration that the flags ask for. Raises OSError when the password file cannot be read."""
    password = args.password_file.read_text().rstrip("\n") if args.password_file else DEFAULT_PASSWORD
    more = {"datastore_bytes": args.datastore_size} if args.datastore_size else {}
    return SimulatorConfig(
        listen=args.listen, vms=args.vms, hosts=args.hosts, datacenters=args.datacenters, seed=args.seed, esxi=args.esxi,
        username=args.username, password=Secret(password), rate_bytes_s=args.rate, lease_timeout_s=args.lease_timeout,
        session_idle_s=args.session_idle, task_s=args.task_time, nfc_streams_per_host=args.streams_per_host,
        delta_bytes_s=args.delta_growth, denied_privileges=frozenset(args.deny), faults=tuple(args.fault), **more,
    )  # fmt: skip


def banner(simulator: Simulator, password_shown: str) -> str:
    """What a newcomer needs: where it is, and lines to copy."""
    config = simulator.config
    kind = "ESXi host" if config.esxi else "vCenter"
    hosts = 1 if config.esxi else config.hosts * config.datacenters
    limit = f", {format_size(config.rate_bytes_s)}/s per stream" if config.rate_bytes_s else ""
    return f"""\
Simulated {kind} with {len(simulator.machine_names())} machines on {hosts} host(s){limit}
  {simulator.url}   SHA-256 {simulator.thumbprint_sha256}

Copy these lines into another terminal:

  export GOVC_URL='{simulator.url}'
  export GOVC_USERNAME='{simulator.username}'
  export GOVC_PASSWORD='{password_shown}'
  export GOVC_INSECURE=1

and then, for example:

  hyper2kvm list
  hyper2kvm export boot-demo -o /tmp/boot-demo --format qcow2

Press Ctrl-C to stop.
"""


def main(argv: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Runs until SIGINT or SIGTERM. Returns the exit status."""
    stream = out or sys.stdout
    flags = parser()
    args = flags.parse_args(argv)
    try:
        simulator = Simulator(config_of(args))
        simulator.start()
    except (OSError, ValueError) as error:
        flags.exit(2, f"cannot start: {error}\n")
    ended = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: ended.set())
    try:
        print(banner(simulator, "..." if args.password_file else simulator.password), file=stream, flush=True)
        ended.wait()
    finally:
        simulator.stop()
    return 0
