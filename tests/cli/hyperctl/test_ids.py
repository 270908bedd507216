"""Ids of jobs at hyperctl: whole, abbreviated, ambiguous, and those of earlier versions."""

from __future__ import annotations

import uuid

import pytest

from hypersdk.jobs.store import Filter
from tests.support.apiserver import Api
from tests.support.cli.hyperctl import Hyperctl, job_file

ALIKE = ("0b9c3f5e-8a41-4d27-9c1b-6f2e7d5a3480", "0b9c3f5e-8a41-4d27-9c1b-6f2e7d5a3481")
EARLIER = "job-3f9a1c20d4e5"


def test_submitted_jobs_have_uuids_with_and_without_a_key(api: Api, ctl: Hyperctl) -> None:
    ctl.ok("submit", "-f", "-", stdin=job_file(api, "a", "b"))  # hyperctl sends a key
    body = {"vm_path": "/data/vm/c", "output_path": str(api.folder / "exports/c")}
    answer = api.client().post("/jobs/submit", json=body).json()
    ids = api.services.jobs.ids(Filter())
    assert ids[2:] == answer["job_ids"]
    assert {uuid.UUID(job_id).version for job_id in ids} == {4}


@pytest.mark.parametrize("words", [["get"], ["explain"], ["logs"], ["query", "-id"], ["pause"], ["watch"]])
def test_the_beginning_of_an_id_is_enough(api: Api, ctl: Hyperctl, words: list[str]) -> None:
    job = api.add_job(id=ALIKE[0])
    api.add_job(id="1" + ALIKE[0][1:])
    if words == ["watch"]:
        api.services.jobs.cancel(job.id)
        assert f"{job.id} {job.name} cancelled" in ctl("watch", "0b9c").out
        return
    for text in (job.id[:4], job.id[:12].upper(), job.id.upper()):
        assert ctl(*words, text).status == 0
    if words == ["pause"]:
        assert api.services.jobs.get(job.id).state == "paused"
    unknown = ctl(*words, job.id[:3])
    assert unknown.status == (0 if words == ["logs"] and unknown.out else 5)


def test_an_ambiguous_beginning_does_nothing_and_lists_the_jobs(api: Api, ctl: Hyperctl) -> None:
    for job_id in ALIKE:
        api.add_job(id=job_id, name=f"night {job_id[-1]}")
    done = ctl("cancel", "0b9c3f5e")
    assert (done.status, done.out) == (5, "Cancelled 0 job(s)\n")
    assert f"'0b9c3f5e' means several jobs: {ALIKE[0]} (night 0), {ALIKE[1]} (night 1)" in " ".join(done.err.split())
    assert ctl("get", "0b9c", "--json").error["code"] == "job_ambiguous"
    assert {job.state for job in api.services.jobs.page(Filter()).rows} == {"queued"}
    for number in range(20):
        api.add_job(id=f"0b9c-{number}")
    many = ctl("get", "0b9c", "--json").error
    assert (len(many["candidates"]), many["message"].startswith("'0b9c' means several jobs: ")) == (10, True)
    assert many["message"].endswith(", ...")


def test_a_name_that_one_job_has_is_enough(api: Api, ctl: Hyperctl) -> None:
    one, two = api.add_job(name="web 01").id, api.add_job(name="web 01 again").id
    assert ctl("get", "web 01", "--json").events[0]["id"] == one
    assert ctl.ok("pause", "web 01 again", one) == "Paused 2 job(s)\n"
    api.add_job(name="web 01")
    done = ctl("cancel", "web 01")
    assert (done.status, "'web 01' means several jobs" in " ".join(done.err.split())) == (5, True)
    assert api.services.jobs.get(one).state == api.services.jobs.get(two).state == "paused"
    api.add_job(name="night")
    api.add_job(id="night-of-monday")  # its id begins with another one's name
    assert ctl("delete", "night", "--json").error["code"] == "job_ambiguous"
    assert ctl("get", "web").status == 5  # a part of a name is none


def test_a_chosen_id_with_which_others_begin_is_that_job(api: Api, ctl: Hyperctl) -> None:
    for job_id in ("night-2", "night-1", "night", "night-0"):
        api.add_job(id=job_id)
    assert ctl("get", "night", "--json").events[0]["id"] == "night"
    assert ctl("get", "night-1", "--json").events[0]["id"] == "night-1"
    assert ctl("get", "nigh", "--json").error["code"] == "job_ambiguous"
    assert ctl("get", "n_ght-1").status == 5  # no pattern of SQL
    assert ctl("get", "100%").status == 5


def test_jobs_of_earlier_versions_keep_their_ids_everywhere(api: Api, ctl: Hyperctl) -> None:
    api.add_job(id=EARLIER)
    client = api.client()
    assert client.get(f"/jobs/{EARLIER}").json()["definition"]["id"] == EARLIER
    assert client.get(f"/api/v1/jobs/{EARLIER}").json()["id"] == EARLIER
    assert client.post("/jobs/query", json={"job_ids": [EARLIER]}).json()["total"] == 1
    for words in (["get"], ["pause"], ["resume"], ["cancel", "-id"], ["retry"], ["explain"], ["logs"]):
        ctl.ok(*words, EARLIER)
    assert ctl("get", "job-3f9a", "--json").events[0]["id"] == EARLIER
    assert client.post("/jobs/cancel", json={"job_ids": [EARLIER]}).json()["cancelled"] == [EARLIER]
    assert ctl.ok("delete", EARLIER) == "Deleted 1 job(s)\n"


def test_the_list_selects_by_the_beginning_of_the_id(api: Api) -> None:
    for job_id in (*ALIKE, EARLIER):
        api.add_job(id=job_id)

    def found(prefix: str) -> int:
        return int(api.client().get("/api/v1/jobs", params={"id_prefix": prefix}).json()["total"])

    assert [found(prefix) for prefix in ("0B9C", ALIKE[0], "9c3f", "job-", "", "%", "_b9c")] == [2, 1, 0, 1, 3, 0, 0]
    assert api.client().get("/api/v1/jobs", params={"id_prefix": "a\n"}).status_code == 422
