"""The cost of an export: streams per host, time of concurrent exports, API calls, and what is left afterwards."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import pytest

from hypersdk.migration.spec import ExportSpec, Method
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.units import MiB
from tests.support.cli.hyper2kvm import Program, ProgramFactory
from tests.support.exportchecks import recomputed_digest
from tests.support.exporter import Engine, EngineFactory, succeeded

NAMES: Final = [f"fleet-{number}" for number in range(8)]
FLEET: Final = tuple(
    MachineSpec(name, host=number % 2, disks=(DiskSpec(10 * MiB, allocated_bytes=10 * MiB),) * 4)
    for number, name in enumerate(NAMES)
)
CAP_BYTES_S: Final = 20_000_000
BUDGET: Final = 4
"""Streams of one host, as configured: a quarter of what the machines would use."""


def configure(hyper2kvm: Program, streams_per_host: int) -> None:
    """Sets the number of streams per host."""
    config = hyper2kvm.home / ".config" / "hypersdk" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f"[export]\nstreams_per_host = {streams_per_host}\n")


@pytest.mark.slow
def test_eight_machines_at_once_stay_in_the_budget_and_take_less_than_one_after_another(
    program: ProgramFactory, tmp_path: Path
) -> None:
    simulator, hyper2kvm = program(machines=FLEET, hosts=2, rate_bytes_s=CAP_BYTES_S)
    configure(hyper2kvm, BUDGET)
    took, digests, peaks = {}, {}, {}
    for how, machines, disks in (("singly", 1, 1), ("together", 8, 4)):
        simulator.reset_counters()
        began = time.monotonic()
        ended = hyper2kvm.export(
            *NAMES, "-o", tmp_path / how, "--max-machines", str(machines), "--parallel", str(disks), "--source", "lease"
        )
        took[how] = time.monotonic() - began
        assert ended.status == 0, ended.explain()
        digests[how] = {event["machine"]: event["content"] for event in ended.seen if event["type"] == "result"}
        assert len(simulator.counters.opened) == 32
        assert set(simulator.counters.opened.values()) == {1}
        peaks[how] = list(simulator.counters.streams_peak.values())
    assert peaks["singly"] == [1, 1]
    assert all(BUDGET - 1 <= peak <= BUDGET for peak in peaks["together"]), peaks
    assert digests["singly"] == digests["together"]
    assert took["together"] < took["singly"], took
    print(f"{took['together'] / took['singly']:.2f} of the time of one after another: {took}")


def test_a_range_that_is_read_to_find_out_stays_in_the_budget_too(program: ProgramFactory, tmp_path: Path) -> None:
    """While one machine is read, the others test whether theirs can be read."""
    fleet = tuple(MachineSpec(name, disks=(DiskSpec(4 * MiB, allocated_bytes=4 * MiB),)) for name in NAMES[:3])
    simulator, hyper2kvm = program(machines=fleet, rate_bytes_s=4 * MiB)
    configure(hyper2kvm, 1)
    ended = hyper2kvm.export(*NAMES[:3], "-o", tmp_path / "out", "--max-machines", "3", "--source", "datastore")
    assert ended.status == 0, ended.explain()
    assert list(simulator.counters.range_streams_peak.values()) == [1]


def test_a_host_that_is_short_of_buffers_is_spared_and_all_arrives(engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=FLEET[:2], hosts=2, nfc_streams_per_host=2, rate_bytes_s=4 * CAP_BYTES_S)
    specs = [ExportSpec(machine=name, output_dir=tmp_path / name, method=Method.LEASE, retries=1) for name in NAMES[:2]]
    for outcome in ran.export_all(specs):
        result = succeeded(outcome)
        raw = tmp_path / "expected.raw"
        for index, digest in enumerate(result.content.values()):
            ran.simulator.write_raw(result.machine, index, raw)
            assert digest == recomputed_digest(raw)


def calls_of(engine: Engine, machine: str, folder: Path, method: Method) -> int:
    """API calls of one export, including its login."""
    engine.simulator.reset_counters()
    succeeded(engine.export(machine, folder, method=method))
    assert engine.simulator.platform.sessions.all() == []
    return engine.simulator.counters.calls.total()


@pytest.mark.parametrize(("method", "limit"), [(Method.LEASE, 24), (Method.DATASTORE, 14)])
def test_calls_are_few_and_do_not_grow_with_disks_or_inventory(
    method: Method, limit: int, engine: EngineFactory, tmp_path: Path
) -> None:
    one = MachineSpec("one", disks=(DiskSpec(2 * MiB),))
    many = MachineSpec("many", disks=(DiskSpec(2 * MiB),) * 8)
    small, large = engine(machines=(one,)), engine(machines=(many,), vms=200)
    few = calls_of(small, "one", tmp_path / "one", method)
    assert few <= limit
    # The lease is looked at until it is ready, and before each stream.
    per_stream = 1 if method is Method.LEASE else 0
    assert calls_of(large, "many", tmp_path / "many", method) <= few + 7 * per_stream + 4


def test_a_running_machine_costs_one_snapshot(engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(MachineSpec("web-01", power="poweredOn"),))
    before = ran.simulator.state()
    assert calls_of(ran, "web-01", tmp_path / "out", Method.AUTO) <= 40
    calls = ran.simulator.counters.calls
    assert (calls["CreateSnapshot_Task"], calls["RemoveSnapshot_Task"], calls["ExportSnapshot"]) == (1, 1, 1)
    assert calls["Logout"] == calls["Login"] == 1
    assert ran.simulator.state() == before
