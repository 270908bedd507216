"""What is said about a job names what a job has: fields of its file, `hyperctl`, the daemon's configuration."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest

from hypersdk.cli.errorlist import load_all
from hypersdk.errors import CODES, ConnectError, HyperSDKError, Refused, SourceError, TargetError, TransientError
from hypersdk.jobs.nextsteps import NEXT_STEPS, told_of_job
from hypersdk.jobs.records import Job
from hypersdk.jobs.states import JobState
from hypersdk.migration.preflight import Refusal, raise_if_any
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.units import MiB
from tests.support.site import Site, SiteFactory

OTHERS: Final = frozenset(
    {
        "usage",
        "partly_failed",
        "verify_no_manifest",
        "config_invalid",  # of hyper2kvm itself
        "password_in_argv",
        "password_source",
        "run_unknown",
        "snapshot_unclaimed",
        "no_worker",  # what a job waits for
        "no_description",
        "unauthenticated",
        "token_outlives",
        "daemon_unreachable",
        "foreign_listener",  # of hyperctl
        "daemon_config",
        "daemon_runs",
        "address_taken",
        "address_absent",
        "worker_id_held",
        "no_auth_public",
        "tls_required",
        "key_elsewhere",
        "backup_other_database",
        "state_exists",
        "no_state",
        "which_state",
        "user_unknown",
    }
)
"""Codes that no attempt of a job ends with."""
FLAG: Final = re.compile(r"(?<![\w-])(--[a-z][a-z-]*|-o\b)")
OF_HYPERCTL: Final = re.compile(r"`hyperctl [^`]*`|the new --pin")


def flags(text: str) -> list[str]:
    """Flags of hyper2kvm, and its commands that are about a folder."""
    own = OF_HYPERCTL.sub("", text)
    return [*FLAG.findall(own), *re.findall(r"hyper2kvm (?:export|cleanup|status)|same command", own)]


def test_no_next_step_of_a_job_names_a_flag_of_the_program() -> None:
    load_all()
    for code in sorted(CODES.keys() - OTHERS):
        told = told_of_job(HyperSDKError("it failed", code=code))
        assert flags(told["next_step"]) + flags(told["cause"]) == [], code


def test_what_is_said_of_a_job_is_about_codes_that_there_are() -> None:
    load_all()
    assert CODES.keys() >= OTHERS
    assert NEXT_STEPS.keys() <= CODES.keys()
    texts = [CODES[code].next_step for code in NEXT_STEPS]
    assert len(set(texts)) == len(texts), "each is found by its text"
    for step in NEXT_STEPS.values():
        for command in re.findall(r"`(hyperctl [a-z]+)", step):
            assert command in ("hyperctl retry", "hyperctl cancel", "hyperctl endpoints")


def test_a_step_that_came_with_another_code_is_a_jobs_too() -> None:
    first = SourceError("sent from its start", code="range_ignored")
    told = told_of_job(TransientError(first.message, cause=first.cause, next_step=first.next_step))
    assert told["code"] == "transfer_interrupted"
    assert told["next_step"] == NEXT_STEPS["range_ignored"]


def test_a_step_of_its_own_is_kept() -> None:
    told = told_of_job(TargetError("it is a link", next_step="Remove it."))
    assert (told["code"], told["next_step"]) == ("target_failed", "Remove it.")


def test_each_of_several_reasons_has_the_step_of_a_job() -> None:
    with pytest.raises(Refused) as caught:
        raise_if_any(
            "web-01", [Refusal("shared_disk", "shared"), Refusal("vtpm_present", "a TPM"), Refusal("no_disks", "none")]
        )
    told = told_of_job(caught.value)
    steps = [NEXT_STEPS["shared_disk"], CODES["vtpm_present"].next_step, NEXT_STEPS["no_disks"]]
    assert [reason["next_step"] for reason in told["reasons"]] == steps
    assert told["next_step"].splitlines() == [
        f"{code}: {step}" for code, step in zip(("shared_disk", "vtpm_present", "no_disks"), steps, strict=True)
    ]


def test_an_unknown_certificate_is_pinned_by_its_print() -> None:
    error = ConnectError("not trusted", code="certificate_unknown", next_step="pass --thumbprint AB:CD", sha256="AB:CD")
    assert "`hyperctl endpoints add NAME URL --pin AB:CD`" in told_of_job(error)["next_step"]
    assert flags(told_of_job(error)["next_step"]) == []


def told(site: Site, job: Job) -> str:
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
    assert "`options.remove_cdrom` ejects it" in told(made, ended[3])


def test_a_job_that_fails_on_an_image_that_is_gone_is_told_of_its_field(site: SiteFactory) -> None:
    made = site(machines=(MachineSpec("web-0", (DiskSpec(MiB),), iso="[iso-library] deleted.iso"),))
    (made.root / "a").mkdir()
    made.worker()
    (ended,) = made.until_ended(made.submit({"vm_path": "web-0", "output_path": str(made.root / "a")}))
    assert ended.error is not None
    assert ended.error["code"] == "file_fault"
    assert "`options.remove_cdrom`" in ended.error["next_step"]
    assert flags(told(made, ended)) == []
