"""What is said about a job names what a job has: fields of its file, `hyperctl`, the daemon's configuration."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.states import JobState
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.units import MiB
from tests.support.site import Site, SiteFactory

FLAG: Final = re.compile(r"(?<![\w-])(--[a-z][a-z-]*|-o\b)")
OF_HYPERCTL: Final = re.compile(r"`hyperctl [^`]*`")


def flags(text: str) -> list[str]:
    """Flags of hyper2kvm, and its commands that are about a folder."""
    own = OF_HYPERCTL.sub("", text)
    return [*FLAG.findall(own), *re.findall(r"hyper2kvm (?:export|cleanup|status)|same command", own)]


def told(site: Site, job: JobRecord) -> str:
    """All that a user is shown of the job's end, its log and its manifest included."""
    now = site.store.get(job.id)
    log = site.store.read_log(job.id)[0].decode()
    manifest = Path(job.target) / "artifact-manifest.json"
    return "\n".join(
        [
            json.dumps(now.error),
            json.dumps(now.result),
            json.dumps(now.progress),
            log,
            manifest.read_text() if manifest.exists() else "",
        ]
    )


def test_jobs_are_told_of_fields_and_of_their_folder(site: SiteFactory) -> None:
    """Each fails in another place: before its plan, by the plan, at the lock; the last is completed, with a warning."""
    machine = MachineSpec("web-0", (DiskSpec(MiB),), iso="[iso-library] tools/virtio-win.iso")
    made = site(machines=(machine,))
    folder = {name: made.root / name for name in ("foreign", "locked", "disk", "done")}
    for path in folder.values():
        path.mkdir(parents=True)
    (folder["foreign"] / "another.qcow2").write_text("")
    (folder["locked"] / ".hypersdk-run.lock").symlink_to("elsewhere")
    wanted: list[dict[str, Any]] = [{"vm_path": "web-0", "output_path": str(path)} for path in folder.values()]
    wanted[2]["options"] = {"exclude_disks": ["9"]}
    made.worker()
    ended = made.until_ended(made.submit(*wanted))
    codes = [job.error and job.error["code"] for job in ended]
    assert codes == ["foreign_output", "target_failed", "no_such_disk", None], made.told()
    assert ended[3].state is JobState.COMPLETED
    for job in ended:
        text = told(made, job)
        assert "/proc/" not in text
        assert flags(text) == []
    for job in ended[:2]:
        assert job.error is not None
        assert job.target in job.error["message"]
    assert "Set `options.remove_cdrom`, which ejects ISO images" in told(made, ended[3])


def test_a_job_that_fails_on_an_image_that_is_gone_is_told_of_its_field(site: SiteFactory) -> None:
    made = site(machines=(MachineSpec("web-0", (DiskSpec(MiB),), iso="[iso-library] deleted.iso"),))
    (made.root / "a").mkdir()
    made.worker()
    (ended,) = made.until_ended(made.submit({"vm_path": "web-0", "output_path": str(made.root / "a")}))
    assert ended.error is not None
    assert ended.error["code"] == "file_fault"
    assert "`options.remove_cdrom`" in ended.error["next_step"]
    assert {"kind": "set_option", "name": "remove_cdrom", "value": True} in ended.error["remedies"]
    assert flags(told(made, ended)) == []
