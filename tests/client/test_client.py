"""The client against the daemon's own API, over a real socket."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from hypersdk.access.roles import Role
from hypersdk.access.users import insert_user
from hypersdk.api.feed import Feed
from hypersdk.client import Client, Job
from hypersdk.client.address import AddressOptions, find_target
from hypersdk.client.resources import log_in
from hypersdk.client.transport import Transport
from hypersdk.client.watching import PATIENCE_S, Patience, retry_until_back
from hypersdk.errors import (
    AccessError,
    ConnectError,
    HyperSDKError,
    LookupFailed,
    Refused,
    TargetError,
    TransientError,
    UsageError,
)
from hypersdk.jobs.claims import Unsaved
from hypersdk.jobs.states import JobEvent
from hypersdk.secret import Secret
from tests.support.apiserver import Api, serving

pytestmark = pytest.mark.waits


@pytest.fixture
def client(api: Api) -> Iterator[Client]:
    with Client(api.url, token=api.tokens["admin"], environ={}) as found:
        yield found


def definition(api: Api, name: str = "web01") -> dict[str, str]:
    return {"vm_path": f"/data/vm/{name}", "output_path": str(api.folder / "exports" / name), "format": "qcow2"}


def end(api: Api, job_id: str, event: JobEvent = JobEvent.FINISH) -> None:
    """What a worker does, in short."""
    claims = api.claims()
    claim = claims.claim(job_id, api.services.jobs.get(job_id).attempt)
    assert claim is not None
    claims.save(Unsaved(claim, {"phase": "transferring", "percent_complete": 40.0}))
    error = {"code": "no_space", "message": "full", "cause": "c", "next_step": "n", "exit_status": 9}
    claims.end(
        claim, event, **({"error": error} if event is JobEvent.FAIL else {"result": {"files": ["web01-disk1.qcow2"]}})
    )


def test_importing_the_package_imports_no_client() -> None:
    code = (
        "import sys, hypersdk; assert 'httpx' not in sys.modules; from hypersdk import Client; print(Client.__name__)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "Client\n"


def test_the_client_needs_nothing_of_the_daemon() -> None:
    code = (
        "import sys; from hypersdk import Client; from hypersdk.client import watching\n"
        "print([name for name in ('sqlalchemy', 'fastapi', 'dbos', 'pyVmomi', 'cryptography') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_definition_a_text_and_a_file_are_submitted(api: Api, client: Client, tmp_path: Path) -> None:
    job = client.submit(definition(api)).job
    assert (job.state, job.status, job.progress.percent_complete, job.progress.phase) == (
        "queued",
        "pending",
        0.0,
        "queued",
    )
    assert client.get(job.id) == job
    text = f"vm_path: /data/vm/web02\noutput_path: {api.folder}/exports/web02\n"
    assert client.submit(text).job.format == "ovf"
    file = tmp_path / "jobs.json"
    file.write_text(json.dumps({"jobs": [definition(api, "a"), definition(api, "b")]}))
    assert len(client.submit(file).accepted) == 2
    assert client.status().total_jobs == 4


def test_a_job_that_is_not_valid_is_rejected_and_the_others_are_taken(api: Api, client: Client) -> None:
    done = client.submit(
        [definition(api), {"vm_path": "x", "output_path": "/etc/x"}, {**definition(api, "c"), "colour": 1}]
    )
    assert len(done.accepted) == 1
    assert [one.number for one in done.rejected] == [2, 3]
    assert done.rejected[1].error.code == "job_unknown_field"
    with pytest.raises(HyperSDKError) as raised:
        _ = done.job
    assert raised.value.code == "outside_export_roots"


def test_what_is_no_job_file_is_an_error(client: Client, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        client.submit("42")
    assert raised.value.code == "job_unreadable"
    with pytest.raises(UsageError, match="cannot be read"):
        client.submit(tmp_path / "missing.yaml")
    with pytest.raises(UsageError, match="UTF-8"):
        client.submit("vm_path: \udcfc")
    with pytest.raises(UsageError, match="larger than"):
        client.submit("#" * (4 * 1024 * 1024 + 1))


def test_a_key_makes_a_submit_one_submit(api: Api, client: Client) -> None:
    first = client.submit(definition(api), idempotency_key="night-run-1").job
    assert client.submit(definition(api), idempotency_key="night-run-1").job.id == first.id
    assert client.status().total_jobs == 1


def test_the_list_is_read_page_by_page(api: Api, client: Client) -> None:
    for _ in range(450):
        api.add_job()
    assert [job.raw["number"] for job in client.list()] == list(range(450, 0, -1))
    assert len(list(client.list(limit=205))) == 205
    assert len(list(client.list(text="job 44"))) == 11
    assert client.page(sort="number", limit=1).jobs[0].name == "job 1"
    assert client.page().facets["state"] == {"queued": 450}


def test_states_are_understood_in_both_vocabularies(api: Api, client: Client) -> None:
    waiting, paused = api.add_job(), api.add_job()
    client.pause(paused.id)
    assert {job.id for job in client.list(states=["pending"])} == {waiting.id, paused.id}
    assert [job.id for job in client.list(states=["paused"])] == [paused.id]
    assert client.query([paused.id, "nothing", waiting.id], ["queued"]) == (client.get(waiting.id),)
    with pytest.raises(UsageError, match="not a job state"):
        list(client.list(states=["sleeping"]))


def test_jobs_are_asked_for_things(api: Api, client: Client) -> None:
    job = api.add_job()
    assert client.pause(job.id).state == "paused"
    assert client.resume(job.id).state == "queued"
    assert client.cancel(job.id).state == "cancelled"
    assert client.retry(job.id, discard=True).state == "queued"
    with pytest.raises(Refused) as raised:
        client.delete(job.id)
    assert raised.value.code == "job_state"
    client.cancel(job.id)
    client.delete(job.id)
    with pytest.raises(LookupFailed) as missing:
        client.get(job.id)
    assert missing.value.code == "job_unknown"


def test_an_id_leads_nowhere_else(client: Client) -> None:
    for strange in ("../auth/me", "a b?x=1", "ä%2f"):
        with pytest.raises(LookupFailed):
            client.get(strange)
    for none in ("", "..", ".", "\udce4"):
        with pytest.raises(UsageError):
            client.get(none)


def test_wait_returns_the_job_when_it_has_ended(api: Api, client: Client) -> None:
    job = api.add_job()
    seen: list[Job] = []
    worker = threading.Timer(1.0, end, (api, job.id))
    worker.start()
    done = client.wait(job.id, timeout_s=60, on_progress=seen.append)
    worker.join()
    assert (done.state, done.files) == ("completed", ("web01-disk1.qcow2",))
    assert done.raise_for_failure() is done
    assert seen[0].state == "queued"
    assert seen[-1] == done


def test_a_job_that_failed_raises_its_own_error_when_asked(api: Api, client: Client) -> None:
    job = api.add_job()
    end(api, job.id, JobEvent.FAIL)
    done = client.wait(job.id, timeout_s=60)
    with pytest.raises(TargetError) as raised:
        done.raise_for_failure()
    assert (raised.value.code, raised.value.message, raised.value.fields["job"]) == ("no_space", "full", job.id)
    assert client.explain(job.id).code == "no_space"


def test_wait_ends_at_its_time_and_leaves_the_job_alone(api: Api, client: Client) -> None:
    job = api.add_job()
    begun = time.monotonic()
    with pytest.raises(TransientError) as raised:
        client.wait(job.id, timeout_s=1)
    assert raised.value.code == "wait_over"
    assert time.monotonic() - begun < 20
    assert client.get(job.id).state == "queued"


def test_waiting_for_a_job_that_is_not_there_is_an_error(api: Api, client: Client) -> None:
    with pytest.raises(LookupFailed):
        client.wait("nothing")
    job = api.add_job()

    def forget() -> None:
        with Client(api.url, token=api.tokens["admin"], environ={}) as other:
            other.cancel(job.id)
            other.delete(job.id)

    worker = threading.Timer(1.0, forget)
    worker.start()
    with suppress(LookupFailed):  # it saw the delete only
        assert client.wait(job.id, timeout_s=60).state == "cancelled"
    worker.join()


def test_watch_shows_each_job_as_it_is_and_as_it_changes(api: Api, client: Client) -> None:
    jobs = [api.add_job() for _ in range(3)]
    worker = threading.Thread(target=lambda: [end(api, job.id) for job in jobs])
    states: dict[str, list[str]] = {}
    for number, job in enumerate(client.watch([job.id for job in jobs], timeout_s=60)):
        states.setdefault(job.id, []).append(job.state)
        if number == 2:
            worker.start()
    worker.join()
    assert {key: found[-1] for key, found in states.items()} == {job.id: "completed" for job in jobs}
    assert all(found[0] == "queued" for found in states.values())


def test_watching_all_jobs_sees_those_that_come(api: Api, client: Client) -> None:
    api.add_job()
    changes = client.watch(timeout_s=60)
    first = next(changes)
    late = api.add_job()
    assert next(job.id for job in changes if job.id != first.id) == late.id


def test_a_daemon_that_restarts_is_waited_for(api: Api) -> None:
    job = api.add_job()
    with serving(api.services) as server:
        url = server.url
        client = Client(url, token=api.tokens["viewer"], environ={})
        changes = client.watch([job.id], timeout_s=90)
        assert next(changes).state == "queued"
    end(api, job.id)
    settings = dataclasses.replace(api.services.settings, addr=url.removeprefix("http://"))
    again = dataclasses.replace(api.services, settings=settings, feed=Feed(api.services.jobs))
    with client, ExitStack() as running:
        start = threading.Timer(1.5, lambda: running.enter_context(serving(again)))
        start.start()
        assert list(changes)[-1].state == "completed"
        start.join()


def test_logs_are_followed_through_a_restart_and_with_a_short_timeout(api: Api) -> None:
    job = api.add_job()
    claims = api.claims()
    claim = claims.claim(job.id, 1)
    assert claim is not None
    claims.save(Unsaved(claim, log=b"one\n"))
    with serving(api.services) as server:
        url = server.url
        client = Client(url, token=api.tokens["viewer"], timeout_s=0.5, environ={})
        pieces = client.follow_logs(job.id)
        assert next(pieces) == "one\n"
        late = threading.Timer(1.5, claims.save, (Unsaved(claim, log=b"two\n"),))
        late.start()
        assert next(pieces) == "two\n"
        late.join()
    claims.save(Unsaved(claim, log=b"three\n"))
    claims.end(claim, JobEvent.FINISH, result={})
    settings = dataclasses.replace(api.services.settings, addr=url.removeprefix("http://"))
    again = dataclasses.replace(api.services, settings=settings, feed=Feed(api.services.jobs))
    with client, ExitStack() as running:
        start = threading.Timer(1.5, lambda: running.enter_context(serving(again)))
        start.start()
        assert "".join(pieces) == "three\n"
        start.join()


def test_a_daemon_that_stays_away_is_given_up() -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def ask(code: str) -> None:
        raise ConnectError("away", code=code)

    with pytest.raises(ConnectError):
        retry_until_back(lambda: ask("daemon_unreachable"), Patience(lambda: now, sleep))
    assert PATIENCE_S < now < PATIENCE_S + 20
    now = 0.0
    with pytest.raises(ConnectError):
        retry_until_back(lambda: ask("certificate_changed"), Patience(lambda: now, sleep))
    assert now == 0.0


def test_without_a_stream_the_jobs_are_asked_for(api: Api, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypersdk.client.watching.EVENTS", "/api/v1/no-such-stream")
    monkeypatch.setattr("hypersdk.client.watching.POLL_S", 0.1)
    job = api.add_job()
    worker = threading.Timer(0.5, end, (api, job.id))
    worker.start()
    assert client.wait(job.id, timeout_s=60).state == "completed"
    worker.join()


def test_logs_are_read_by_offset_and_followed_to_the_end(api: Api, client: Client) -> None:
    job = api.add_job()
    claims = api.claims()
    claim = claims.claim(job.id, 1)
    assert claim is not None
    claims.save(Unsaved(claim, log="eins ä\n".encode()))
    part = client.logs(job.id)
    assert (part.text, part.ended) == ("eins ä\n", False)
    assert client.logs(job.id, part.end).text == ""

    def write() -> None:
        claims.save(Unsaved(claim, log=b"zwei\n"))
        claims.end(claim, JobEvent.FINISH, result={})

    worker = threading.Timer(0.5, write)
    worker.start()
    assert "".join(client.follow_logs(job.id)) == "eins ä\nzwei\n"
    worker.join()


def test_tokens_and_users(api: Api, client: Client) -> None:
    user = client.users.create("ops", "operator", Secret("correct horse battery"))
    assert [one.name for one in client.users.list() if one.role == "operator"] == ["ops", "test-operator"]
    made = client.tokens.create("night", "operator", user="ops")
    assert (made.token.user, made.token.scope) == ("ops", "operator")
    assert made.secret.reveal() not in repr(made)
    with Client(api.url, token=made.secret, environ={}) as other:
        assert (other.me().name, other.me().role) == ("ops", "operator")
        with pytest.raises(AccessError):
            other.users.list()
        client.tokens.revoke(made.token.id)
        with pytest.raises(AccessError):
            other.me()
    assert client.users.change(user.id, disabled=True).disabled
    client.users.delete(user.id)
    assert "ops" not in [one.name for one in client.users.list()]


def test_a_password_is_exchanged_for_a_token(api: Api, client: Client) -> None:
    client.users.create("ops", "operator", Secret("correct horse battery"))
    transport = Transport(find_target(AddressOptions(api.url), {"HOME": "/nonexistent"}), 30)
    try:
        me, made = log_in(transport, "ops", Secret("correct horse battery"), label="test")
        with pytest.raises(AccessError):
            log_in(transport, "ops", Secret("wrong"), label="test")
    finally:
        transport.close()
    assert (me.name, made.token.scope) == ("ops", "operator")
    with Client(api.url, token=made.secret, environ={}) as other:
        assert other.status().total_jobs == 0


def test_a_viewer_may_look_and_nothing_else(api: Api) -> None:
    job = api.add_job()
    with Client(api.url, token=api.tokens["viewer"], environ={}) as viewer:
        assert viewer.get(job.id).id == job.id
        for write in (viewer.cancel, viewer.pause, viewer.retry, viewer.delete):
            with pytest.raises(AccessError):
                write(job.id)
    with Client(api.url, environ={"HOME": "/nonexistent"}) as nobody, pytest.raises(AccessError):
        nobody.status()


def test_many_threads_may_share_a_client(api: Api, client: Client) -> None:
    ids: list[str] = []
    counter = itertools.count()
    threads = [
        threading.Thread(target=lambda: ids.append(client.submit(definition(api, f"m{next(counter)}")).job.id))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 16


def test_a_list_longer_than_a_page_is_read_whole(client: Client, api: Api) -> None:
    with api.services.database.write() as connection:
        for number in range(1001):
            insert_user(connection, float(number), f"user{number:04}", Role.VIEWER, None)
    names = [one.name for one in client.users.list()]
    assert len(names) == len(set(names)) > 1001
    assert names == sorted(names)
