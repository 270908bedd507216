"""Options of a job file without a kind that ask for steps after the export."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from hypersdk.jobs.states import JobState
from hypersdk.landing.guests import open_manifest
from tests.support.moving import Moving, steps
from tests.support.tools import run_tool

LANDED = {"libvirt_integration": True, "libvirt_uri": "kvm", "libvirt_bridge": "network:lan", "libvirt_pool": "images"}
PLAIN: dict[str, Any] = dict.fromkeys(("kind", "to", "networks", "convert", "acceleration"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"enable_pipeline": True}, ["convert", "verify"]),
        ({"enable_pipeline": True, "pipeline_validate": False}, ["convert"]),
        (
            {"enable_pipeline": True, "pipeline_inspect": False, "pipeline_fix": False, "pipeline_convert": False},
            ["verify"],
        ),
        ({"enable_pipeline": True, "pipeline_compress": True, "compress_level": 6}, ["convert", "verify"]),
        (LANDED, ["land"]),
        ({**LANDED, "enable_pipeline": True}, ["convert", "verify", "land", "prove"]),
        ({**LANDED, "enable_pipeline": True, "pipeline_validate": False}, ["convert", "land"]),
    ],
)
def test_options_add_steps(moving: Callable[..., Moving], options: dict[str, Any], expected: list[str]) -> None:
    moved = moving()
    job = moved.submit(**PLAIN, options=options)
    assert (job.kind, list(steps(job))) == ("export", ["copy", "publish", *expected])
    endpoint = moved.site.services.endpoints.get("kvm").id
    assert job.target_endpoint_id == (endpoint if "libvirt_uri" in options else None)


@pytest.mark.parametrize(
    ("options", "code", "field"),
    [
        ({"pipeline_fix": True}, "job_invalid", "options.pipeline_fix"),
        ({"pipeline_compress": True}, "job_invalid", "options.pipeline_compress"),
        ({"enable_pipeline": True, "pipeline_fix": False}, "job_invalid", "options.pipeline_fix"),
        ({"enable_pipeline": True, "pipeline_inspect": False}, "job_invalid", "options.pipeline_inspect"),
        (
            {
                "enable_pipeline": True,
                **dict.fromkeys(("pipeline_inspect", "pipeline_fix", "pipeline_convert", "pipeline_validate"), False),
            },
            "job_invalid",
            "options.enable_pipeline",
        ),
        ({"compress_level": 9}, "job_invalid", "options.compress_level"),
        ({"libvirt_pool": "images"}, "job_invalid", "options.libvirt_pool"),
        ({"libvirt_autostart": True}, "job_invalid", "options.libvirt_autostart"),
        ({"libvirt_integration": True}, "target_not_allowed", None),
        ({**LANDED, "libvirt_bridge": "no bridge"}, "bad_network_map", None),
    ],
)
def test_contradictions_are_named(
    moving: Callable[..., Moving], options: dict[str, Any], code: str, field: str | None
) -> None:
    moved = moving()
    given = {"vm_path": "web-01", "output_path": str(moved.root / "web-01"), "options": options}
    (rejected,) = moved.site.service.submit(json.dumps(given), "application/json", None).rejected
    assert (rejected.error.code, rejected.error.fields.get("field")) == (code, field)


def test_another_format_than_qcow2_is_refused(moving: Callable[..., Moving]) -> None:
    moved = moving()
    given = {"vm_path": "web-01", "output_path": str(moved.root / "a"), "options": {"enable_pipeline": True}}
    for image, accepted in ((None, True), ("qcow2", True), ("ovf", False)):
        text = json.dumps({**given, "format": image})
        assert bool(moved.site.service.submit(text, "application/json", None).accepted) is accepted


@pytest.mark.waits
def test_a_machine_is_exported_and_converted_and_lands_nowhere(moving: Callable[..., Moving]) -> None:
    moved = moving()
    moved.site.start("one", 0, "marking")
    options = {"enable_pipeline": True, "pipeline_compress": True, "source": "power-off"}
    job = moved.submit(**PLAIN, options=options)
    before = moved.site.simulator.state()
    now = moved.ended(job)
    assert now.result is not None
    assert set(steps(now).values()) == {"done"}
    manifest = open_manifest(moved.root / "web-01")
    assert (manifest.pipeline.convert.enabled, now.result["verified"]) == (True, True)
    assert (moved.libvirtd.domains(), moved.site.simulator.state()) == ([], before)
    assert "report.html" in now.result["evidence"]


@pytest.mark.waits
def test_compression_alone_adds_no_step_and_is_done(moving: Callable[..., Moving]) -> None:
    moved = moving()
    moved.site.start("one", 0, "marking")
    off = dict.fromkeys(("pipeline_inspect", "pipeline_fix", "pipeline_convert", "pipeline_validate"), False)
    options = {"enable_pipeline": True, **off, "pipeline_compress": True, "source": "power-off"}
    now = moved.ended(moved.submit(**PLAIN, options=options))
    assert (list(steps(now)), now.target_changes) == (["copy", "publish"], 0)
    (image,) = (moved.root / "web-01").glob("*.qcow2")
    assert json.loads(run_tool("qemu-img", "check", "--output=json", image))["compressed-clusters"]


@pytest.mark.waits
def test_a_machine_is_landed_by_the_options(moving: Callable[..., Moving]) -> None:
    moved = moving()
    moved.libvirtd.virsh("pool-create-as", "images", "dir", "--target", moved.folder("pool"))
    moved.site.start("one", 0, "marking")
    options = {**LANDED, "enable_pipeline": True, "pipeline_validate": False, "libvirt_autostart": True}
    job = moved.submit(**PLAIN, options={**options, "source": "power-off"})
    now = moved.ended(job)
    assert now.result is not None
    assert (moved.libvirtd.domains(), moved.power(), now.result["converted"]) == (["web-01"], "poweredOff", True)
    assert all(disk.startswith(str(moved.root / "pool")) for disk in now.result["disks"])
    assert moved.libvirtd.virsh("list", "--all", "--autostart", "--name").split() == ["web-01"]


@pytest.mark.waits
def test_damage_to_the_images_is_found_before_they_are_landed(moving: Callable[..., Moving]) -> None:
    moved = moving()
    moved.libvirtd.virsh("pool-create-as", "images", "dir", "--target", moved.folder("pool"))
    moved.site.start("one", 0, "damaging")
    job = moved.submit(**PLAIN, options={**LANDED, "enable_pipeline": True})
    now = moved.ended(job, JobState.FAILED)
    assert now.error is not None
    assert (now.error["code"], steps(now)["verify"]) == ("verify_flipped", "failed")
    assert moved.libvirtd.domains() == []
    assert now.result is not None
    assert "report.html" in now.result["evidence"]
    assert "verify_flipped" in (moved.root / "web-01" / "report.html").read_text()
