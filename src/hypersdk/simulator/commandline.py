"""The command line of the simulator."""

from __future__ import annotations

import argparse
import difflib
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final, NoReturn, TextIO, TypeVar

from hypersdk.errors import UsageError
from hypersdk.remedies import advice
from hypersdk.secret import Secret
from hypersdk.simulator.access import PRIVILEGES
from hypersdk.simulator.config import DEFAULT_PASSWORD, DEFAULT_USERNAME, MachineSpec, SimulatorConfig
from hypersdk.simulator.demo import BOOT_MACHINE
from hypersdk.simulator.faults import MAX_SECONDS, Fault, FaultKind
from hypersdk.simulator.hosts import Host
from hypersdk.simulator.machine import SimulatedMachine
from hypersdk.simulator.machineflag import read_machine
from hypersdk.simulator.server import Simulator
from hypersdk.simulator.storage import Datastore
from hypersdk.streams import failure_of, failure_text, status_of, take_standard_streams
from hypersdk.text import clean, shell_word
from hypersdk.transfer.cancel import SignalFlag
from hypersdk.units import format_rate, parse_size

T = TypeVar("T")

PROG: Final = "python -m hypersdk.simulator"
MAX_HOSTS: Final = 200

EPILOG = """\
faults:
  --fault KIND[,OPTION=VALUE]...   may be repeated

  streams             reset disconnect short stall slow corrupt status
                      nfc_exhausted
  leases, logins      lease_timeout lease_error session_expiry
  lease contents      file_size_present file_size_wrong wrong_manifest
                      no_manifest
  other               unreachable datastore_full call

  after=SIZE          applies after so many bytes; datastore_full: bytes left
  times=N|always      how often it applies (once)
  host=NAME           only on this ESXi host
  disk=MACHINE[:N]    only this machine, or its disk N (from 0);
                      datastore_full: the datastore's name
  seconds=S           stall: how long it lasts (10)
  rate=SIZE           slow: bytes per second (1MB)
  status=CODE         status: the HTTP status (500)
  retry-after=S       status: Retry-After header
  method=CALL         call, session_expiry, stall: the API method
  fault=TYPE          call: the API fault (SystemError)

machines from images:
  --machine NAME=IMAGE[,IMAGE]...[,OPTION=VALUE]...

  firmware=efi|bios   how it boots (bios)
  memory=SIZE         its memory (2GiB)
  guest=ID            vSphere's identifier of its system (debian12_64Guest)

examples:
  python -m hypersdk.simulator --vms 201
  python -m hypersdk.simulator --rate 20MiB --fault stall,after=1MiB,seconds=20
  python -m hypersdk.simulator --fault reset,after=10MiB,times=2,disk=web-02:0
  python -m hypersdk.simulator --esxi \\
      --fault call,method=ExportVm,fault=TaskInProgress,times=always
  python -m hypersdk.simulator --vms 0 --machine web=web.raw,firmware=efi
"""


class _Parser(argparse.ArgumentParser):
    """Reports errors as the other programs do."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").partition(" ")[0].partition("=")[0]
        near = difflib.get_close_matches(unknown, self._option_string_actions, n=2)
        step = f"Did you mean {' or '.join(near)}? " if near and unknown.startswith("-") else ""
        raise UsageError(message, cause="A flag or value cannot be used.", next_step=f"{step}See `{self.prog} --help`.")


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = _Parser(
        prog=PROG,
        usage="%(prog)s [OPTION]...",
        description=(
            "A simulated vCenter (or ESXi host) to try, rehearse and test exports\nagainst. It has no real machines."
        ),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_inventory(made.add_argument_group("inventory"))
    _add_access(made.add_argument_group("access"))
    _add_behaviour(made.add_argument_group("behaviour"))
    return made


def _add_inventory(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--listen",
        default="127.0.0.1:8989",
        metavar="ADDRESS:PORT",
        help=(
            "where to listen (default: %(default)s; port 0: any free one). ESXi hosts listen on 127.0.0.2,"
            " 127.0.0.3 ..."
        ),
    )
    add(
        "--vms",
        type=_integer(0, 100_000),
        default=24,
        metavar="N",
        help="machines in the inventory (default: %(default)s)",
    )
    add(
        "--hosts",
        type=_integer(1, 200),
        default=4,
        metavar="N",
        help="ESXi hosts per datacenter (default: %(default)s)",
    )
    add("--datacenters", type=_integer(1, 50), default=1, metavar="N", help="datacenters (default: %(default)s)")
    add(
        "--seed",
        type=_integer(0, 2**63),
        default=1,
        metavar="N",
        help="another seed gives another inventory with other disks (default: %(default)s)",
    )
    add(
        "--machine",
        action="append",
        default=[],
        type=_read(read_machine),
        metavar="NAME=IMAGE",
        help="add a machine with the content of a raw image, see below (may be repeated)",
    )
    add("--esxi", action="store_true", help="be a standalone ESXi host: one host, NFC URLs with '*'")
    add("--datastore-size", type=_read(_positive_size), metavar="SIZE", help="size of a datastore (default: 4TiB)")


def _add_access(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--username",
        metavar="NAME",
        help=f"name of the only account (default: any; with --password-file: {DEFAULT_USERNAME})",
    )
    add(
        "--password-file",
        type=Path,
        metavar="FILE",
        help="file with the password (default: any; with --username: 'simulator')",
    )
    add("--ca-file", type=Path, metavar="FILE", help="write the CA certificate (PEM) to this file")
    add(
        "--deny",
        action="append",
        default=[],
        metavar="PRIVILEGE",
        help="deny a privilege, such as VApp.Export (may be repeated)",
    )
    add("--free-licence", action="store_true", help="refuse exports as an ESXi host with a free licence does")
    add(
        "--session-idle",
        type=_seconds,
        default=1800,
        metavar="S",
        help="seconds until an idle session ends (default: %(default)s)",
    )


def _add_behaviour(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--rate",
        type=_read(_positive_size),
        metavar="SIZE",
        help="limit of each data stream in bytes per second, such as 20MiB",
    )
    add(
        "--streams-per-host",
        type=_integer(1, 500),
        metavar="N",
        help="a host refuses more NFC streams than this: 'failed to allocate'",
    )
    add(
        "--lease-timeout",
        type=_seconds,
        default=300,
        metavar="S",
        help="seconds until a lease that is not renewed ends (default: %(default)s)",
    )
    add(
        "--lease-ready",
        type=_seconds,
        default=0.2,
        metavar="S",
        help="seconds until a lease is ready (default: %(default)s)",
    )
    add("--task-time", type=_seconds, default=0.5, metavar="S", help="seconds that a task takes (default: %(default)s)")
    add(
        "--file-size",
        choices=("absent", "present"),
        default="absent",
        help="whether a lease reports the length of its streams (default: %(default)s, as ESXi does)",
    )
    add(
        "--manifest",
        choices=("sha256", "sha1", "absent"),
        default="sha256",
        help="best checksum of a lease's manifest (default: %(default)s)",
    )
    add(
        "--page-size",
        type=_integer(1, 100_000),
        default=1000,
        metavar="N",
        help="most objects in one response of the inventory (default: %(default)s)",
    )
    add(
        "--delta-growth",
        type=_read(parse_size),
        default=0,
        metavar="SIZE",
        help="growth of a running machine's snapshot in bytes per second (default: 0)",
    )
    add(
        "--fault",
        action="append",
        default=[],
        type=_read(Fault.parse),
        metavar="FAULT",
        help="inject a fault, see below (may be repeated)",
    )


def _integer(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from {least} to {most}")
        return int(text)

    return read


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds from 0 to {MAX_SECONDS}")
    return value


def _positive_size(text: str) -> int:
    size = parse_size(text)
    if size == 0:
        raise UsageError("0 is too small", next_step="Write a size such as 20MiB.")
    return size


def _read(reader: Callable[[str], T]) -> Callable[[str], T]:
    """``reader`` with its errors raised as the parser's, which adds the flag's name."""

    def read(text: str) -> T:
        try:
            return reader(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(f"{error.message}. {advice(error.remedies)}") from error

    return read


def config_of(args: argparse.Namespace) -> SimulatorConfig:
    """The configuration that the flags ask for. Raises UsageError when they contradict each other, or the password file
    cannot be read."""
    if not args.esxi and args.hosts * args.datacenters > MAX_HOSTS:
        raise UsageError(
            f"{args.datacenters} datacenters with {args.hosts} hosts each are more than {MAX_HOSTS} hosts",
            cause="Each host listens on an address of its own.",
            next_step="Lower --hosts or --datacenters.",
        )
    _check_machines(args.machine)
    more = {"datastore_bytes": args.datastore_size} if args.datastore_size else {}
    return SimulatorConfig(
        listen=args.listen,
        vms=args.vms,
        machines=tuple(args.machine),
        hosts=args.hosts,
        datacenters=args.datacenters,
        seed=args.seed,
        esxi=args.esxi,
        username=args.username or DEFAULT_USERNAME,
        password=Secret(_password(args.password_file)),
        any_login=args.username is None and args.password_file is None,
        rate_bytes_s=args.rate,
        lease_timeout_s=args.lease_timeout,
        lease_ready_s=args.lease_ready,
        session_idle_s=args.session_idle,
        task_s=args.task_time,
        nfc_streams_per_host=args.streams_per_host,
        delta_bytes_s=args.delta_growth,
        denied_privileges=frozenset(args.deny),
        faults=tuple(args.fault),
        page_objects=args.page_size,
        file_size=args.file_size,
        manifest=args.manifest,
        free_licence=args.free_licence,
        **more,
    )


def _check_machines(machines: Sequence[MachineSpec]) -> None:
    names = [machine.name for machine in machines]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"two machines are named '{clean(name)}'", cause="--machine names it.", next_step="Rename one of them."
            )


def _password(file: Path | None) -> str:
    if file is None:
        return DEFAULT_PASSWORD
    try:
        password = file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _file_error(file, "read", error) from error
    if not password:
        raise UsageError(
            f"{file} holds no password", cause="The file is empty.", next_step="Write the password into it."
        )
    return password


def _file_error(file: Path, what: str, error: OSError | UnicodeDecodeError) -> UsageError:
    cause = error.strerror if isinstance(error, OSError) else "It is not UTF-8 text."
    return UsageError(
        f"{file} cannot be {what}", cause=cause or str(error), next_step="Correct the path, or use another file."
    )


def check_names(simulator: Simulator, config: SimulatorConfig) -> None:
    """Raises UsageError for a fault or privilege that names nothing here: it would silently have no effect."""
    world = simulator.platform.world
    hosts = {host.name for host in world.all(Host)}
    stores = {store.name for store in world.all(Datastore)}
    machines = world.all(SimulatedMachine)
    disks = {f"{machine.spec.name}:{disk.index}" for machine in machines for disk in machine.disks}
    disks |= {machine.spec.name for machine in machines}
    for privilege in config.denied_privileges:
        _check_name("privilege", privilege, PRIVILEGES)
    for fault in config.faults:
        _check_name("host", fault.host, hosts)
        if fault.kind is FaultKind.DATASTORE_FULL:
            _check_name("datastore", fault.disk, stores)
        else:
            _check_name("machine or disk", fault.disk, disks)


def _check_name(what: str, name: str | None, known: Collection[str]) -> None:
    if name is None or name in known:
        return
    listed = sorted(known)
    near = difflib.get_close_matches(name, listed, n=5)
    more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
    hint = f"Did you mean: {', '.join(near)}?" if near else f"There are: {', '.join(listed[:8])}{more}."
    raise UsageError(f"there is no {what} '{name}'", cause="A flag names it.", next_step=hint)


def banner(simulator: Simulator, *, show_password: bool) -> str:
    """The address, and lines to copy."""
    config = simulator.config
    kind = "ESXi host" if config.esxi else "vCenter"
    count = len(simulator.platform.world.all(SimulatedMachine))
    hosts = 1 if config.esxi else config.hosts * config.datacenters
    where = "" if config.esxi else f" on {hosts} host{'s' if hosts != 1 else ''}"
    limit = f", {format_rate(config.rate_bytes_s)} per stream" if config.rate_bytes_s else ""
    anyone = "\nAny other user name and password are accepted too.\n" if config.any_login else ""
    password = f"'{simulator.password}'" if show_password else "...  # as in your file"
    machine = shell_word(config.machines[0].name if config.machines else BOOT_MACHINE)
    first, second = simulator.thumbprint_sha256[:48], simulator.thumbprint_sha256[48:]
    return f"""\
Simulated {kind} with {count} machine{"s" if count != 1 else ""}{where}{limit}

  address   {simulator.url}
  SHA-256   {first}
            {second}

Copy these lines into another terminal:

  export GOVC_URL={simulator.url}
  export GOVC_USERNAME='{simulator.username}'
  export GOVC_PASSWORD={password}
  export GOVC_INSECURE=1
{anyone}
and then, for example:

  hyper2kvm list
  hyper2kvm export {machine} -o /tmp/images --format qcow2
  govc find / -type m

Press Ctrl-C to stop.
"""


def main(argv: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Runs until SIGINT or SIGTERM. Returns the exit status."""
    out = out or take_standard_streams()[1]
    try:
        return _run(parser().parse_args(argv), out)
    except SystemExit:  # --help
        return _after_printing(out) or 0
    except UsageError as error:
        lines = (
            f"error: {error.message} [{error.code}]",
            f"  cause: {error.cause}",
            f"  next:  {advice(error.remedies)}",
        )
        print(*lines, sep="\n", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:  # before it was ready
        return 130


def _run(args: argparse.Namespace, out: TextIO) -> int:
    config = config_of(args)
    with Simulator(config) as simulator:
        ended = SignalFlag()
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, lambda *_: ended.set())
        check_names(simulator, config)
        if args.ca_file is not None:
            try:
                args.ca_file.write_bytes(simulator.ca_pem)
            except OSError as error:
                raise _file_error(args.ca_file, "written", error) from error
        print(banner(simulator, show_password=args.password_file is None), file=out, flush=True)
        failed = _after_printing(out)
        if failed is None:
            ended.wait()
    return failed or 0


def _after_printing(out: TextIO) -> int | None:
    """The exit status if ``out`` cannot be written; nobody would know the address. A closed pipe is not reported."""
    failure = failure_of(out)
    if failure is None:
        return None
    if not isinstance(failure, BrokenPipeError):
        print(failure_text(PROG, failure), file=sys.stderr)
    return status_of(failure)
