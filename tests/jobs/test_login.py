"""Where a job logs in, and with what: never elsewhere than it was submitted for, never with less care than the daemon's
own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hypersdk.api.context import Services
from hypersdk.errors import Refused, UsageError
from hypersdk.jobs.records import JobRecord
from hypersdk.migration.jobfile import JobDefinition
from tests.support.services import endpoint_resolver, running_services

pytestmark = pytest.mark.waits

ENVIRON = {
    "GOVC_URL": "https://vc-a.example.com",
    "GOVC_USERNAME": "export",
    "GOVC_PASSWORD": "s3cret-of-the-daemon",
}


class Made:
    """A service, and what its workers would log in with."""

    def __init__(self, services: Services, folder: Path) -> None:
        self.store, self.service = services.jobs, services.service
        self.logins = endpoint_resolver(services, ENVIRON)
        self.output = str(folder / "exports" / "web")

    def submit(self, more: str = "") -> JobRecord:
        """The job of a file with these lines added."""
        self.done = self.service.submit(f"vm_path: web\noutput_path: {self.output}\n{more}", None, None)
        assert self.done.rejected == (), self.done.rejected
        return self.done.accepted[0]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    with running_services(tmp_path, environ=ENVIRON) as services:
        yield Made(services, tmp_path)


def test_a_job_cannot_switch_off_how_the_daemons_own_endpoint_is_trusted(made: Made) -> None:
    job = made.submit("insecure: true\n")
    assert ["insecure has no effect" in text for text in made.done.warnings] == [True]
    endpoint = made.logins.endpoint_for(job, JobDefinition.model_validate(job.definition))
    assert (endpoint.host, endpoint.username) == ("vc-a.example.com", "export")
    assert not endpoint.tls.insecure


def test_a_job_may_say_so_of_a_server_that_it_names(made: Made) -> None:
    job = made.submit("vcenter: {server: 192.0.2.7, username: u, password: p, insecure: true}\n")
    endpoint = made.logins.endpoint_for(job, JobDefinition.model_validate(job.definition))
    assert (endpoint.host, endpoint.username, endpoint.tls.insecure) == ("192.0.2.7", "u", True)
    assert made.done.warnings == ()


def test_a_worker_with_another_endpoint_refuses(made: Made) -> None:
    job = made.submit()
    elsewhere = replace(made.logins, environ={**ENVIRON, "GOVC_URL": "https://vc-b.example.com"})
    with pytest.raises(Refused) as caught:
        elsewhere.endpoint_for(job, JobDefinition.model_validate(job.definition))
    assert caught.value.code == "endpoint_moved"
    assert "vc-a.example.com:443" in caught.value.message


def test_an_id_that_is_a_word_of_the_routes_is_refused(made: Made) -> None:
    done = made.service.submit(f"id: query\nvm_path: web\noutput_path: {made.output}\n", None, None)
    (rejected,) = done.rejected
    assert isinstance(rejected.error, UsageError)
    assert rejected.error.code == "job_id_reserved"


def test_the_same_key_is_the_same_jobs(made: Made) -> None:
    """A submit whose answer got lost with its process is sent again."""
    text = f'[{{"vm_path": "a", "output_path": "{made.output}"}}, {{"vm_path": "b", "output_path": "{made.output}2"}}]'
    first = made.service.submit(text, "application/json", None, key="user:night")
    again = made.service.submit(text, "application/json", None, key="user:night")
    other = made.service.submit(text, "application/json", None, key="user:day")
    ids = [[job.id for job in one.accepted] for one in (first, again, other)]
    assert ids[0] == ids[1]
    assert not {*ids[0]} & {*ids[2]}
    assert sum(made.store.counts().values()) == 4


def test_a_cancelled_job_is_explained_by_its_own_words(made: Made) -> None:
    job = made.submit()
    told = made.service.explain(made.store.cancel(job.id))
    assert (told.code, told.next_step) == ("cancelled", "Run `hyperctl retry ID` to continue.")
