"""Records returned by the daemon. Frozen; sizes in bytes, durations in seconds, times with their zone.

A field that a newer daemon adds is in ``raw``, the JSON object as received.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar, get_origin

from hypersdk.access.records import ApiToken
from hypersdk.client.errors import bad_answer, family_of_exit, remote_error
from hypersdk.errors import HyperSDKError
from hypersdk.jobs.records import JobColumns, StepColumns
from hypersdk.model import ExportProgress, read_fields
from hypersdk.resource import ListRecord, Named, fields_of
from hypersdk.secret import Secret

V = TypeVar("V")
Raw = Mapping[str, Any]
ENDED_STATES: Final = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Progress(ExportProgress):
    """Progress of a job. All fields are present from the first response on; unknown values are 0, empty or None."""

    raw: Raw = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, raw: Raw) -> Progress:
        """From its JSON object. Raises DaemonError ``answer_unreadable``."""
        try:
            known = read_fields(ExportProgress, raw)
        except ValueError as error:
            raise bad_answer(str(error)) from error
        known["note"] = known.get("note") or known.get("stalled") or ""
        return cls(**known, raw=raw)

    @property
    def percent_complete(self) -> float:
        """0 to 100."""
        return round(self.fraction * 100, 1)

    @property
    def bytes_downloaded(self) -> int:
        """Bytes that came over the wire."""
        return self.wire_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(JobColumns):
    """One job. ``state`` is the daemon's word (queued, running, pausing, paused, cancelling, completed, failed,
    cancelled), ``status`` the same in the five words of the legacy routes."""

    progress: Progress

    @property
    def ended(self) -> bool:
        """Whether it is finished: completed, failed or cancelled."""
        return self.state in ENDED_STATES

    @property
    def files(self) -> tuple[str, ...]:
        """The exported files; empty until the job is completed."""
        found = (self.result or {}).get("files") or ()
        return tuple(str(name) for name in found) if isinstance(found, Sequence) else ()

    def raise_for_failure(self) -> Job:
        """Returns the job itself; raises its error if it failed or was cancelled."""
        if self.state not in ("failed", "cancelled"):
            return self
        facts: Raw = self.error or ({} if self.state == "failed" else {"code": "cancelled", "exit_status": 130})
        family = family_of_exit(facts.get("exit_status"))
        message = facts.get("message") or f"job {self.id} was {self.state}"
        raise remote_error(family, str(message), facts, family.default_code, {"job": self.id})


@dataclass(frozen=True, slots=True)
class Rejection:
    """A rejected definition. ``number`` is its position in the submission, from 1."""

    number: int
    error: HyperSDKError

    @classmethod
    def of(cls, raw: Raw) -> Rejection:
        """From its JSON object."""
        facts: Raw = take(raw, "error", dict)
        family = family_of_exit(facts.get("exit_status", 2))
        return cls(
            take(raw, "number", int, 1),
            remote_error(family, take(facts, "message", str, "not accepted"), facts, family.default_code, {}),
        )


@dataclass(frozen=True, slots=True)
class Submission:
    """The result of a submission: each definition was accepted or rejected on its own. ``warnings`` are about settings
    without effect."""

    accepted: tuple[Job, ...]
    rejected: tuple[Rejection, ...]
    warnings: tuple[str, ...] = ()

    @property
    def job(self) -> Job:
        """The only job that was submitted; raises the error where it was rejected."""
        if self.rejected:
            raise self.rejected[0].error
        if len(self.accepted) != 1:
            raise ValueError(f"{len(self.accepted)} jobs were submitted, not one")
        return self.accepted[0]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list. ``revision`` moves with every change of the list."""

    jobs: tuple[Job, ...]
    total: int
    revision: int
    next_cursor: str | None
    facets: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(cls, raw: Raw) -> Page:
        """From its JSON object."""
        return cls(
            tuple(decode(Job, job) for job in objects(raw, "jobs")),
            take(raw, "total", int),
            take(raw, "revision", int),
            None if raw.get("next_cursor") is None else take(raw, "next_cursor", str),
            take(raw, "facets", dict, {}),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation(ListRecord):
    """The reason for a job's current state: cause, next step and earlier attempts."""

    code: str = ""
    message: str = ""
    cause: str = ""
    next_step: str = ""

    @property
    def history(self) -> list[Raw]:
        """All attempts, oldest first."""
        return objects(self.raw, "history") if "history" in self.raw else []


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSnapshot(ListRecord):
    """A temporary snapshot that a job holds, or left behind, at its source."""

    snapshot: str
    job_id: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonStatus(ListRecord):
    """The daemon's version, uptime and job counts."""

    version: str
    uptime: str
    total_jobs: int = 0
    running_jobs: int = 0
    completed_jobs: int = 0
    failed_jobs: int = 0
    cancelled_jobs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPart(ListRecord):
    """A chunk of a job's log. ``end`` is the offset to continue from; ``ended``: the log is complete."""

    text: str
    end: int
    ended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Me(ListRecord):
    """The identity of the caller. ``via`` is token, cookie or local (a daemon without authentication). ``expires_at``
    is None for a token that does not expire, and from earlier daemons, which do not tell it."""

    name: str
    role: str
    scope: str
    via: str
    token_id: str | None = None
    expires_at: datetime | None = None

    @property
    def permissions(self) -> list[Raw]:
        """All actions, each with ``allowed``, and the ``reason`` if it is not."""
        return objects(self.raw, "permissions") if "permissions" in self.raw else []


@dataclass(frozen=True, slots=True)
class NewToken:
    """A new token. ``secret`` is available only here."""

    token: ApiToken
    secret: Secret


R = TypeVar("R", bound=ListRecord)


def decode(record: type[R], raw: Raw) -> R:
    """A record from its JSON object. Raises DaemonError ``answer_unreadable``."""
    return record(
        **{column.name: _value(column, raw) for column in fields_of(record) if column.required or column.name in raw},
        raw=raw,
    )


def _value(named: Named, raw: Raw) -> Any:
    if named.optional and raw.get(named.name) is None:
        return None
    return _READERS.get(named.type, _typed)(raw, named.name, named.type)


def _typed(raw: Raw, key: str, kind: Any) -> Any:
    return take(raw, key, get_origin(kind) or kind)


_READERS: Final[Mapping[Any, Callable[[Raw, str, Any], Any]]] = {
    datetime: lambda raw, key, _: _moment(raw, key),
    float: lambda raw, key, _: float(take(raw, key, int | float)),  # type: ignore[arg-type] # isinstance takes a union
    tuple[str, ...]: lambda raw, key, _: tuple(take(raw, key, list)),
    Mapping[str, Any]: lambda raw, key, _: take(raw, key, dict),
    Progress: lambda raw, key, _: Progress.of(take(raw, key, dict)),
    tuple[StepColumns, ...]: lambda raw, key, _: tuple(decode(StepColumns, step) for step in objects(raw, key)),
}
_REQUIRED: Final[Any] = object()


def take(raw: Raw, key: str, kind: type[V], default: Any = _REQUIRED) -> V:
    """The value of ``key``; ``default`` where it is missing. Raises DaemonError where it is of another kind."""
    value = raw.get(key, default)
    if value is _REQUIRED or not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise bad_answer(f"'{key}' is missing or no {kind.__name__}")
    return value


def _moment(raw: Raw, key: str) -> datetime:
    """A time, RFC 3339."""
    text = take(raw, key, str)
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise bad_answer(f"'{key}' is not a time") from error
    if found.tzinfo is None:
        raise bad_answer(f"'{key}' has no time zone")
    return found


def objects(raw: Raw, key: str) -> list[Raw]:
    """A list of JSON objects."""
    found = take(raw, key, list)
    if not all(isinstance(item, dict) for item in found):
        raise bad_answer(f"'{key}' is not a list of objects")
    return found
