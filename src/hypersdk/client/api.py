"""The client itself."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeAlias

from hypersdk.access.records import AuditEntry
from hypersdk.client import bulk
from hypersdk.client.address import AddressOptions, Target, find_target
from hypersdk.client.artifacts import Artifact, Artifacts, download, list_artifacts
from hypersdk.client.bulk import Action, BulkResult, Selection
from hypersdk.client.errors import JOB_AMBIGUOUS
from hypersdk.client.records import (
    DaemonStatus,
    Explanation,
    HeldSnapshot,
    Job,
    LogPart,
    Me,
    Page,
    Rejection,
    Submission,
    decode,
    objects,
    take,
)
from hypersdk.client.resources import Endpoints, Tokens, Users, audit_trail, every, who_am_i
from hypersdk.client.transport import Transport, path_part
from hypersdk.client.watching import MAX_IDS, Patience, Watch, retry_until_back
from hypersdk.errors import LookupFailed, UsageError
from hypersdk.jobs.ids import LEAST_PREFIX, whole_id
from hypersdk.jobs.records import WorkerInfo
from hypersdk.jobs.states import LEGACY_STATUS, STATE_WORDS
from hypersdk.model.eta import QueueProgress
from hypersdk.secret import Secret
from hypersdk.units import MiB

API: Final = "/api/v1"
JOBS: Final = f"{API}/jobs"
DEFAULT_TIMEOUT_S: Final = 60.0
PAGE: Final = 200
MAX_CANDIDATES: Final = 10
"""Jobs that the error about an ambiguous id lists."""
MAX_JOB_FILE_BYTES: Final = 4 * MiB
LOG_WAIT_S: Final = 20
LOG_ANSWER_S: Final = 10
"""Time for the response after the requested wait."""
YAML: Final = "application/yaml"
JSON: Final = "application/json"


def _ignore(_: int) -> None:
    pass


Definition: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any]] | Path | str | bytes


class Client:
    """A daemon. Thread-safe; to be closed, or used as a context manager.

    ::

        with Client() as client:
            job = client.submit({"vm_path": "/data/vm/web01", "output_path": "/tmp/web01", "format": "qcow2"}).job
            job = client.wait(job.id, on_progress=lambda job: print(f"{job.progress.percent_complete:.0f} %"))
            print(job.raise_for_failure().files)

    What is not given is found as hyperctl finds it: the context, ``$HYPERVISORD_URL``, the current context,
    ``http://localhost:8080``; the token in ``$HYPERVISORD_TOKEN``, the context, or the daemon's own file on this
    machine. Every method raises HyperSDKError with the daemon's code: UsageError, AccessError, LookupFailed, Refused,
    ConnectError, DaemonError ... A write is sent again when the connection broke, with the same Idempotency-Key, so it
    is done once.
    """

    def __init__(
        self,
        url: str | None = None,
        token: Secret | str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        ca_bundle: str | os.PathLike[str] | None = None,
        thumbprint: str | None = None,
        insecure: bool = False,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        *,
        context: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        wanted = AddressOptions(
            url,
            Secret(token) if isinstance(token, str) else token,
            None if token_file is None else Path(token_file),
            None if ca_bundle is None else Path(ca_bundle),
            thumbprint,
            insecure,
            context,
        )
        self.target: Final[Target] = find_target(wanted, os.environ if environ is None else environ)
        self._transport: Final = Transport(self.target, timeout_s)
        self.endpoints: Final = Endpoints(self._transport)
        """The vCenter and ESXi hosts registered with the daemon."""
        self.tokens: Final = Tokens(self._transport)
        """API tokens."""
        self.users: Final = Users(self._transport)
        """Users; for administrators."""

    @property
    def url(self) -> str:
        """The daemon's address."""
        return self.target.url

    def close(self) -> None:
        """Closes all connections."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The daemon

    def health(self) -> Mapping[str, Any]:
        """``{"status": "healthy", ...}``; needs no token."""
        return self._transport.request("GET", "/health")

    def status(self) -> DaemonStatus:
        """Version, uptime and how many jobs there are."""
        return decode(DaemonStatus, self._transport.request("GET", "/status"))

    def queue(self) -> QueueProgress | None:
        """Percentage and remaining time of all jobs, the waiting ones included; None from earlier daemons, which do not
        tell it."""
        found = self._transport.request("GET", f"{API}/statistics")
        return decode(QueueProgress, take(found, "queue", dict)) if "queue" in found else None

    def me(self) -> Me:
        """The identity of the caller."""
        return who_am_i(self._transport)

    def workers(self, where: Mapping[str, Any] | None = None) -> Sequence[WorkerInfo]:
        """The worker processes, live ones first. ``where`` has parameters of the list: ``{"state": ["alive"]}``."""
        found = every(self._transport, f"{API}/workers", "workers", where)
        return tuple(decode(WorkerInfo, worker) for worker in found)

    def audit(self, where: Mapping[str, Any] | None = None, limit: int | None = None) -> Iterator[AuditEntry]:
        """The audit trail, newest entries first, fetched page by page; for administrators. ``where`` as of
        ``workers``."""
        return audit_trail(self._transport, where or {}, limit)

    # Submit

    def submit(
        self,
        definition: Definition,
        *,
        endpoint_id: str | None = None,
        priority: int = 0,
        idempotency_key: str | None = None,
    ) -> Submission:
        """Submits jobs: one definition or several as mappings, a ``Path`` of a job file, or the text of one (JSON or
        YAML).

        Each definition is accepted or rejected on its own. ``endpoint_id`` is for those that name no endpoint; a higher
        ``priority`` goes first (-1000 to 1000). Raises UsageError if the text cannot be parsed at all.
        """
        body, kind = job_file(definition)
        headers = {"Content-Type": kind}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        params: dict[str, Any] = {"priority": priority} if priority else {}
        if endpoint_id is not None:
            params["endpoint_id"] = endpoint_id
        answer = self._transport.request("POST", JOBS, params=params, body=body, headers=headers)
        return Submission(
            tuple(decode(Job, job) for job in objects(answer, "accepted")),
            tuple(Rejection.of(rejection) for rejection in objects(answer, "rejected")),
            tuple(str(text) for text in take(answer, "warnings", list, [])),
        )

    # Look

    def get(self, job_id: str) -> Job:
        """Raises LookupFailed ``job_unknown``."""
        return decode(Job, self._transport.request("GET", job_path(job_id)))

    def find_id(self, text: str) -> str:
        """The id of the job that ``text`` stands for: a whole id, or else the one job with that name or whose id begins
        with it (from 4 characters on, ignoring case). A text that stands for no job is returned as it is.

        Raises LookupFailed ``job_ambiguous`` if it stands for several jobs.
        """
        if (whole := whole_id(text)) is not None or not text:
            return whole or text
        try:
            found = list(islice(self._candidates(text), MAX_CANDIDATES + 1))
        except UsageError:  # an earlier daemon, which knows whole ids only, or a text that no id can have
            return text
        if len(found) <= 1 or found[0].id == text:
            return found[0].id if found else text
        shown = ", ".join(f"{job.id} ({job.name})" for job in found[:MAX_CANDIDATES])
        more = ", ..." if len(found) > MAX_CANDIDATES else ""
        raise LookupFailed(
            f"'{text}' means several jobs: {shown}{more}",
            code=JOB_AMBIGUOUS,
            candidates=[{"id": job.id, "name": job.name} for job in found[:MAX_CANDIDATES]],
        )

    def _candidates(self, text: str) -> Iterator[Job]:
        """Jobs for which ``text`` stands, each once, the one with that id first."""
        begun = self.page(id_prefix=text, sort="id", limit=MAX_CANDIDATES + 1).jobs
        if len(text) < LEAST_PREFIX:
            begun = begun[:1] if begun and begun[0].id == text else ()
        yield from begun  # an id sorts before those that begin with it
        seen = {job.id for job in begun}
        for job in self.list(where={"name": text}):
            if job.name == text and job.id not in seen:
                yield job

    def page(
        self,
        *,
        ids: Sequence[str] = (),
        states: Sequence[str] = (),
        text: str = "",
        id_prefix: str = "",
        sort: str = "-number",
        limit: int = PAGE,
        offset: int = 0,
        cursor: str | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> Page:
        """Part of the list of jobs, newest first unless sorted otherwise. ``states`` are the daemon's words or the five
        legacy ones. ``where`` has more parameters of the list, such as ``{"created_before": "2026-01-31T00:00:00Z"}``.
        """
        params: dict[str, Any] = {**(where or {}), "sort": sort, "limit": limit}
        named: dict[str, Any] = {"id": list(ids), "state": states_of(states), "text": text, "id_prefix": id_prefix}
        named |= {"offset": offset, "cursor": cursor}
        params |= {key: value for key, value in named.items() if value}
        return Page.of(self._transport.request("GET", JOBS, params=params))

    def list(
        self,
        *,
        states: Sequence[str] = (),
        text: str = "",
        limit: int | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> Iterator[Job]:
        """All jobs, newest first, fetched page by page; jobs that are added or deleted meanwhile do not shift the
        pages. ``where`` as of ``page``."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            size = PAGE if left is None else min(left, PAGE)
            page = self.page(states=states, text=text, limit=size, cursor=cursor, where=where)
            yield from page.jobs
            left = None if left is None else left - len(page.jobs)
            cursor = page.next_cursor
            if cursor is None or not page.jobs:
                return

    def query(
        self,
        ids: Sequence[str] = (),
        status: Sequence[str] = (),
        text: str = "",
        where: Mapping[str, Any] | None = None,
    ) -> Sequence[Job]:
        """The jobs with these ids, in these states, containing ``text``; all jobs without any of these. Unknown ids
        are skipped. ``where`` as of ``page``."""
        if not ids:
            return tuple(self.list(states=status, text=text, where=where))
        found: dict[str, Job] = {}
        for at in range(0, len(ids), MAX_IDS):
            page = self.page(ids=ids[at : at + MAX_IDS], states=status, text=text, where=where)
            found |= {job.id: job for job in page.jobs}
        return tuple(found[job_id] for job_id in dict.fromkeys(ids) if job_id in found)

    def snapshots(self) -> Sequence[HeldSnapshot]:
        """The temporary snapshots that jobs hold at their sources. Only the job may remove them."""
        answer = self._transport.request("GET", f"{API}/snapshots")
        return tuple(decode(HeldSnapshot, snapshot) for snapshot in objects(answer, "snapshots"))

    def explain(self, job_id: str) -> Explanation:
        """The reason for the job's current state, and what to do about it."""
        return decode(Explanation, self._transport.request("GET", f"{job_path(job_id)}/explain"))

    def artifacts(self, job_id: str) -> Artifacts:
        """The files of a completed job."""
        return list_artifacts(self._transport, job_path(job_id))

    def download(self, job_id: str, artifact: Artifact, path: Path, on_bytes: Callable[[int], None] = _ignore) -> str:
        """Downloads a file of a job to ``path``, which must not exist, and returns its SHA-256; ``on_bytes`` gets the
        bytes so far. The file appears when it is complete and is the listed one; else IntegrityError is raised."""
        return download(self._transport, job_path(job_id), artifact, path, on_bytes, Patience())

    # Follow

    def wait(
        self, job_id: str, timeout_s: float | None = None, on_progress: Callable[[Job], None] | None = None
    ) -> Job:
        """The job once it has finished, successfully or not: see ``Job.raise_for_failure``. ``on_progress`` is called
        at most a few times a second.

        Waits for a daemon that restarts meanwhile. Raises TransientError ``wait_over`` after ``timeout_s``; the job
        continues.
        """
        last: Job | None = None
        for last in self.watch([job_id], timeout_s):
            if on_progress is not None:
                on_progress(last)
        assert last is not None, "a watch of one job shows it at least once"
        return last

    def watch(self, ids: Sequence[str] = (), timeout_s: float | None = None) -> Iterator[Job]:
        """Each job as it is now and again whenever it changes, using the event stream if available. Ends when all of
        ``ids`` have finished; without ids it follows all jobs and does not end."""
        unique = tuple(dict.fromkeys(ids))
        return Watch(self.get, lambda some: self.page(ids=some), self._transport, unique, timeout_s).updates()

    def logs(self, job_id: str, after: int = 0, wait_s: int = 0) -> LogPart:
        """The job's log from byte ``after`` on; with ``wait_s`` (at most 20) the daemon waits for new output."""
        wait_s = min(wait_s, LOG_WAIT_S)
        path, params = f"{job_path(job_id)}/logs", {"after": after, "wait": wait_s}
        answer = self._transport.request("GET", path, params=params, timeout_s=wait_s + LOG_ANSWER_S)
        return decode(LogPart, answer)

    def follow_logs(self, job_id: str) -> Iterator[str]:
        """The job's log in chunks as they arrive, to its end. Waits for a daemon that restarts meanwhile; nothing is
        lost or repeated."""
        part = self.logs(job_id)
        while True:
            if part.text:
                yield part.text
            if part.ended:
                return
            part = retry_until_back(partial(self.logs, job_id, part.end, LOG_WAIT_S))

    # Ask

    def cancel(self, job_id: str, *, keep_partial: bool = False) -> Job:
        """Requests cancellation: the job is ``cancelled`` once its source is restored. Raises Refused for a finished
        job."""
        return self._ask(job_id, "cancel", {"keep_partial": keep_partial} if keep_partial else None)

    def pause(self, job_id: str) -> Job:
        """Pauses the job at its next checkpoint until it is resumed."""
        return self._ask(job_id, "pause")

    def resume(self, job_id: str) -> Job:
        """Puts a paused job back into the queue."""
        return self._ask(job_id, "resume")

    def retry(self, job_id: str, *, discard: bool = False) -> Job:
        """Puts a failed or cancelled job back into the queue: from its last checkpoint, or from the beginning with
        ``discard``."""
        return self._ask(job_id, "retry", {"discard": discard} if discard else None)

    def delete(self, job_id: str, *, give_up: bool = False) -> None:
        """Deletes a finished job and its log; the exported files are kept. With ``give_up`` also a job whose source
        could not be restored: its changes there remain."""
        self._transport.request("DELETE", job_path(job_id), params={"give_up": give_up} if give_up else None)

    def select(self, action: Action, where: Mapping[str, Any]) -> Selection:
        """The jobs that match ``where`` (as of ``page``) and whose state allows the action. Changes nothing."""
        return bulk.select(self._transport, action, where)

    def act(self, action: Action, ids: Sequence[str], **flags: bool) -> BulkResult:
        """Acts on up to 1,000 jobs in one request. ``flags``: ``keep_partial`` for cancel, ``discard`` for retry."""
        return bulk.act(self._transport, action, ids, flags)

    def _ask(self, job_id: str, what: str, params: Mapping[str, bool] | None = None) -> Job:
        return decode(Job, self._transport.request("POST", f"{job_path(job_id)}/{what}", params=params))


def states_of(words: Sequence[str]) -> Sequence[str]:
    """The daemon's states for its own words and for the five legacy ones (``pending`` is queued and paused). Raises
    UsageError."""
    found: dict[str, None] = {}
    for word in words:
        states = [state for state, legacy in LEGACY_STATUS.items() if word.lower() in (state.value, legacy)]
        if not states:
            raise UsageError(f"'{word[:40]}' is not a job state", next_step=f"One of {', '.join(STATE_WORDS)}.")
        # "running" is a state and one of the legacy words: the legacy one is meant, which is the wider.
        found |= dict.fromkeys(state.value for state in states)
    return list(found)


def job_path(job_id: str) -> str:
    """The path of a job; a slash in the id is escaped."""
    if job_id in ("", ".", ".."):
        raise UsageError(
            f"'{job_id}' is not a job id", next_step="Give one that submit printed; `hyperctl query -all` lists them."
        )
    return f"{JOBS}/{path_part(job_id)}"


def job_file(definition: Definition) -> tuple[bytes, str]:
    """The body of a submit and its content type. Raises UsageError for a file that cannot be read or is too large."""
    if isinstance(definition, Path):
        return _bounded(_read(definition), str(definition)), JSON if definition.suffix.lower() == ".json" else YAML
    if isinstance(definition, str | bytes):
        data = definition if isinstance(definition, bytes) else _encoded(definition)
        # JSON is also YAML, as far as job files go: the daemon parses both as YAML and rejects what only one allows.
        return _bounded(data, "the job file"), JSON if data.lstrip()[:1] in (b"{", b"[") else YAML
    try:
        return _bounded(json.dumps(definition, default=_plain).encode(), "the definition"), JSON
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the definition cannot be written as JSON: {error}",
            next_step="Use strings, numbers, lists and mappings only.",
        ) from error


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(
            "the job file has characters that cannot be encoded as UTF-8", next_step="Read it as bytes, or as UTF-8."
        ) from error


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_JOB_FILE_BYTES + 1)
    except OSError as error:
        reason = error.strerror or "not a file"
        raise UsageError(
            f"the job file {path} cannot be read: {reason}",
            cause=f"{reason}.",
            next_step="Name an existing file that you can read.",
        ) from error


def _bounded(data: bytes, what: str) -> bytes:
    if len(data) > MAX_JOB_FILE_BYTES:
        raise UsageError(f"{what} is larger than {MAX_JOB_FILE_BYTES // MiB} MiB", next_step="Submit it in parts.")
    return data
