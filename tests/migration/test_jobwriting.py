"""Job files that are written are read as what was meant, whatever the names are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hypersdk.errors import UsageError
from hypersdk.migration.jobfile import MAX_JOBS, load_jobs
from hypersdk.migration.jobwriting import job_text, write_new
from hypersdk.migration.spec import Compression, ExportSpec, FileHash, Method, OutputFormat, SourceState
from hypersdk.model import MachineSummary
from hypersdk.vsphere.inventory import find_machine
from hypersdk.vsphere.paths import encode_name
from tests.support.inventories import machine

NAMES = st.text(min_size=1, max_size=80)


def named(names: list[str]) -> list[MachineSummary]:
    return [
        machine(number, name=name, path=f"/DC/vm/folder {number % 3}/{encode_name(name)}")
        for number, name in enumerate(names)
    ]


@given(names=st.lists(NAMES, min_size=1, max_size=5), as_json=st.booleans())
@example(names=["line\nfeed", "vm-0"], as_json=False)
def test_each_machine_is_found_again_whatever_its_name(names: list[str], as_json: bool) -> None:
    machines = named(names)
    specs = [ExportSpec(machine=row.moref, output_dir=Path("/srv/images") / row.moref) for row in machines]
    entries = load_jobs(job_text(specs, machines, as_json=as_json, heading="a\n\x1bb: [c"), environ={})
    for spec, entry in zip(specs, entries, strict=True):
        assert entry.definition is not None, entry.error
        read = entry.definition.to_spec()
        assert find_machine(machines, read.machine).moref == spec.machine
        assert (read.output_dir, read.format) == (spec.output_dir, spec.format)


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"format": OutputFormat.OVA, "state": SourceState.POWER_OFF},
        {"compress": Compression.REPACK, "method": Method.DATASTORE, "state": SourceState.SHUTDOWN},
        {"state": SourceState.SNAPSHOT, "snapshot": "before: 'update' #1"},
        {"state": SourceState.SNAPSHOT, "snapshot": "new", "remove_cdrom": True},
        {"exclude_disks": ("2", "Hard disk 3"), "parallel": 7},
        {"file_hash": FileHash.SHA256},
        {"file_hash": FileHash.NONE},
    ],
)
def test_what_is_asked_for_is_what_is_read(changes: dict[str, object], as_json: bool) -> None:
    machines = named(["web-01"])
    spec = replace(ExportSpec(machine="vm-0", output_dir=Path("/srv/x y")), **changes)  # type: ignore[arg-type]
    (entry,) = load_jobs(job_text([spec], machines, as_json=as_json), environ={})
    assert entry.definition is not None, entry.error
    assert entry.definition.to_spec() == replace(spec, machine=machines[0].path, job_name="web-01")


def test_more_jobs_than_a_file_may_have_are_refused() -> None:
    machines = named([str(number) for number in range(MAX_JOBS + 1)])
    specs = [ExportSpec(machine=row.moref, output_dir=Path("/x")) for row in machines]
    with pytest.raises(UsageError, match="more than"):
        job_text(specs, machines, as_json=True)


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(UsageError) as caught:
        write_new(tmp_path / "a", "theirs")
    assert caught.value.code == "file_exists"
    assert (tmp_path / "a").read_text() == "mine"
    write_new(tmp_path / "b", "text")
    assert (tmp_path / "b").read_text() == "text"
