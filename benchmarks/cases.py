"""The measurements, one function each. The server is vcsim where a peer is measured too: neither side's own."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.daemon import daemons
from benchmarks.disk import make_disk
from benchmarks.measure import Row, Took, rounds, run, say
from benchmarks.migration import Sides, guest_with, migrations, stream_of
from benchmarks.picker import pickers
from benchmarks.profile import profiled
from hypersdk.simulator import DiskSpec, MachineSpec, Simulator, SimulatorConfig
from hypersdk.units import GiB, MiB, TiB
from tests.support.libvirtd import Libvirtd
from tests.support.peers import Vcsim, go_peer, running_vcsim

VM = "DC0_H0_VM0"
LISTED = 5_000
LOOKED_UP = 10_000
SMALL_DISK = 16 * MiB
STARTS = 15
FIRST_REQUESTS = 7
PROFILED = {
    "to OVF": ["--format", "ovf"],
    "to OVF, unchecked": ["--format", "ovf", "--unchecked"],
    "to qcow2": ["--format", "qcow2"],
    "to compressed qcow2": ["--format", "qcow2", "--compress"],
    "to compressed qcow2, unchecked": ["--format", "qcow2", "--compress", "--unchecked"],
}


@dataclass(frozen=True, slots=True)
class Bench:
    """Where files go, how big the disk is, how often each side runs."""

    folder: Path
    disk_bytes: int
    count: int
    extra_bytes: int = 0

    def fresh(self, name: str) -> Path:
        """An empty folder."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder


def program() -> Path:
    """The installed ``hyper2kvm`` of this environment."""
    return Path(sys.executable).parent / "hyper2kvm"


def login(server: Vcsim | Simulator) -> dict[str, str]:
    """Variables that both programs read. The certificates are self-made."""
    url = server.login_url if isinstance(server, Vcsim) else server.url
    return {
        "GOVC_URL": url,
        "GOVC_USERNAME": server.username,
        "GOVC_PASSWORD": server.password,
        "GOVC_INSECURE": "1",
        "GOVC_PERSIST_SESSION": "false",
    }


def export(bench: Bench, server: Vcsim | Simulator, machine: str, *options: str) -> Took:
    """`hyper2kvm export` into an empty folder, which it leaves behind."""
    target = bench.fresh("ours")
    return run([program(), "export", machine, "-o", target, "--json", *options], env=login(server), sync=target)


@contextmanager
def serving(bench: Bench, disk_bytes: int | None = None, **flags: Path) -> Iterator[Vcsim]:
    """A vcsim whose first machine is off and has the disk, of ``disk_bytes`` where that is not the bench's."""
    say("making the disk")
    with serving_disk(bench, make_disk(bench.folder, disk_bytes or bench.disk_bytes), **flags) as server:
        yield server


@contextmanager
def serving_disk(bench: Bench, vmdk: Path, **flags: Path) -> Iterator[Vcsim]:
    """A vcsim whose first machine is off and has the disk ``vmdk``, a streamOptimized VMDK that is moved there."""
    laid = bench.fresh("laid")
    (laid / VM).mkdir()
    vmdk.rename(laid / VM / "disk1.vmdk")
    with running_vcsim(
        vm=1,
        cluster=0,
        standalone_host=1,
        autostart=False,
        disks=laid,
        api_version="6.7",  # the first with SHA-256 in the manifest
        **{name: str(path) for name, path in flags.items()},
    ) as server:
        shutil.rmtree(laid)
        yield server


def downloads(bench: Bench) -> Iterator[Row]:
    """OVF, qcow2 and compressed qcow2 against `govc export.ovf -sha 256`, alone and followed by `qemu-img convert`."""
    with serving(bench) as server:
        yield from _packages(bench, server)
        yield from _images(bench, server)
        yield from _compressed(bench, server)


def _packages(bench: Bench, server: Vcsim) -> Iterator[Row]:
    checked, unchecked, govc = rounds(
        bench.count,
        {
            "to OVF": lambda: export(bench, server, VM, "--format", "ovf"),
            "to OVF, unchecked": lambda: export(bench, server, VM, "--format", "ovf", "--compress=unchecked"),
            "govc export.ovf": lambda: govc_export(bench, server),
        },
    )
    yield Row.ratio("download to OVF, grains checked, against `govc export.ovf -sha 256`", checked, govc, 1.0)
    yield Row.ratio("the same, unchecked", unchecked, govc, 0.75)


def _images(bench: Bench, server: Vcsim) -> Iterator[Row]:
    qcow2, converted = rounds(
        bench.count,
        {
            "to qcow2": lambda: export(bench, server, VM, "--format", "qcow2"),
            "govc export.ovf and qemu-img convert": lambda: govc_export(bench, server) + convert_download(bench),
        },
    )
    yield Row.ratio("to qcow2, against that + `qemu-img convert`", qcow2, converted, 0.35)


def _compressed(bench: Bench, server: Vcsim) -> Iterator[Row]:
    checked, unchecked, converted = rounds(
        bench.count,
        {
            "to compressed qcow2": lambda: export(bench, server, VM, "--format", "qcow2", "--compress"),
            "to compressed qcow2, unchecked": lambda: export(
                bench, server, VM, "--format", "qcow2", "--compress=unchecked"
            ),
            "govc export.ovf and qemu-img convert -c": lambda: (
                govc_export(bench, server) + convert_download(bench, "-c")
            ),
        },
    )
    yield Row.ratio(
        "to compressed qcow2, grains checked, against that + `qemu-img convert -c`", checked, converted, 0.09
    )
    yield Row.ratio("the same, unchecked", unchecked, converted, 0.07)


def govc_export(bench: Bench, server: Vcsim) -> Took:
    """govc alone; its files stay for the conversion."""
    target = bench.fresh("govc")
    return run([go_peer("govc"), "export.ovf", "-sha", "256", "-vm", VM, target], env=login(server), sync=target)


def convert_download(bench: Bench, *options: str) -> Took:
    """qemu-img on what govc downloaded."""
    (source,) = (bench.folder / "govc").rglob("*.vmdk")
    target = bench.fresh("converted")
    return run(["qemu-img", "convert", "-O", "qcow2", *options, source, target / "disk.qcow2"], sync=target)


def inventory(bench: Bench) -> Iterator[Row]:
    """The default list of 5,000 machines against `govc vm.info '*'`, its API calls, and one machine of 10,000 by its
    name."""
    say(f"starting vcsim with {LISTED:,} machines")
    with many_machines(LISTED) as server:
        listed, theirs = rounds(
            bench.count,
            {
                "hyper2kvm list": lambda: run([program(), "list", "--json"], env=login(server)),
                "govc vm.info '*'": lambda: run([go_peer("govc"), "vm.info", "*"], env=login(server)),
            },
        )
    machines = f"{LISTED:,} machines"
    yield Row.ratio(f"`hyper2kvm list --json` of {machines}, against `govc vm.info '*'`", listed, theirs, 1.0)
    calls, pages = _inventory_calls()
    yield Row(f"API calls of that list, in {pages} pages", f"{calls} calls", "", calls, pages + 2, " calls")
    say(f"starting vcsim with {LOOKED_UP:,} machines")
    with many_machines(LOOKED_UP) as server:
        name = f"DC0_H0_VM{LOOKED_UP - 7}"
        inspected, theirs = rounds(
            bench.count,
            {
                "hyper2kvm inspect": lambda: run([program(), "inspect", name, "--json"], env=login(server)),
                "govc vm.info": lambda: run([go_peer("govc"), "vm.info", name], env=login(server)),
            },
        )
    yield Row.difference(
        f"`hyper2kvm inspect` of one of {LOOKED_UP:,} machines, against `govc vm.info NAME`", inspected, theirs, 0.5
    )


def many_machines(count: int) -> AbstractContextManager[Vcsim]:
    """A vcsim with so many machines, off: that makes it start sooner."""
    return running_vcsim(vm=count, cluster=0, standalone_host=1, autostart=False)


def _inventory_calls() -> tuple[int, int]:
    """Calls of `list` that are neither login nor logout, and pages among them; counted by our simulator, since vcsim
    does not count."""
    with Simulator(SimulatorConfig(vms=LISTED)) as server:
        run([program(), "list", "--json"], env=login(server))
        calls = server.counters.calls
    session = {"RetrieveServiceContent", "Login", "Logout"}
    pages = sum(
        count for name, count in calls.items() if name in ("RetrievePropertiesEx", "ContinueRetrievePropertiesEx")
    )
    return sum(count for name, count in calls.items() if name not in session), pages


def memory(bench: Bench) -> Iterator[Row]:
    """Peak memory of an export of 1 GiB, and of 4 TiB with one block of data in each 512 MiB."""
    machines = (
        MachineSpec("one-gib", (DiskSpec(GiB, allocated_bytes=GiB // 2),)),
        MachineSpec("four-tib", (DiskSpec(4 * TiB, stride_bytes=512 * MiB),)),
    )
    with Simulator(SimulatorConfig(machines=machines)) as server:
        for what, machine in zip(("1 GiB", "4 TiB, sparse"), machines, strict=True):
            say(f"exporting {what}")
            yield _memory_row(what, export(bench, server, machine.name, "--format", "qcow2"))


def _memory_row(what: str, took: Took) -> Row:
    peak = took.peak_bytes / MiB
    return Row(f"peak memory, {what}", f"{peak:.0f} MiB in {took.seconds:.1f} s", "", peak, 160, " MiB")


def start_up(bench: Bench) -> Iterator[Row]:
    """`hyper2kvm --help`, and the first request for data of an export."""
    (ours,) = rounds(STARTS, {"hyper2kvm --help": lambda: run([program(), "--help"])})
    yield Row("`hyper2kvm --help`", f"{ours.seconds:.2f} s", "", ours.seconds, 0.4, " s")
    log = bench.folder / "data-requests"
    with serving(bench, SMALL_DISK, data_requests=log) as server:

        def first_request(command: Callable[[], Took]) -> Took:
            """The time until the first request of data in place of the whole."""
            log.unlink(missing_ok=True)
            started = time.time_ns()
            took = command()
            return replace(took, seconds=(int(log.read_text().split()[0]) - started) / 1e9)

        ours, theirs = rounds(
            FIRST_REQUESTS,
            {
                "hyper2kvm export of a small disk": lambda: first_request(
                    lambda: export(bench, server, VM, "--format", "ovf")
                ),
                "govc export.ovf of a small disk": lambda: first_request(lambda: govc_export(bench, server)),
            },
        )
    yield Row(
        "first request for data, after the start of the export",
        f"{ours.seconds:.2f} s",
        f"{theirs.seconds:.2f} s",
        ours.seconds,
        0.6,
        " s",
    )


def daemon(bench: Bench) -> Iterator[Row]:
    """`hypervisord`: jobs a second, answers, idle cost."""
    yield from daemons(bench.fresh("daemon"))


def picker(bench: Bench) -> Iterator[Row]:
    """Keys of the picker."""
    yield from pickers(bench.fresh("picker"))


def profile(bench: Bench) -> Iterator[Row]:
    """The CPU time of exports, by library. Needs perf."""
    with serving(bench) as server:
        for what, options in PROFILED.items():
            say(f"perf record: {what}")
            command: list[str | Path] = [program(), "export", VM, "-o", bench.fresh("ours"), "--json", *options]
            yield profiled(what, command, login(server), bench.folder)


def migrate(bench: Bench) -> Iterator[Row]:
    """A migration onto libvirt against govc and virt-v2v. Needs root and virt-v2v."""
    bench.folder.chmod(0o711)  # libvirt's user reaches the images
    say("making the guest")
    guest = guest_with(bench.fresh("guest"), bench.extra_bytes)
    stream_of(guest, bench.folder / "guest.vmdk")
    with serving_disk(bench, bench.folder / "guest.vmdk") as server:

        def sides(libvirtd: Libvirtd) -> Sides:
            return Sides(bench.folder, program(), go_peer("govc"), VM, login(server), libvirtd)

        yield from migrations(sides, guest, bench.count, extra=bench.extra_bytes > 0)


CASES: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "start": start_up,
    "picker": picker,
    "memory": memory,
    "downloads": downloads,
    "inventory": inventory,
    "daemon": daemon,
    "migrate": migrate,
    "profile": profile,
}
ON_REQUEST = frozenset({"migrate", "profile"})
"""They run only where they are named."""
