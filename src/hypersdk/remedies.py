"""What helps against an error, as values. Every face says in its own words how that is done.

::

    register(code, cause, *remedies)         what helps in general          hypersdk.errors
    SomeError(message, remedies=(...))       what helps in this case
        │
        ├─ hypersdk.cli.remedies             the flags of hyper2kvm, hyperctl and hypervisord
        ├─ hypersdk.jobs.remedies            fields of the job file, hyperctl commands, routes: rows of jobs and the API
        └─ as_json                           records that a dashboard makes buttons of

Remedies are listed in the order in which to try them. A preparation (``First``, ``ReportBug``, ``FreeSpace``) belongs
to the remedy after it; ``Advice`` and ``Look`` stand alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, TypeAlias, get_args

Subject: TypeAlias = Literal[
    "connection",
    "contexts",
    "daemon",
    "daemon_config",
    "daemon_log",
    "endpoints",
    "help",
    "job",
    "jobs",
    "machine",
    "machines",
    "permissions",
    "request",
    "runs",
    "tokens",
    "users",
]
MAX_TEXT: Final = 2000
"""Characters kept of a text that comes from another host."""


@dataclass(frozen=True, slots=True)
class Advice:
    """Whole sentences: what somebody does outside of HyperSDK, or what to read."""

    text: str


@dataclass(frozen=True, slots=True)
class First:
    """What somebody does outside of HyperSDK before the next remedy: a clause without a full stop."""

    text: str


@dataclass(frozen=True, slots=True)
class ReportBug:
    """Report a bug of HyperSDK."""


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """Free space on the file system of the output folder. ``bytes`` is what is missing, where it is known."""

    bytes: int | None = None
    folder: str | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """Do the same again; there is nothing to resume."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Continue from the last checkpoint."""


@dataclass(frozen=True, slots=True)
class Discard:
    """Give up what was written and start over."""


@dataclass(frozen=True, slots=True)
class RestoreSource:
    """Undo what is left at the source. ``snapshots``: the temporary snapshot too, although a resume could use it."""

    snapshots: bool = False


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Forget the job and leave its source as it is."""


@dataclass(frozen=True, slots=True)
class ExcludeDisk:
    """Leave a disk out. ``disk`` is its label, where one is meant."""

    disk: str | None = None


@dataclass(frozen=True, slots=True)
class ChooseFolder:
    """Export into another folder."""


@dataclass(frozen=True, slots=True)
class ReplaceFiles:
    """Overwrite what is in the folder."""


@dataclass(frozen=True, slots=True)
class ReplaceInput:
    """Get another copy of the file that was converted; no remedy for an export."""


@dataclass(frozen=True, slots=True)
class SetOption:
    """Give an option of the export, by its name in the job file, another value."""

    name: str
    value: str | bool


@dataclass(frozen=True, slots=True)
class LowerLimit:
    """Lower a limit of the program that exports."""

    limit: Literal["datastore_min_free", "streams"]


@dataclass(frozen=True, slots=True)
class TrustCertificate:
    """Trust the certificate with this SHA-256 fingerprint, after it was compared. ``renewed``: in place of the one that
    was trusted. ``of_daemon``: it is the daemon's own, not that of a vSphere server."""

    sha256: str | None = None
    renewed: bool = False
    of_daemon: bool = False


@dataclass(frozen=True, slots=True)
class NameServer:
    """Say which vCenter or ESXi host is meant."""


@dataclass(frozen=True, slots=True)
class GiveLogin:
    """Give the user name and the password for vSphere."""


@dataclass(frozen=True, slots=True)
class LogIn:
    """Log in to the daemon; ``longer``: for more days."""

    longer: bool = False


@dataclass(frozen=True, slots=True)
class UseToken:
    """Give an API token with the request."""


@dataclass(frozen=True, slots=True)
class NameDaemon:
    """Give another address of a daemon."""


@dataclass(frozen=True, slots=True)
class NameConfiguration:
    """Use another configuration file of a program."""


@dataclass(frozen=True, slots=True)
class Configure:
    """Set a key of the daemon's configuration."""

    key: str


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start a worker."""


@dataclass(frozen=True, slots=True)
class Look:
    """Where to see more."""

    at: Subject


Remedy: TypeAlias = (
    Advice
    | First
    | ReportBug
    | FreeSpace
    | Retry
    | Resume
    | Discard
    | RestoreSource
    | GiveUp
    | ExcludeDisk
    | ChooseFolder
    | ReplaceFiles
    | ReplaceInput
    | SetOption
    | LowerLimit
    | TrustCertificate
    | NameServer
    | GiveLogin
    | LogIn
    | UseToken
    | NameDaemon
    | NameConfiguration
    | Configure
    | StartWorker
    | Look
)


@dataclass(frozen=True, slots=True)
class Notice:
    """A warning, and what may be done about it."""

    text: str
    remedies: tuple[Remedy, ...] = ()


def kind_of(kind: type[Remedy]) -> str:
    """The word for it in JSON: ``exclude_disk``."""
    return re.sub(r"(?<!^)([A-Z])", r"_\1", kind.__name__).lower()


KINDS: Final[Mapping[str, type[Remedy]]] = {kind_of(kind): kind for kind in get_args(Remedy)}


def as_json(remedies: Iterable[Remedy]) -> list[dict[str, Any]]:
    """Records with their ``kind`` and what is known of the rest."""
    found = []
    for remedy in remedies:
        values = {field.name: getattr(remedy, field.name) for field in fields(remedy)}
        found.append(
            {"kind": kind_of(type(remedy)), **{key: value for key, value in values.items() if value is not None}}
        )
    return found


def of_json(found: object) -> tuple[Remedy, ...] | None:
    """What ``as_json`` wrote, maybe on another host. None where it cannot be read: another version may have other
    kinds."""
    if not isinstance(found, list) or not found:
        return None
    read = [_read(record) for record in found]
    return None if None in read else tuple(remedy for remedy in read if remedy is not None)


def _read(record: object) -> Remedy | None:
    kind = KINDS.get(str(record.get("kind"))) if isinstance(record, dict) else None
    if kind is None or not isinstance(record, dict):
        return None
    known = {field.name for field in fields(kind)}
    values = {key: _bounded(value) for key, value in record.items() if key in known}
    try:
        return kind(**values)
    except TypeError:
        return None


def _bounded(value: object) -> Any:
    return value if isinstance(value, int) else str(value)[:MAX_TEXT]


def text_of(remedies: Sequence[Remedy], clause: Callable[[Remedy], str | None]) -> str:
    """Remedies as sentences. ``clause`` says each in the words of a face, or None where that face has no way to do
    it."""
    sentences: list[str] = []
    before: Remedy | None = None
    for remedy in remedies:
        said = clause(remedy)
        if said is None:
            continue
        alone = isinstance(remedy, Advice | Look | ReplaceInput)
        if isinstance(remedy, Advice):
            sentences.append(said)
        elif alone or before is None or (isinstance(remedy, RestoreSource) and not _prepares(before)):
            sentences.append(f"{said[:1].upper()}{said[1:]}.")
        else:
            joint = ", then " if _prepares(before) else ", or "
            sentences[-1] = f"{sentences[-1][:-1]}{joint}{said}."
        before = None if alone else remedy
    return " ".join(sentences)


def _prepares(remedy: Remedy) -> bool:
    return isinstance(remedy, First | ReportBug | FreeSpace)


def of_source(remedies: Iterable[Remedy]) -> tuple[Remedy, ...]:
    """Those that are about what is left at the source, whatever else is wrong."""
    return tuple(remedy for remedy in remedies if isinstance(remedy, RestoreSource))


def advice(remedies: Sequence[Remedy]) -> str:
    """What has no need of a face to say it: for a log."""
    return text_of(remedies, lambda remedy: remedy.text if isinstance(remedy, Advice | First) else None)
