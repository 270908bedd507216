"""A completed export with a file of known content, for tests of what is done with files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.states import JobEvent
from hypersdk.units import MiB
from tests.support.apiserver import Api

DATA = bytes(range(256)) * 4096 + bytes(2 * MiB) + b"end"
NAME = "web 01 ü-disk1.qcow2"


def finished(
    api: Api, data: bytes = DATA, name: str = NAME, digests: Mapping[str, str | None] | None = None
) -> JobRecord:
    """A completed export of one file and its manifest."""
    job = api.add_job()
    folder = Path(job.target)
    folder.mkdir(parents=True)
    (folder / name).write_bytes(data)
    (folder / "artifact-manifest.json").write_bytes(b"{}")
    digests = digests or {"sha256": hashlib.sha256(data).hexdigest()}
    known = {"name": name, "size_bytes": len(data), **digests}
    claims = api.claims()
    claim = claims.claim(job.id, 1)
    assert claim is not None
    claims.end(claim, JobEvent.FINISH, result={"success": True, "files": [name], "artifacts": [known]})
    return job
