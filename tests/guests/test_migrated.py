"""A real guest through `migrate`: converted, proved and started; killed while it is converted, and continued."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hypersdk.simulator.config import DiskSpec, MachineSpec
from tests.support.cli.hyper2kvm import Program
from tests.support.guests.guest import Guest
from tests.support.libvirtd import Libvirtd
from tests.support.simulator import SimulatorFactory

pytestmark = [
    pytest.mark.guests,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.geteuid() != 0, reason="a root tree, and libvirt's system driver, need root"),
]


def test_a_guest_without_virtio_is_moved_though_its_conversion_was_killed(
    simulator: SimulatorFactory,
    libvirtd: Libvirtd,
    debian_without_virtio: Guest,
    guest_folder: Path,
    tmp_path: Path,
) -> None:
    guest = debian_without_virtio
    image = DiskSpec(guest.image.stat().st_size, image=guest.image)
    machine = MachineSpec("web-01", (image,), power="poweredOn", memory_mb=guest.memory_mb, nics=0)
    server = simulator(machines=(machine,))
    program = Program(tmp_path, server)
    words: list[str | Path] = [
        "migrate", "web-01", "--json", "--to", libvirtd.uri, "-o", guest_folder / "out", "--acceleration", "tcg",
        "--power-off", "--start", "--prove", "--prove-marker", guest.marker,
    ]  # fmt: skip
    running = program.start(*words)
    assert running.kill_when(lambda: any(is_at_work(event) for event in running.seen))
    assert server.vm("web-01").power == "poweredOff", "it is held, and `cleanup` would power it on"
    done = program.run(*words, timeout_s=600)
    result = done.result
    assert (result["converted"], result["started"]) == (True, True)
    assert result["proof"]["verdict"] == "marker"
    assert {disk["bus"] for disk in result["domain"]["disks"]} == {"virtio"}
    (plan,) = [event for event in done.seen if event["type"] == "plan"]
    assert (plan["earlier"], plan["export"]) == ("exported", None), "nothing was copied again"
    assert libvirtd.virsh("list", "--name").split() == ["web-01"]
    assert list((guest_folder / "out").glob(".*overlay*")) == []
    assert server.vm("web-01").power == "poweredOff"


def is_at_work(event: dict[str, Any]) -> bool:
    """Whether virt-v2v has begun."""
    return event["type"] == "progress" and event["phase"] == "converting" and event["note"] not in ("", "starting")
