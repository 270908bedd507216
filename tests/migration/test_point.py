from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import TypeAdapter

from hypersdk.errors import SourceError
from hypersdk.migration.point import PointInTime, point_of
from hypersdk.model import Power
from tests.support.machines import make_disk, make_machine, make_snapshot


def test_a_machine_that_nobody_touched_is_at_the_same_point() -> None:
    assert point_of(make_machine(), None).difference(point_of(make_machine(), None)) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"change_version": "v2"}, "reconfigured"),
        ({"boot_time": datetime(2026, 1, 1, tzinfo=UTC)}, "powered on"),
        ({"disks": (make_disk(file="[ds1] vm/vm-000001.vmdk"),)}, "no longer the same files"),
        ({"disks": (make_disk(change_id="52/9"),)}, "no longer the same files"),
        ({"change_version": None}, "reconfigured"),
    ],
)
def test_what_changes_the_bytes_changes_the_point(changes: dict[str, Any], reason: str) -> None:
    before, after = point_of(make_machine(), None), point_of(make_machine(**changes), None)
    assert reason in (before.difference(after) or "")
    assert before.identity(2000) != after.identity(2000) or "disks" in changes


def test_without_a_change_version_nothing_is_proved() -> None:
    point = point_of(make_machine(change_version=None), None)
    assert point.difference(point) is not None


def test_a_moref_given_out_again_is_another_machine() -> None:
    machine = make_machine()
    other = replace(machine, summary=replace(machine.summary, instance_uuid="52000000-0000-0000-0000-000000000009"))
    assert "another machine" in (point_of(machine, None).difference(point_of(other, None)) or "")


def test_a_snapshot_stands_still_while_the_machine_moves_on() -> None:
    before = make_machine(power=Power.ON, snapshots=(make_snapshot(),))
    after = replace(before, change_version="v9", boot_time=datetime(2026, 5, 5, tzinfo=UTC))
    assert point_of(before, "snapshot-7").difference(point_of(after, "snapshot-7")) is None
    assert point_of(before, "snapshot-7").difference(point_of(make_machine(), None)) is not None


def test_a_running_machine_without_snapshot_and_a_vanished_snapshot_are_no_points() -> None:
    for machine, snapshot in ((make_machine(power=Power.ON), None), (make_machine(), "snapshot-8")):
        with pytest.raises(SourceError) as caught:
            point_of(machine, snapshot)
        assert caught.value.code == "source_changed"


def test_the_token_survives_json() -> None:
    point = point_of(make_machine(boot_time=datetime(2026, 1, 1, tzinfo=UTC)), None)
    stored = TypeAdapter(PointInTime)
    assert stored.validate_json(stored.dump_json(point)) == point
