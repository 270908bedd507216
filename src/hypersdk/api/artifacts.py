"""Downloads of a finished export's files: from below an export root, without following links, in ranges.

The folder comes from the job's row and the file name from its result; neither is trusted. The folder is opened relative
to the descriptor of its root, component by component, and the file relative to that, so whatever was placed in the
folder meanwhile cannot lead elsewhere.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hypersdk.api.refusals import with_status
from hypersdk.errors import LookupFailed, Refused, TargetError, UsageError, register
from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.roots import ExportRoots
from hypersdk.units import KiB

ARTIFACT_UNKNOWN: Final = register(
    "artifact_unknown",
    "The job has no such file, or it does not exist any more.",
    "See `GET /api/v1/jobs/{id}/artifacts`.",
)
ARTIFACT_ELSEWHERE: Final = register(
    "artifact_elsewhere",
    "The export root with the job's files is not mounted on the host of this API.",
    "Ask the daemon of the host that wrote them, or mount the export root here at the same path.",
)
ARTIFACT_RANGE: Final = with_status(
    416,
    register(
        "artifact_range",
        "The requested range is beyond the end of the file.",
        "Content-Range gives the size of the file.",
    ),
)
MANIFEST: Final = "artifact-manifest.json"
PIECE: Final = 256 * KiB
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of a job. ``sha256`` and ``tree`` (``transfer.treehash``) are None where they were not computed."""

    name: str
    size_bytes: int | None = None
    sha256: str | None = None
    tree: str | None = None


def artifacts_of(job: JobRecord) -> list[Artifact]:
    """By the job's result; empty until it is completed. What tells how it went (``evidence``) is there after a failure,
    too."""
    if job.result is None:
        return []
    evidence = [Artifact(str(name)) for name in job.result.get("evidence", ())]
    return evidence if not job.result.get("success") else [*_files(job.result), *evidence]


def _files(result: Mapping[str, Any]) -> list[Artifact]:
    found = [_artifact(entry) for entry in result.get("artifacts", ()) if isinstance(entry, Mapping)]
    known = {artifact.name for artifact in found}
    found += [Artifact(str(name)) for name in result.get("files", ()) if name not in known]
    if MANIFEST not in {artifact.name for artifact in found}:
        found.append(Artifact(MANIFEST))
    return found


def _artifact(entry: Mapping[str, Any]) -> Artifact:
    size = entry.get("size_bytes")
    return Artifact(
        str(entry.get("name")), size if isinstance(size, int) else None, entry.get("sha256"), entry.get("tree")
    )


@dataclass(frozen=True, slots=True)
class OpenArtifact:
    """A regular file, open for reading. Whoever has it closes it."""

    descriptor: int
    name: str
    size: int
    tag: str

    def close(self) -> None:
        """For one that is not sent after all."""
        os.close(self.descriptor)


def open_artifact(job: JobRecord, name: str, roots: ExportRoots) -> OpenArtifact:
    """Raises LookupFailed ``artifact_unknown``, Refused ``artifact_elsewhere``."""
    if name not in {artifact.name for artifact in artifacts_of(job)} or "/" in name or name in ("", ".", ".."):
        raise _unknown(job, name)
    root = roots.by_id(job.root_id)
    if root is None or root != roots.of(job.target):
        raise Refused(f"the files of job '{job.id}' are not reachable from here", code=ARTIFACT_ELSEWHERE)
    try:
        with roots.opened(job.target, create=False) as folder:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=folder)
    except TargetError as error:
        raise _unknown(job, name) from error
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EACCES):
            raise _unknown(job, name) from error
        raise
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)
        raise _unknown(job, name)
    return OpenArtifact(descriptor, name, facts.st_size, f'"{facts.st_ino:x}-{facts.st_size:x}-{facts.st_mtime_ns:x}"')


def _unknown(job: JobRecord, name: str) -> LookupFailed:
    shown = name[:200].encode("ascii", "backslashreplace").decode()
    return LookupFailed(f"job '{job.id}' has no file '{shown}'", code=ARTIFACT_UNKNOWN)


def part_of(header: str | None, if_range: str | None, file: OpenArtifact) -> tuple[int, int] | None:
    """First byte and end of the requested range (RFC 9110, section 14); None for the whole file.

    Several ranges, other units and a stale ``If-Range`` give the whole file. Raises UsageError ``artifact_range``.
    """
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or (if_range is not None and if_range != file.tag):
        return None
    first, last = match[1], match[2]
    if not first and not last:
        return None
    if not first:
        start, end = max(0, file.size - int(last)), file.size
    else:
        start, end = int(first), min(int(last) + 1, file.size) if last else file.size
        if last and int(last) < start:
            return None
    if start >= file.size or start >= end:
        raise UsageError(f"'{file.name}' has {file.size} bytes", code=ARTIFACT_RANGE, size=file.size)
    return start, end


class FileResponse(Response):
    """Sends an open file or a part of it, to HEAD only the headers, and closes it, however it ends. Not compressed: a
    range counts the file's own bytes."""

    def __init__(self, file: OpenArtifact, part: tuple[int, int] | None) -> None:
        self._file = file
        self._start, self._end = part or (0, file.size)
        headers = {
            "content-length": str(self._end - self._start),
            "accept-ranges": "bytes",
            "etag": file.tag,
            "content-disposition": f"attachment; filename*=UTF-8''{quote(file.name, safe='')}",
            "content-encoding": "identity",
            "cache-control": "private, no-transform",
        }
        if part is not None:
            headers["content-range"] = f"bytes {self._start}-{self._end - 1}/{file.size}"
        kind = "application/json" if file.name.endswith(".json") else "application/octet-stream"
        super().__init__(None, 200 if part is None else 206, headers, kind)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            place = self._end if scope["method"] == "HEAD" else self._start
            while place < self._end:
                wanted = min(PIECE, self._end - place)
                data = await run_in_threadpool(os.pread, self._file.descriptor, wanted, place)
                if not data:
                    raise OSError(errno.EIO, f"{self._file.name} became shorter while it was sent")
                place += len(data)
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            os.close(self._file.descriptor)
