"""What a job of the kind `migrate` may ask for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hypersdk.access.endpoints import NewEndpoint
from hypersdk.jobs.locks import locks_of
from tests.support.site import SMALL, Site, SiteFactory, machines


@pytest.fixture
def ready(site: SiteFactory) -> Site:
    """With the endpoint ``kvm`` of the kind libvirt, and the address ``test:///default`` allowed."""
    made = site(machines=machines(1, (SMALL,)), options={"allowed_targets": ["test:///default"]})
    made.services.endpoints.create(NewEndpoint(name="kvm", url="test:///default", kind="libvirt"))
    return made


def asked(made: Site, **fields: Any) -> dict[str, Any]:
    job = {"kind": "migrate", "vm_path": "web-0", "output_path": str(made.root / "web-0"), "to": "kvm", **fields}
    return {name: value for name, value in job.items() if value is not None}


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"to": "qemu:///system"}, "target_not_allowed", None),
        ({"to": "qemu+ssh://root@kvm1.example.com/system"}, "target_not_allowed", None),
        ({"to": "qemu:///system?command=sh"}, "libvirt_address", None),
        ({"to": "nowhere"}, "endpoint_unknown", None),
        ({"to": None}, "job_invalid", "to"),
        ({"networks": {"VM Network": "a bridge"}}, "bad_network_map", None),
        ({"format": "ova"}, "job_invalid", "format"),
        ({"prove_marker": "OK"}, "job_invalid", "prove"),
        ({"prove": True, "prove_timeout": 0}, "job_invalid", "prove_timeout"),
        ({"disconnect_source": True}, "job_invalid", "disconnect_source"),
        ({"keep_source_running": True, "options": {"source": "shutdown"}}, "job_invalid", "keep_source_running"),
        ({"options": {"libvirt_integration": True}}, "job_invalid", "options.libvirt_integration"),
        ({"convert": False, "keys": [{"passphrase": "x"}]}, "job_invalid", "keys"),
        ({"keys": [{"passphrase": 4711}]}, "job_invalid", "keys.0.passphrase"),
        ({"firstboot": [""]}, "job_invalid", "firstboot.0"),
        ({"start": "yes"}, "job_invalid", "start"),
        ({"destination": "kvm"}, "job_unknown_field", "destination"),
        ({"output_path": "/etc/web-0"}, "outside_export_roots", None),
    ],
)
def test_what_cannot_be_meant_or_may_not_be_is_refused(
    ready: Site, fields: dict[str, Any], code: str, field: str | None
) -> None:
    submission = ready.service.submit(json.dumps(asked(ready, **fields)), "application/json", None)
    assert submission.accepted == ()
    (rejected,) = submission.rejected
    assert (rejected.error.code, rejected.error.fields.get("field")) == (code, field)


@pytest.mark.parametrize("target", ["kvm", "test:///default"])
def test_a_job_remembers_its_target_and_has_the_steps_that_were_asked_for(ready: Site, target: str) -> None:
    job = ready.submit(asked(ready, to=target, convert=False, start=True, networks={"*": "br0"}))[0]
    endpoint = ready.services.endpoints.get("kvm")
    assert job.definition["to"] == (endpoint.id if target == "kvm" else target)
    assert [step.name for step in job.steps] == ["copy", "publish", "land", "start"]
    assert (job.kind, job.subject) == ("migrate", "web-0")


def test_two_jobs_do_not_define_one_domain_at_a_time(ready: Site) -> None:
    jobs = [asked(ready, output_path=str(ready.root / folder), domain="one") for folder in ("a", "b")]
    first, second = ready.submit(*jobs)
    with ready.database.read() as connection:
        names = locks_of(connection)
    domain = f"domain:{ready.services.endpoints.get('kvm').id}/one"
    assert domain in names[first.id]
    assert domain in names[second.id]
