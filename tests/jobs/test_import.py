"""Jobs of the kind `import`: local images and exports onto a real libvirtd, by worker processes that may die."""

from __future__ import annotations

import json
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.states import JobState
from hypersdk.landing.guests import open_manifest
from tests.support.guests.bootsectors import boot_sector_guest
from tests.support.guests.guest import MARKER
from tests.support.moving import Moving, steps
from tests.support.seeds import SEED

pytestmark = pytest.mark.waits

PROVED: Final[dict[str, Any]] = {"prove": True, "prove_marker": MARKER, "start": True, "new_macs": True}
MACHINE: Final[dict[str, Any]] = {"cpus": 1, "memory": "64MiB"}


def import_image(moved: Moving, **fields: Any) -> JobRecord:
    """A job that imports the image ``web.img``, which lies in the root."""
    image = moved.root / "web.img"
    if not image.exists():
        shutil.copyfile(boot_sector_guest("marker").image, image)
    given = {"kind": "import", "vm_path": None, "source": str(image), "domain": "web", **MACHINE, **fields}
    return moved.submit("web", **given)


def test_an_image_becomes_a_running_machine(moving: Callable[..., Moving]) -> None:
    moved = moving()
    moved.site.start("one", 0, "marking")
    job = import_image(moved, convert=True, metadata={"ticket": 4711}, **PROVED)
    assert list(steps(job)) == ["images", "convert", "land", "prove", "start"]
    assert (job.kind, job.subject, job.target) == ("import", str(moved.root / "web.img"), str(moved.root / "web"))
    now = moved.ended(job)
    assert now.result is not None
    assert set(steps(now).values()) == {"done"}
    assert (now.result["proof"]["verdict"], now.result["started"], moved.running()) == ("marker", True, ["web"])
    manifest = open_manifest(moved.root / "web")
    assert (manifest.metadata.tags["ticket"], manifest.metadata.job_id) == ("4711", job.id)
    assert manifest.metadata.hypersdk is not None
    assert manifest.metadata.hypersdk.landed is not None
    assert {"report.html", "screenshot.png", "serial.log"} <= set(now.result["evidence"])
    page = (moved.root / "web" / "report.html").read_text()
    assert MARKER in page
    assert "data:image/png" in page
    again = moved.ended(import_image(moved, convert=True, **PROVED))
    assert again.result is not None
    assert again.result["uuid"] == now.result["uuid"], "what is landed is not landed again"


def test_the_folder_of_an_export_is_landed_where_it_lies(moving: Callable[..., Moving]) -> None:
    moved = moving()
    moved.site.worker()
    exported = moved.submit(
        "web-01", kind=None, to=None, networks=None, convert=None, acceleration=None, format="qcow2"
    )
    moved.ended(exported)
    fields: dict[str, Any] = {"kind": "import", "vm_path": None, "output_path": None, "source": exported.target}
    job = moved.submit("web-01", **fields, start=True)
    assert list(steps(job)) == ["land", "start"]
    failed = moved.ended(job, JobState.FAILED)
    assert failed.error is not None
    assert (failed.error["code"], moved.libvirtd.domains()) == ("source_not_checked", [])
    done = moved.ended(moved.submit("web-01", **fields, start=True, source_off=True))
    assert done.result is not None
    assert (moved.running(), done.result["output_dir"]) == (["web-01"], exported.target)


def test_a_failed_import_is_paused_and_retried_without_making_its_images_again(moving: Callable[..., Moving]) -> None:
    moved = moving()
    go_on = moved.site.folder / "go-on"
    moved.site.start("one", 0, f"marking-until={go_on}")
    job = import_image(moved, convert=True)
    moved.until_step(job, "convert", "running")
    other = moved.site.folder / "other.xml"
    other.write_text(
        "<domain type='qemu'><name>web</name><memory>1024</memory><os><type arch='x86_64'>hvm</type></os></domain>"
    )
    moved.libvirtd.virsh("define", other)
    moved.site.store.pause(job.id)
    go_on.touch()
    paused = moved.site.until_state(job, JobState.PAUSED)
    assert [name for name, state in steps(paused).items() if state == "done"] == ["images", "convert"]
    moved.site.store.resume(job.id)
    failed = moved.ended(job, JobState.FAILED)
    assert failed.error is not None
    assert failed.result is not None
    assert failed.error["code"] == "domain_exists"
    assert "report.html" in failed.result["evidence"]
    assert "domain_exists" in (moved.root / "web" / "report.html").read_text()
    moved.libvirtd.virsh("undefine", "web")
    (moved.root / "web.img").unlink()
    moved.site.store.retry(job.id)
    assert set(steps(moved.ended(job)).values()) == {"done"}
    assert moved.libvirtd.domains() == ["web"]


@pytest.mark.parametrize("moment", ["images", "convert", "prove"])
def test_a_cancel_leaves_nothing_at_the_target(moving: Callable[..., Moving], moment: str) -> None:
    moved = moving()
    moved.site.start("one", 0, "marking-for-long")
    proof: dict[str, Any] = {"prove": True, "prove_marker": "never printed", "prove_timeout": 300}
    job = import_image(moved, convert=moment != "prove", **proof)
    if moment != "images":  # a cancel comes whenever it likes in the first step
        moved.until_step(job, moment, "running")
    moved.site.store.cancel(job.id)
    now = moved.ended(job, JobState.CANCELLED)
    assert (moved.libvirtd.domains(), now.target_changes) == ([], 0)
    left = [path.name for path in (moved.root / "web").iterdir() if "overlay" in path.name or "partial" in path.name]
    assert left == []


@pytest.mark.kill
@pytest.mark.parametrize("part", range(3))
def test_a_worker_that_is_killed_costs_nothing(moving: Callable[..., Moving], part: int) -> None:
    moved = moving()
    moment = random.Random(f"{SEED}{part}").randrange(part * 9, (part + 1) * 9)
    dying = moved.site.start("one", 0, "marking", f"die-at={moment}")
    job = import_image(moved, convert=True, **PROVED)
    assert dying.process.wait(120) == -signal.SIGKILL, moved.site.told()
    moved.site.start("one", 1, "marking")
    now = moved.ended(job)
    assert (moved.libvirtd.domains(), moved.running(), now.target_changes) == (["web"], ["web"], 0)
    left = [path.name for path in (moved.root / "web").iterdir() if "overlay" in path.name or "partial" in path.name]
    assert left == [], moment


@pytest.mark.parametrize("link", ["file", "folder", "to_folder"])
def test_a_link_leads_nowhere(moving: Callable[..., Moving], tmp_path: Path, link: str) -> None:
    """Whoever may write in a root cannot have the daemon read what lies elsewhere."""
    moved = moving()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "web.img").write_bytes(b"secret")
    source = moved.root / "web.img"
    if link == "folder":
        (moved.root / "link").symlink_to(outside)
        source = moved.root / "link" / "web.img"
    else:
        source.symlink_to(outside / "web.img" if link == "file" else outside)
    moved.site.worker()
    failed = moved.ended(
        import_image(moved, source=str(source)) if link == "folder" else import_image(moved), JobState.FAILED
    )
    assert failed.error is not None
    assert failed.error["code"] == ("folder_is_link" if link == "folder" else "bad_format")
    assert list((moved.root / "web").iterdir()) == [] or link == "folder"


def test_a_folder_with_the_name_of_a_package_is_not_taken_for_an_export(moving: Callable[..., Moving]) -> None:
    """Else another export, that of the output folder, would be landed in its place."""
    moved = moving()
    moved.site.worker()
    exported = moved.submit(
        "web-01", kind=None, to=None, networks=None, convert=None, acceleration=None, format="qcow2"
    )
    moved.ended(exported)
    folder = shutil.copytree(exported.target, moved.root / "web.ova")
    failed = moved.ended(
        import_image(moved, source=str(folder), output_path=exported.target, cpus=None, memory=None), JobState.FAILED
    )
    assert failed.error is not None
    assert (failed.error["code"], moved.libvirtd.domains()) == ("input_not_a_file", [])


def test_what_cannot_be_meant_or_may_not_be_is_refused(moving: Callable[..., Moving], tmp_path: Path) -> None:
    moved = moving()
    good = {"kind": "import", "source": str(moved.root / "a.ova"), "output_path": str(moved.root / "a"), "to": "kvm"}
    cases: list[tuple[dict[str, Any], str, str | None]] = [
        ({"source": "/etc/shadow.img"}, "outside_import_roots", None),
        ({"source": f"{moved.root}/../a.ova"}, "outside_import_roots", None),
        ({"source": str(tmp_path / "a.ova")}, "outside_import_roots", None),
        ({"output_path": "/etc/a"}, "outside_export_roots", None),
        ({"source": "/etc"}, "job_invalid", "output_path"),
        ({"source": "/etc", "output_path": None}, "outside_export_roots", None),
        ({"output_path": None}, "job_invalid", "output_path"),
        ({"to": None}, "job_invalid", "to"),
        ({"to": "qemu:///system"}, "target_not_allowed", None),
        ({"memory": "much"}, "job_invalid", "memory"),
        ({"memory": "0"}, "job_invalid", "memory"),
        ({"source_off": True, "new_macs": True}, "job_invalid", "source_off"),
        ({"vm_path": "web-01"}, "job_unknown_field", "vm_path"),
        ({"convert": False, "firstboot": ["echo"]}, "job_invalid", "firstboot"),
        ({"keys": [{"device": "/dev/sda2"}]}, "job_invalid", "keys.0.passphrase"),
        ({"keys": [{"device": "sda2", "passphrase": "x"}]}, "job_invalid", "keys.0.device"),
        ({"keys": [{"passphrase": "half a character: \ud800"}]}, "job_invalid", "keys.0.passphrase"),
        (
            {"static_ip": {"00:50:56:01:02:03": {"address": "192.0.2.10"}}},
            "job_invalid",
            "static_ip.00:50:56:01:02:03.address",
        ),
        (
            {"static_ip": {"00:50:56:01:02:03": {"address": "2001:db8::7/64", "gateway": "fe80::1%a,192.0.2.1"}}},
            "job_invalid",
            "static_ip.00:50:56:01:02:03.address",
        ),
        ({"root": "second"}, "job_invalid", "root"),
    ]
    for fields, code, field in cases:
        given = {key: value for key, value in {**good, **fields}.items() if value is not None}
        (rejected,) = moved.site.service.submit(json.dumps(given), "application/json", None).rejected
        assert (rejected.error.code, rejected.error.fields.get("field")) == (code, field), fields


def test_an_import_root_is_read_from(moving: Callable[..., Moving], tmp_path: Path) -> None:
    moved = moving(options={"import_roots": [str(tmp_path / "library")]})
    (tmp_path / "library").mkdir()
    image = shutil.copyfile(boot_sector_guest("marker").image, tmp_path / "library" / "web.img")
    moved.site.worker()
    moved.ended(import_image(moved, source=str(image)))
    assert moved.libvirtd.domains() == ["web"]
