"""The files of a completed export: listed, and downloaded into a local file that appears only when it is complete and
its digest is the listed one.

::

    GET .../artifacts/NAME ──> NAME.partial ──> size, digest ──> synced, renamed to NAME
         │ connection breaks: again from the next byte on, if the file is still the same (If-Range)
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from hypersdk.client.errors import DaemonError, bad_answer
from hypersdk.client.records import decode, objects, take
from hypersdk.client.transport import Transport, path_part
from hypersdk.client.watching import Patience
from hypersdk.errors import TARGET_DENIED, ConnectError, IntegrityError, LookupFailed, TargetError
from hypersdk.resource import ListRecord
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import exists, open_output, publish, remove_own, target_errors
from hypersdk.transfer.treehash import tree_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact(ListRecord):
    """One file of an export. Size, SHA-256 and tree digest (docs/manifest.md) are None where the daemon does not know
    them. An image has a tree digest, and a SHA-256 only where it was asked for."""

    name: str
    size_bytes: int | None = None
    sha256: str | None = None
    tree: str | None = None

    @property
    def digest(self) -> str | None:
        """The digest that a download is compared with: ``tree:HEX`` or ``sha256:HEX``."""
        if self.tree is not None:
            return f"tree:{self.tree}"
        return None if self.sha256 is None else f"sha256:{self.sha256}"


@dataclass(frozen=True, slots=True)
class Artifacts:
    """The files of a job, empty until it is completed. ``folder`` is on the daemon's host."""

    folder: str
    files: tuple[Artifact, ...]
    raw: Mapping[str, Any]

    def get(self, name: str) -> Artifact:
        """Raises LookupFailed ``artifact_unknown``."""
        for artifact in self.files:
            if artifact.name == name:
                return artifact
        error = LookupFailed(
            f"the job has no file '{name[:200]}'",
            cause="The job is not completed, or its export has no file of that name.",
            next_step="List its files with `hyperctl artifacts ID`.",
        )
        error.code = "artifact_unknown"  # the daemon's, which is registered there
        raise error


def list_artifacts(transport: Transport, job: str) -> Artifacts:
    """Of the job at the path ``job``."""
    answer = transport.request("GET", f"{job}/artifacts")
    found = tuple(decode(Artifact, artifact) for artifact in objects(answer, "files"))
    return Artifacts(take(answer, "folder", str), found, answer)


def download(
    transport: Transport, job: str, artifact: Artifact, path: Path, on_bytes: Callable[[int], None], patience: Patience
) -> str:
    """Downloads a file of the job at the path ``job`` to ``path``, which must not exist, and returns its SHA-256.
    ``on_bytes`` gets the bytes so far.

    Raises TargetError, IntegrityError for a file that is not the listed one, ConnectError if the daemon stays away.
    """
    _check_absent(path)
    partial = path.with_name(f"{path.name}.partial")
    descriptor = open_output(partial, fresh=True)
    try:
        receiver = _Receiver(descriptor, artifact, on_bytes)
        # Not the URL in the answer, which could name another server: the token is sent with the request.
        receiver.receive(transport, f"{job}/artifacts/{path_part(artifact.name)}", patience)
        sha256 = receiver.checked()
        _check_absent(path)
        publish(descriptor, partial, path)
    except BaseException:
        with suppress(TargetError):
            remove_own(descriptor, partial)
        raise
    finally:
        os.close(descriptor)
    return sha256


def _check_absent(path: Path) -> None:
    if exists(path, follow_links=False):
        raise TargetError(f"{path} exists", code=TARGET_DENIED, next_step="Name a file that does not exist yet.")


_ENDED: Final = (ConnectError, DaemonError)


@dataclass
class _Receiver:
    """What was received of a file."""

    descriptor: int
    artifact: Artifact
    on_bytes: Callable[[int], None]
    received: int = 0
    tag: str | None = None
    total: int | None = None
    digest: Any = field(default_factory=hashlib.sha256)

    def receive(self, transport: Transport, url: str, patience: Patience) -> None:
        """Receives all bytes, in as many requests as it takes. The first request is not repeated."""
        while self.total is None or self.received < self.total:
            before = self.received
            try:
                self._request(transport, url)
            except _ENDED as error:
                if self.total is None or (error.code == "answer_unreadable" and self.received == before):
                    raise
                if self.received > before:
                    patience.reached()
                patience.wait(error)

    def _request(self, transport: Transport, url: str) -> None:
        headers = {"Range": f"bytes={self.received}-", "If-Range": self.tag or ""} if self.total is not None else {}
        with transport.download(url, headers) as (answer, chunks):
            if self.total is None:
                self.tag = answer.headers.get("ETag")
                self.total = _length(answer.headers)
            elif answer.status_code != HTTPStatus.PARTIAL_CONTENT:
                raise self._differs("it was replaced while it was downloaded")
            before = self.received
            for chunk in chunks:
                self._write(chunk)
            if before == self.received < self.total:
                raise bad_answer("it has no content")

    def _write(self, chunk: bytes) -> None:
        assert self.total is not None
        if self.received + len(chunk) > self.total:
            raise bad_answer("it is longer than announced")
        self.digest.update(chunk)
        if chunk.strip(b"\0"):  # zeros stay holes, as in the daemon's file
            with target_errors(f"writing {self.artifact.name}"):
                os.pwrite(self.descriptor, chunk, self.received)
        self.received += len(chunk)
        self.on_bytes(self.received)

    def checked(self) -> str:
        """The SHA-256 of the whole file. Raises IntegrityError."""
        with target_errors(f"writing {self.artifact.name}"):
            os.ftruncate(self.descriptor, self.received)
        found = str(self.digest.hexdigest())
        if self.artifact.size_bytes not in (None, self.received):
            raise self._differs(f"it has {self.received} bytes instead of {self.artifact.size_bytes}")
        if self.artifact.sha256 not in (None, found):
            raise self._differs("its SHA-256 is not that of the export")
        if self.artifact.tree not in (None, self._tree()):
            raise self._differs("its tree digest is not that of the export")
        return found

    def _tree(self) -> str | None:
        """The tree digest of the file that was written; None where there is none to compare it with."""
        if self.artifact.tree is None:
            return None
        with target_errors(f"reading {self.artifact.name} back"):
            return tree_digest(self.descriptor, CancelToken())

    def _differs(self, why: str) -> IntegrityError:
        return IntegrityError(
            f"'{self.artifact.name}' is not the file of the export: {why}",
            cause="The file on the daemon's host was changed after the export, or the data was damaged on the way.",
            next_step="Run `hyper2kvm verify` on the export's folder there, then download it again.",
        )


def _length(headers: Mapping[str, str]) -> int:
    text = headers.get("Content-Length", "")
    if not (text.isascii() and text.isdigit()):
        raise bad_answer("it has no Content-Length")
    return int(text)
