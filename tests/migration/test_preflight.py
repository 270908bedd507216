from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hypersdk.cli.remedies import next_step
from hypersdk.errors import CODES, LookupFailed, Refused, TargetError
from hypersdk.migration import preflight
from hypersdk.migration.naming import disk_file_name, foreign_files, refuse_foreign, select_disks, stem_of, stem_of_run
from hypersdk.migration.preflight import (
    MinFreeSpace,
    datastore_refusals,
    machine_refusals,
    raise_if_any,
    wants_snapshot,
    warnings_for,
)
from hypersdk.migration.runfile import DiskRecord, RunRecord
from hypersdk.migration.spec import Compression, ExportSpec, OutputFormat, SourceState
from hypersdk.model import Backing, Machine, Power
from hypersdk.remedies import ExcludeDisk
from hypersdk.units import GiB, TiB
from hypersdk.vsphere.machine import DatastoreFacts
from tests.support.machines import make_disk, make_machine, make_snapshot


def spec(**changes: object) -> ExportSpec:
    return ExportSpec(machine="web-01", output_dir=Path("out"), **changes)  # type: ignore[arg-type]


def codes(machine: Machine, **changes: object) -> list[str]:
    return [refusal.code for refusal in machine_refusals(machine, spec(**changes), machine.disks)]


@pytest.mark.parametrize(
    ("machine", "code"),
    [
        (make_machine(disks=()), "no_disks"),
        (make_machine(disks=(make_disk(backing=Backing.RDM_PHYSICAL),)), "rdm_physical"),
        (make_machine(disks=(make_disk(shared=True),)), "shared_disk"),
        (make_machine(disks=(make_disk(encrypted=True),)), "encrypted_machine"),
        (make_machine(disks=(make_disk(independent=True),), power=Power.ON), "independent_disk"),
        (make_machine(power=Power.SUSPENDED), "machine_suspended"),
        (make_machine(busy_with="Relocate virtual machine"), "machine_busy"),
        (make_machine(unreachable_datastores=("ds1",)), "datastore_unreachable"),
        (make_machine(power=Power.ON, consolidation_needed=True), "consolidation_needed"),
    ],
)
def test_refuses_by_name(machine: Machine, code: str) -> None:
    assert codes(machine) == [code]
    assert next_step(CODES[code])


def told(machine: Machine, wanted: ExportSpec) -> str:
    return " ".join(warning.text for warning in warnings_for(machine, wanted))


def test_the_disk_that_may_be_left_out_is_named() -> None:
    disk = make_disk(shared=True)
    (refusal,) = machine_refusals(make_machine(disks=(disk,)), spec(), (disk,))
    assert ExcludeDisk(disk.label) in refusal.remedies
    assert f"leave '{disk.label}' out with --exclude-disk" in next_step(refusal)


def test_a_plain_machine_is_not_refused() -> None:
    assert codes(make_machine()) == []
    assert codes(make_machine(power=Power.ON)) == []
    assert codes(make_machine(disks=(make_disk(independent=True),))) == []
    assert codes(make_machine(unreachable_datastores=("elsewhere",))) == []


def test_all_reasons_are_told_at_once() -> None:
    machine = make_machine(busy_with="Relocate", disks=(make_disk(shared=True),))
    with pytest.raises(Refused) as caught:
        raise_if_any(machine.name, list(machine_refusals(machine, spec(), machine.disks)))
    assert [reason.code for reason in caught.value.reasons] == ["machine_busy", "shared_disk"]
    assert "machine_busy: " in next_step(caught.value)


def test_only_a_running_machine_wants_a_snapshot() -> None:
    on, off = make_machine(power=Power.ON), make_machine()
    assert wants_snapshot(on, spec())
    assert not wants_snapshot(off, spec())
    assert not wants_snapshot(on, spec(state=SourceState.POWER_OFF))
    assert wants_snapshot(off, spec(state=SourceState.SNAPSHOT, snapshot="new"))
    assert not wants_snapshot(on, spec(state=SourceState.SNAPSHOT, snapshot="before"))


def test_the_floor_is_the_larger_of_the_two() -> None:
    assert MinFreeSpace().of(100 * GiB) == 20 * GiB
    assert MinFreeSpace().of(1 * TiB) == int(0.1 * TiB)
    full = DatastoreFacts("datastore-1", "ds1", 100 * GiB, 19 * GiB, True)
    fine = DatastoreFacts("datastore-2", "ds2", 100 * GiB, 21 * GiB, True)
    assert [refusal.message for refusal in datastore_refusals([full, fine], MinFreeSpace())] == [
        "datastore 'ds1' has 19.0 GiB free; 20.0 GiB must stay free while a snapshot is held"
    ]


def test_warnings_say_what_the_copy_is_of() -> None:
    running = make_machine(power=Power.ON, snapshots=(make_snapshot(), make_snapshot("after", depth=1)))
    texts = told(running, spec())
    assert "2 snapshots, 2 deep" in texts
    assert "crash-consistent" not in texts
    silent = replace(running, guest=replace(running.guest, tools_running=False))
    assert "crash-consistent" in told(silent, spec())
    assert "crash-consistent" in told(running, spec(quiesce=False))


def test_a_tpm_and_an_encrypted_home_refuse_no_disk() -> None:
    machine = make_machine(has_vtpm=True, encrypted=True)
    assert codes(machine) == []
    texts = told(machine, spec())
    assert "recovery key" in texts
    assert "its disks are not" in texts


def test_numbers_follow_controller_and_unit_and_do_not_move() -> None:
    disks = [
        make_disk(3, controller_key=15000, unit_number=0),
        make_disk(1, controller_key=1000, unit_number=4),
        make_disk(2, controller_key=1000, unit_number=1),
    ]
    assert [(number, disk.label) for number, disk in select_disks("vm", disks, [])] == [
        (1, "Hard disk 2"),
        (2, "Hard disk 1"),
        (3, "Hard disk 3"),
    ]
    assert [number for number, _ in select_disks("vm", disks, ["hard DISK 1"])] == [1, 3]
    assert [number for number, _ in select_disks("vm", disks, ["1", "2002"])] == [2]
    with pytest.raises(LookupFailed) as caught:
        select_disks("vm", disks, ["Hard disk 9"])
    assert caught.value.code == "no_such_disk"


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("web-01", "web-01"),
        ("a/b%2f", "a_b%2f"),
        ("..", "machine"),
        ("-rf", "rf"),
        ("  x ", "x"),
        ("ü" * 200, "ü" * 90),
        ("a\nb\\c", "a_b_c"),
    ],
)
def test_file_names_are_safe(name: str, stem: str) -> None:
    assert stem_of(name) == stem
    assert len(disk_file_name(stem_of(name), 64, OutputFormat.QCOW2).encode()) + len(".partial.blocks") < 255


def test_another_export_in_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert foreign_files(tmp_path) == []
    (tmp_path / "old-disk1.qcow2").write_bytes(b"")
    with pytest.raises(TargetError) as caught:
        refuse_foreign(tmp_path, foreign_files(tmp_path))
    assert caught.value.code == "foreign_output"
    assert foreign_files(tmp_path / "absent") == []


@pytest.mark.parametrize(
    ("capacity", "refused"),
    [
        (0, True),
        (-512, True),
        (1, True),
        (513, True),
        (512, False),
        (62 * TiB, False),
        (64 * TiB + 512, True),
        (2**63, True),
    ],
)
def test_a_size_that_no_disk_can_have_is_refused(capacity: int, refused: bool) -> None:
    disk = make_disk(2, capacity_bytes=capacity)
    machine = make_machine(disks=(make_disk(1), disk))
    codes = [refusal.code for refusal in preflight.capacity_refusals(machine, machine.disks)]
    assert codes == ["disk_capacity"] * refused


@pytest.mark.parametrize("machine", ["web-01", "a\u202eb", "tail\x85", ".-x"])
@pytest.mark.parametrize("output", OutputFormat)
def test_a_run_of_another_release_keeps_the_names_of_its_files(machine: str, output: OutputFormat) -> None:
    """Their stem was made by another rule."""
    earlier = f"{machine}-disk2"
    disks = [DiskRecord(2000 + n, "", disk_file_name(earlier, n, output), 1) for n in (3, 4)]
    run = RunRecord(
        "id",
        "e",
        "vm-1",
        machine,
        Path("/x"),
        OutputFormat.QCOW2,
        Compression.NONE,
        "2026-01-01T00:00:00+00:00",
        disks=disks,
    )
    assert stem_of_run(run) == earlier
    run.disks = []
    assert stem_of_run(run) == stem_of(machine)
