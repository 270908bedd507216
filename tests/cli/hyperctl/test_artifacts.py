"""Files of an export: listed, downloaded, and never published when they are not the export's."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from hypersdk.client import Client
from hypersdk.jobs.states import JobEvent
from hypersdk.units import MiB
from tests.support.apiserver import Api
from tests.support.cli.hyperctl import Hyperctl, hyperctl_of
from tests.support.finishedjob import DATA, NAME, finished
from tests.support.treedigest import tree_digest_of


def test_the_files_are_listed(api: Api, ctl: Hyperctl) -> None:
    job = finished(api)
    lines = ctl.ok("artifacts", job.id[:8]).splitlines()
    assert [title for title in ("File", "Size", "Digest") if title in lines[0]] == ["File", "Size", "Digest"]
    assert lines[1].split("  ")[0] == NAME
    assert f"sha256:{hashlib.sha256(DATA).hexdigest()}" in lines[1]
    assert "3.0 MiB" in lines[1]
    assert [row["name"] for row in ctl("artifacts", job.id, "--json").events] == [NAME, "artifact-manifest.json"]
    assert "not completed" in ctl.ok("artifacts", api.add_job().id)


def test_a_download_is_the_file_in_a_folder_or_under_another_name(api: Api, ctl: Hyperctl, tmp_path: Path) -> None:
    job = finished(api)
    folder = tmp_path / "here"
    folder.mkdir()
    assert "its SHA-256 is that of the export" in ctl.ok("artifacts", job.id, NAME, "--output", folder)
    assert (folder / NAME).read_bytes() == DATA
    assert (folder / NAME).stat().st_blocks * 512 < len(DATA)  # zeros are holes
    (facts,) = ctl("artifacts", job.id, NAME, "-o", folder / "other", "--json").events
    assert (facts["size_bytes"], facts["verified"], facts["file"]) == (len(DATA), True, str(folder / "other"))
    unknown = ctl("artifacts", job.id, "artifact-manifest.json", "--output", folder, "--json").events[0]
    assert (unknown["verified"], unknown["sha256"]) == (False, hashlib.sha256(b"{}").hexdigest())
    again = ctl("artifacts", job.id, NAME, "--output", folder)
    assert (again.status, "exists" in again.err) == (9, True)
    assert sorted(path.name for path in folder.iterdir()) == sorted([NAME, "other", "artifact-manifest.json"])


@pytest.mark.parametrize("success", [True, False])
def test_the_report_of_a_job_is_downloaded_also_after_a_failure(
    api: Api, ctl: Hyperctl, tmp_path: Path, success: bool
) -> None:
    job = api.add_job()
    Path(job.target).mkdir(parents=True)
    (Path(job.target) / "report.html").write_text("<!doctype html>")
    claims = api.claims()
    claim = claims.claim(job.id, 1)
    assert claim is not None
    error = {"code": "no_space", "message": "m", "cause": "c", "next_step": "n"}
    event, failure = (JobEvent.FINISH, None) if success else (JobEvent.FAIL, error)
    claims.end(claim, event, result={"success": success, "files": [], "evidence": ["report.html"]}, error=failure)
    assert f"`hyperctl report {job.id}`" in ctl.ok("get", job.id)
    ctl.ok("report", job.id, "--output", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == "<!doctype html>"
    allowed = api.client().get(f"/api/v1/jobs/{job.id}/permissions").json()
    assert allowed["download"]["allowed"] is True
    none = ctl("report", api.add_job().id, "-o", tmp_path / "none")
    assert (none.status, "has no report" in none.err) == (5, True)


def test_what_cannot_be_downloaded(api: Api, ctl: Hyperctl, tmp_path: Path) -> None:
    job = finished(api)
    missing = ctl("artifacts", job.id, "nothing", "-o", tmp_path / "x", "--json")
    assert (missing.status, missing.error["code"]) == (5, "artifact_unknown")
    assert ctl("artifacts", job.id, "--output", tmp_path).status == 2
    viewer = hyperctl_of(api, tmp_path / "viewer", "viewer")
    assert viewer("artifacts", job.id).status == 0
    assert viewer("artifacts", job.id, NAME, "-o", tmp_path / "x").status == 4
    assert ctl("artifacts", job.id, NAME, "-o", tmp_path / "none" / "x").status == 9
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith("x")]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda file: file.write_bytes(b"x" + DATA[1:]), "its SHA-256 is not that of the export"),
        (lambda file: file.write_bytes(DATA[:-1]), f"it has {len(DATA) - 1} bytes instead of {len(DATA)}"),
    ],
)
def test_a_changed_file_is_not_published(
    api: Api, ctl: Hyperctl, tmp_path: Path, change: Callable[[Path], object], text: str
) -> None:
    job = finished(api)
    change(Path(job.target) / NAME)
    done = ctl("artifacts", job.id, NAME, "-o", tmp_path / "disk")
    assert done.status == 8
    assert text in " ".join(done.err.split())
    assert list(tmp_path.glob("disk*")) == []


def test_an_image_is_told_by_its_tree_digest(api: Api, ctl: Hyperctl, tmp_path: Path) -> None:
    """Images have no SHA-256 unless it was asked for."""
    job = finished(api, digests={"sha256": None, "tree": tree_digest_of(DATA)})
    assert f"tree:{tree_digest_of(DATA)}" in ctl.ok("artifacts", job.id)
    assert "its tree digest is that of the export" in ctl.ok("artifacts", job.id, NAME, "-o", tmp_path / "disk")
    assert (tmp_path / "disk").read_bytes() == DATA
    (Path(job.target) / NAME).write_bytes(DATA[:-1] + b"!")
    done = ctl("artifacts", job.id, NAME, "-o", tmp_path / "other")
    assert done.status == 8
    assert "its tree digest is not that of the export" in " ".join(done.err.split())
    assert not (tmp_path / "other").exists()


def test_a_name_that_no_file_can_have_is_an_error_of_the_output(api: Api, ctl: Hyperctl, tmp_path: Path) -> None:
    job = finished(api)
    done = ctl("artifacts", job.id, NAME, "-o", tmp_path / ("x" * 300))
    assert done.status == 9
    assert "File name too long" in done.err


@pytest.mark.parametrize("replaced", [False, True])
def test_a_download_continues_after_a_broken_connection(
    api: Api, ctl: Hyperctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    """Unless the file was replaced meanwhile."""
    job = finished(api)
    read, breaks = os.pread, iter([True, False, True])
    served: list[int] = []

    def broken(descriptor: int, count: int, place: int) -> bytes:
        served.append(place)
        if place >= 1 * MiB and next(breaks, False):
            if replaced:
                file = Path(job.target) / NAME
                file.unlink()
                file.write_bytes(DATA)
            raise OSError(5, "broken for the test")
        return read(descriptor, count, place)

    monkeypatch.setattr("hypersdk.api.artifacts.os.pread", broken)
    done = ctl("artifacts", job.id, NAME, "-o", tmp_path / "disk")
    if replaced:
        assert (done.status, list(tmp_path.glob("disk*"))) == (8, [])
        assert "replaced while it was downloaded" in " ".join(done.err.split())
    else:
        assert done.status == 0, done.err
        assert (served.count(0), next(breaks, None)) == (1, None)
        assert (tmp_path / "disk").read_bytes() == DATA


def test_a_daemon_that_sends_nothing_more_is_not_asked_for_ever(
    api: Api, ctl: Hyperctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = finished(api)
    answers = iter([(200, [DATA[:9]]), (206, [])])

    @contextmanager
    def download(*_arguments: object) -> Iterator[tuple[httpx.Response, Iterator[bytes]]]:
        status, chunks = next(answers)
        yield httpx.Response(status, headers={"Content-Length": str(len(DATA))}), iter(chunks)

    monkeypatch.setattr("hypersdk.client.transport.Transport.download", download)
    done = ctl("artifacts", job.id, NAME, "-o", tmp_path / "disk", "--json")
    assert (done.status, done.error["code"]) == (13, "answer_unreadable")
    assert list(tmp_path.glob("disk*")) == []


def test_the_daemons_names_and_addresses_lead_nowhere_else(
    api: Api, ctl: Hyperctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = finished(api)
    hostile = {"name": "../outside", "size_bytes": 1, "sha256": None, "href": "http://192.0.2.1/steal"}
    answer = {"folder": "/srv", "files": [hostile]}
    request = "hypersdk.client.transport.Transport.request"
    monkeypatch.setattr(request, lambda *_args, **_more: answer)
    folder = tmp_path / "inside"
    folder.mkdir()
    done = ctl("artifacts", job.id, "../outside", "-o", folder)
    assert (done.status, "cannot be the name of a file" in done.err) == (2, True)
    monkeypatch.undo()
    with Client(api.url, token=api.tokens["admin"], environ={}) as client:
        listed = client.artifacts(job.id)
        assert client.download(job.id, listed.get(NAME), folder / "disk") == hashlib.sha256(DATA).hexdigest()
