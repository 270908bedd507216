"""The measurements, one function each. The server is vcsim where a peer is measured too: neither side's own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.daemon import daemons
from benchmarks.disk import make_disk
from benchmarks.measure import Row, Took, rounds, run
from benchmarks.picker import pickers
from hypersdk.simulator import DiskSpec, MachineSpec, Simulator, SimulatorConfig
from hypersdk.units import GiB, MiB, TiB
from tests.support.peers import Vcsim, go_peer, running_vcsim

VM = "DC0_H0_VM0"
INVENTORY_PER_POOL = 2500
STARTS = 15


@dataclass(frozen=True, slots=True)
class Bench:
    """Where files go, how big the disk is, how often each side runs."""

    folder: Path
    disk_bytes: int
    count: int

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
def serving(bench: Bench) -> Iterator[Vcsim]:
    """A vcsim whose first machine is off and has the disk."""
    laid = bench.fresh("laid")
    (laid / VM).mkdir()
    make_disk(bench.folder, bench.disk_bytes).rename(laid / VM / "disk1.vmdk")
    with running_vcsim(vm=1, cluster=0, standalone_host=1, autostart=False, disks=laid) as server:
        shutil.rmtree(laid)
        yield server


def downloads(bench: Bench) -> list[Row]:
    """OVF, qcow2 and compressed qcow2 against `govc export.ovf -sha 256`, alone and followed by `qemu-img convert`."""
    with serving(bench) as server:
        ovf, qcow2, compressed, unchecked, govc, convert, squeeze = rounds(
            bench.count,
            lambda: export(bench, server, VM, "--format", "ovf").seconds,
            lambda: export(bench, server, VM, "--format", "qcow2").seconds,
            lambda: export(bench, server, VM, "--format", "qcow2", "--compress").seconds,
            lambda: export(bench, server, VM, "--format", "qcow2", "--compress=unchecked").seconds,
            lambda: govc_export(bench, server),
            lambda: convert_download(bench),
            lambda: convert_download(bench, "-c"),
        )
    return [
        Row.ratio("download to OVF, against `govc export.ovf -sha 256`", ovf, govc, 1.0),
        Row.ratio("to qcow2, against that + `qemu-img convert`", qcow2, govc + convert, 0.35),
        Row.ratio(
            "to compressed qcow2, grains checked, against that + `qemu-img convert -c`",
            compressed,
            govc + squeeze,
            0.08,
        ),
        Row.ratio("the same, `--compress=unchecked`", unchecked, govc + squeeze, 0.08),
    ]


def govc_export(bench: Bench, server: Vcsim) -> float:
    """Seconds of govc; its files stay for the conversion."""
    target = bench.fresh("govc")
    return run(
        [go_peer("govc"), "export.ovf", "-sha", "256", "-vm", VM, target], env=login(server), sync=target
    ).seconds


def convert_download(bench: Bench, *options: str) -> float:
    """Seconds of qemu-img on what govc downloaded."""
    (source,) = (bench.folder / "govc").rglob("*.vmdk")
    target = bench.fresh("converted")
    return run(["qemu-img", "convert", "-O", "qcow2", *options, source, target / "disk.qcow2"], sync=target).seconds


def inventory(bench: Bench) -> list[Row]:
    """A list of 5,000 machines, with a dozen properties and with all their disks, against `govc vm.info '*'`, and its
    API calls."""
    with running_vcsim(vm=INVENTORY_PER_POOL, cluster=1, standalone_host=1) as server:
        ours, listed, theirs = rounds(
            bench.count,
            lambda: run([sys.executable, "-m", "benchmarks.listing"], env=login(server)).seconds,
            lambda: run([program(), "list", "--json"], env=login(server)).seconds,
            lambda: run([go_peer("govc"), "vm.info", "*"], env=login(server)).seconds,
        )
    calls, pages = _inventory_calls()
    machines = f"{2 * INVENTORY_PER_POOL:,} machines"
    return [
        Row.ratio(f"list of {machines}, twelve properties, against `govc vm.info '*'`", ours, theirs, 1.0),
        Row.ratio("`hyper2kvm list --json` of them, with the device lists of all disks", listed, theirs, 1.0),
        Row(f"API calls of that list, in {pages} pages", f"{calls} calls", "", calls, pages + 2, " calls"),
    ]


def _inventory_calls() -> tuple[int, int]:
    """Calls of `list` that are neither login nor logout, and pages among them; counted by our simulator, since vcsim
    does not count."""
    with Simulator(SimulatorConfig(vms=2 * INVENTORY_PER_POOL)) as server:
        run([program(), "list", "--json"], env=login(server))
        calls = server.counters.calls
    session = {"RetrieveServiceContent", "Login", "Logout"}
    pages = sum(
        count for name, count in calls.items() if name in ("RetrievePropertiesEx", "ContinueRetrievePropertiesEx")
    )
    return sum(count for name, count in calls.items() if name not in session), pages


def memory(bench: Bench) -> list[Row]:
    """Peak memory of an export of 1 GiB, and of 4 TiB with one block of data in each 512 MiB."""
    machines = (
        MachineSpec("one-gib", (DiskSpec(GiB, allocated_bytes=GiB // 2),)),
        MachineSpec("four-tib", (DiskSpec(4 * TiB, stride_bytes=512 * MiB),)),
    )
    with Simulator(SimulatorConfig(machines=machines)) as server:
        return [
            _memory_row(what, export(bench, server, machine.name, "--format", "qcow2"))
            for what, machine in zip(("1 GiB", "4 TiB, sparse"), machines, strict=True)
        ]


def _memory_row(what: str, took: Took) -> Row:
    peak = took.peak_bytes / MiB
    return Row(f"peak memory, {what}", f"{peak:.0f} MiB in {took.seconds:.1f} s", "", peak, 160, " MiB")


def start_up(_bench: Bench) -> list[Row]:
    """`hyper2kvm --help`."""
    (ours,) = rounds(STARTS, lambda: run([program(), "--help"]).seconds)
    return [Row("`hyper2kvm --help`", f"{ours:.2f} s", "", ours, 0.4, " s")]


def daemon(bench: Bench) -> list[Row]:
    """`hypervisord`: jobs a second, answers, idle cost."""
    return daemons(bench.fresh("daemon"))


def picker(bench: Bench) -> list[Row]:
    """Keys of the picker."""
    return pickers(bench.fresh("picker"))


CASES = {
    "start": start_up,
    "picker": picker,
    "memory": memory,
    "downloads": downloads,
    "inventory": inventory,
    "daemon": daemon,
}
