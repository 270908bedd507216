"""Faults that an export survives: the same content, proved where the server can, and the source restored."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import pytest

from hypersdk.errors import Refused
from hypersdk.migration.copying import UNPROVED_RANGES, UNPROVED_UNVERIFIABLE, MachineCopy
from hypersdk.migration.proof import PROVED
from hypersdk.migration.publish import ExportResult
from hypersdk.migration.runfile import DiskRecord
from hypersdk.migration.spec import Compression, Method, OutputFormat
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import KiB, MiB
from hypersdk.vsphere.faults import LICENSE_REFUSES_EXPORT
from tests.support.exportchecks import assert_finished, assert_holds, expected_raw, manifest_of
from tests.support.exporter import Engine, EngineFactory, succeeded

MACHINE: Final = MachineSpec(
    "web-01", disks=(DiskSpec(24 * MiB + 512, allocated_bytes=12 * MiB), DiskSpec(8 * MiB, controller="lsilogic"))
)
HALF: Final = 3 * MiB
"""An offset in the middle of the first disk's stream."""


@dataclass(frozen=True)
class Case:
    """A fault, and how often its disk is opened as a result."""

    name: str
    fault: Fault
    opened: int = 2
    settings: tuple[tuple[str, Any], ...] = ()


STREAM_CASES: Final = (
    Case("reset", Fault(FaultKind.RESET, disk="web-01:0", after_bytes=HALF)),
    Case("reset at once", Fault(FaultKind.RESET, disk="web-01:0")),
    Case("reset twice", Fault(FaultKind.RESET, disk="web-01:0", after_bytes=HALF, times=2), opened=3),
    Case("disconnect", Fault(FaultKind.DISCONNECT, disk="web-01:0", after_bytes=HALF)),
    Case("short body", Fault(FaultKind.SHORT, disk="web-01:0", after_bytes=HALF)),
    Case("status 500", Fault(FaultKind.STATUS, disk="web-01:0", status=500)),
    Case("status 503", Fault(FaultKind.STATUS, disk="web-01:0", status=503, retry_after_s=2)),
    Case("failed to allocate", Fault(FaultKind.NFC_EXHAUSTED, disk="web-01:0")),
    Case(
        "stall",
        Fault(FaultKind.STALL, disk="web-01:0", after_bytes=HALF, seconds=30),
        settings=(("stall_timeout_s", 0.7),),
    ),
    Case("slow stream", Fault(FaultKind.SLOW, disk="web-01:0", rate=4 * MiB), opened=1),
)


def survives(engine: Engine, tmp_path: Path, **spec: Any) -> ExportResult:
    """Exports ``web-01`` and verifies the result; the source is restored."""
    before = engine.simulator.state()
    folder = tmp_path / "out"
    result = succeeded(engine.export("web-01", folder, **spec))
    assert_holds(
        folder, expected_raw(engine.simulator, "web-01", tmp_path / "expected"), result.content, tmp_path / "judged"
    )
    assert_finished(folder)
    assert engine.simulator.state() == before
    assert engine.simulator.platform.sessions.all() == []
    return result


@pytest.mark.parametrize("case", STREAM_CASES, ids=lambda case: case.name)
def test_a_broken_stream_of_a_lease(case: Case, engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(MACHINE,), settings=dict(case.settings))
    ran.simulator.set_faults(case.fault)
    assert survives(ran, tmp_path, method=Method.LEASE).proof == PROVED
    assert ran.simulator.faults.applied[case.fault.kind] == (case.fault.times or 0)
    assert ran.simulator.counters.opened == {"web-01:0": case.opened, "web-01:1": 1}
    assert ran.simulator.counters.calls["ExportVm"] == 1


@pytest.mark.parametrize("case", STREAM_CASES, ids=lambda case: case.name)
def test_a_broken_range_of_a_datastore(case: Case, engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(MACHINE,), settings=dict(case.settings))
    # The first request for a disk is a probe of one sector; the fault is for what comes after it.
    times = None if case.fault.kind is FaultKind.SLOW else 2
    ran.simulator.set_faults(
        Fault(**{**_fields(case.fault), "times": times, "after_bytes": min(case.fault.after_bytes, KiB)})
    )
    assert survives(ran, tmp_path, method=Method.DATASTORE, retries=4).proof == UNPROVED_RANGES
    assert ran.simulator.counters.calls["ExportVm"] == 0


def _fields(fault: Fault) -> dict[str, Any]:
    return {name: getattr(fault, name) for name in Fault.__slots__}


def test_the_server_is_given_the_time_that_it_asks_for(engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(MACHINE,))
    ran.simulator.set_faults(Fault(FaultKind.STATUS, disk="web-01:0", status=503, retry_after_s=4))
    began = time.monotonic()
    survives(ran, tmp_path)
    assert time.monotonic() - began >= 4


@pytest.mark.parametrize(
    "kind", [FaultKind.LEASE_TIMEOUT, FaultKind.SESSION_EXPIRY], ids=["lease time-out", "session expiry"]
)
def test_a_lost_lease_is_replaced(kind: FaultKind, engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(MACHINE,))
    ran.simulator.set_faults(Fault(kind, disk="web-01:0", after_bytes=HALF))
    result = survives(ran, tmp_path, method=Method.LEASE, parallel=1)
    assert result.proof == PROVED
    assert ran.simulator.counters.calls["ExportVm"] == 2
    assert ran.simulator.counters.opened == {"web-01:0": 2, "web-01:1": 1}


def test_a_disk_that_was_whole_before_the_lease_was_lost_is_not_called_proved(
    engine: EngineFactory, tmp_path: Path
) -> None:
    ran = engine(machines=(MACHINE,))
    ran.simulator.set_faults(Fault(FaultKind.LEASE_TIMEOUT, disk="web-01:1", after_bytes=MiB))
    result = survives(ran, tmp_path, method=Method.LEASE, parallel=1)
    assert result.proof == UNPROVED_UNVERIFIABLE
    assert ran.simulator.counters.opened == {"web-01:0": 1, "web-01:1": 2}


def test_a_session_that_ends_between_two_calls(engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(MACHINE,))
    ran.simulator.set_faults(
        *(Fault(FaultKind.SESSION_EXPIRY, method=method) for method in ("ExportVm", "HttpNfcLeaseGetManifest"))
    )
    survives(ran, tmp_path, method=Method.LEASE)


@pytest.mark.parametrize("method", [Method.LEASE, Method.DATASTORE])
def test_a_session_that_expires_in_the_middle_of_ranges_or_streams(
    method: Method, engine: EngineFactory, tmp_path: Path
) -> None:
    ran = engine(machines=(MACHINE,))
    ran.simulator.set_faults(Fault(FaultKind.SESSION_EXPIRY, disk="web-01:0", after_bytes=MiB, times=2))
    survives(ran, tmp_path, method=method)


@pytest.mark.parametrize("file_size", ["absent", "present"])
def test_the_size_may_be_told_or_not(file_size: str, engine: EngineFactory, tmp_path: Path) -> None:
    assert survives(engine(machines=(MACHINE,), file_size=file_size), tmp_path).proof == PROVED


def test_a_size_that_is_wrong_is_not_believed(engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(MACHINE,))
    ran.simulator.set_faults(Fault(FaultKind.FILE_SIZE_WRONG, times=None))
    survives(ran, tmp_path)
    assert all(disk.fraction <= 1 for progress in ran.seen for disk in progress.disks)


@pytest.mark.parametrize("manifest", ["sha256", "sha1"])
def test_the_server_proves_with_what_it_has(manifest: str, engine: EngineFactory, tmp_path: Path) -> None:
    assert survives(engine(machines=(MACHINE,), manifest=manifest), tmp_path).proof == PROVED


def test_a_server_without_a_manifest_is_said_to_prove_nothing(engine: EngineFactory, tmp_path: Path) -> None:
    assert (
        survives(engine(machines=(MACHINE,), manifest="absent"), tmp_path).proof
        == "unproved: the server gave no manifest"
    )


@pytest.mark.parametrize("output", [OutputFormat.OVF, OutputFormat.OVA, OutputFormat.VMDK, OutputFormat.QCOW2], ids=str)
def test_unchecked_blocks_are_proved_by_the_servers_manifest_or_by_nothing(
    output: OutputFormat, engine: EngineFactory, tmp_path: Path
) -> None:
    """The plan says so before, the result and the manifest after."""
    for manifest, folder in (("sha256", tmp_path / "proved"), ("absent", tmp_path / "unproved")):
        ran = engine(machines=(MACHINE,), manifest=manifest)
        result = succeeded(ran.export("web-01", folder, format=output, compress=Compression.UNCHECKED))
        written = manifest_of(folder)
        assert {disk["hypersdk"]["content_digest"] for disk in written["disks"]} == {None}
        assert written["metadata"]["hypersdk"]["proof"] == result.proof
        told = [warning["message"] for warning in written["warnings"]]
        assert (
            "the blocks are not checked: only the server's manifest proves the copy, where the server has one" in told
        )
        assert (result.proof == PROVED) == (manifest == "sha256")
        if manifest == "absent":
            assert result.proof == "unproved: the server gave no manifest, and the blocks were not checked"
            assert f"nothing proves that the copy is intact; {result.proof}" in told


def test_a_host_that_cannot_be_reached_is_gone_round_and_that_is_said(engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(MACHINE,))
    ran.simulator.set_faults(Fault(FaultKind.UNREACHABLE))
    result = survives(ran, tmp_path)
    routes = [disk["hypersdk"]["route"] for disk in manifest_of(tmp_path / "out")["disks"]]
    assert all(" via " in route for route in routes), routes
    assert any("could not be reached directly" in warning for warning in result.warnings)
    assert sum(ran.simulator.counters.via_vcenter.values()) == 2


def test_a_licence_without_export_leaves_the_datastore(engine: EngineFactory, tmp_path: Path) -> None:
    ran = engine(machines=(MACHINE,), free_licence=True)
    result = survives(ran, tmp_path)
    assert result.proof == UNPROVED_RANGES
    assert any("datastore was read instead" in warning for warning in result.warnings)


@pytest.mark.parametrize("power", ["poweredOff", "poweredOn"])
def test_a_virtual_tpm_leaves_the_datastore(
    engine: EngineFactory, tmp_path: Path, power: Literal["poweredOff", "poweredOn"]
) -> None:
    """Running, it is read below its snapshot."""
    ran = engine(machines=(replace(MACHINE, tpm=True, firmware="efi", power=power),))
    result = survives(ran, tmp_path)
    assert result.proof == UNPROVED_RANGES
    assert any("recovery key" in warning for warning in result.warnings)
    manifest = manifest_of(tmp_path / "out")
    assert manifest["metadata"]["hypersdk"]["tpm"] is True


def test_a_lease_that_is_refused_half_way_leaves_the_rest_to_the_datastore(
    engine: EngineFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished disk is not copied again."""
    ran, copy_lease = engine(machines=(MACHINE,)), MachineCopy._copy_lease

    def refuses(copy: MachineCopy, pending: Sequence[DiskRecord], cancel: CancelToken) -> None:
        copy_lease(copy, pending[:1], cancel)
        raise Refused("no more of it", code=LICENSE_REFUSES_EXPORT)

    monkeypatch.setattr(MachineCopy, "_copy_lease", refuses)
    assert survives(ran, tmp_path).proof == UNPROVED_RANGES
    assert dict(ran.simulator.counters.opened) == {"web-01:0": 1}
    assert len(ran.simulator.counters.ranges) == 1


def test_a_host_with_little_room_gets_fewer_streams(engine: EngineFactory, tmp_path: Path) -> None:
    disks = tuple(DiskSpec(16 * MiB, allocated_bytes=12 * MiB) for _ in range(4))
    ran = engine(machines=(MachineSpec("web-01", disks=disks),), nfc_streams_per_host=1, rate_bytes_s=8 * MiB)
    survives(ran, tmp_path, method=Method.LEASE, retries=1)


def stalled_lease(engine: EngineFactory, tmp_path: Path, *, lease_s: float, disk_s: float, stall_s: float) -> None:
    """A disk that takes ``disk_s`` at its rate, whose data stop for ``stall_s`` in the middle, under a lease of
    ``lease_s``."""
    size = 24 * MiB
    ran = engine(
        machines=(MachineSpec("web-01", disks=(DiskSpec(size, allocated_bytes=size),)),), lease_timeout_s=lease_s
    )
    ran.simulator.set_faults(
        Fault(FaultKind.SLOW, rate=int(size * 0.6 / disk_s)),
        Fault(FaultKind.STALL, after_bytes=size // 4, seconds=stall_s),
    )
    began = time.monotonic()
    assert survives(ran, tmp_path, method=Method.LEASE).proof == PROVED
    assert time.monotonic() - began > stall_s
    assert ran.simulator.counters.calls["ExportVm"] == 1, "the lease was lost"
    assert ran.simulator.counters.opened == {"web-01:0": 1}


@pytest.mark.slow
def test_a_lease_lives_on_while_no_data_flow(engine: EngineFactory, tmp_path: Path) -> None:
    stalled_lease(engine, tmp_path, lease_s=2, disk_s=3, stall_s=5)


@pytest.mark.slow
def test_a_lease_of_two_seconds_outlives_a_disk_of_twenty_that_stalls_for_ten(
    engine: EngineFactory, tmp_path: Path
) -> None:
    stalled_lease(engine, tmp_path, lease_s=2, disk_s=20, stall_s=10)
