"""Remedies of errors, as values. Every interface (command line, API) words them for its users.

::

    register(code, cause, *remedies)         the general remedies           hypersdk.errors
    SomeError(message, remedies=(...))       those of this case
        │
        ├─ hypersdk.cli.remedies             the flags of hyper2kvm, hyperctl and hypervisord
        ├─ hypersdk.jobs.remedies            fields of the job file, hyperctl commands, routes: rows of jobs and the API
        └─ as_json                           records, from which a dashboard makes buttons

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
"""Limit of a text from another host, in characters."""


@dataclass(frozen=True)
class _Plain:
    """A remedy without fields. Subclasses need no code of their own: every run of every program imports this module."""


@dataclass(frozen=True)
class Advice:
    """Whole sentences: something to do outside of HyperSDK, or to read."""

    text: str


@dataclass(frozen=True)
class First:
    """Something to do outside of HyperSDK before the next remedy: a clause without a full stop."""

    text: str


class ReportBug(_Plain):
    """Report a bug of HyperSDK."""


@dataclass(frozen=True)
class FreeSpace:
    """Free space on the file system of the output folder. ``bytes`` is what is missing, where it is known."""

    bytes: int | None = None
    folder: str | None = None


class Retry(_Plain):
    """Repeat the command; there is nothing to resume."""


class Resume(_Plain):
    """Continue from the last checkpoint."""


class Discard(_Plain):
    """Discard what was written and start over."""


@dataclass(frozen=True)
class RestoreSource:
    """Undo the remaining changes to the source. ``snapshots``: also remove the temporary snapshot, although a resume
    could use it."""

    snapshots: bool = False


class GiveUp(_Plain):
    """Delete the job and leave its source as it is."""


@dataclass(frozen=True)
class ExcludeDisk:
    """Exclude a disk. ``disk`` is its label, where a certain disk is meant."""

    disk: str | None = None


class ChooseFolder(_Plain):
    """Export into another folder."""


class ReplaceFiles(_Plain):
    """Overwrite the files in the folder."""


class ReplaceInput(_Plain):
    """Get another copy of the file that was converted; not a remedy for an export."""


@dataclass(frozen=True)
class SetOption:
    """Change an option of the export, by its name in the job file."""

    name: str
    value: str | bool


@dataclass(frozen=True)
class LowerLimit:
    """Lower a limit of the program that exports."""

    limit: Literal["datastore_min_free", "streams"]


@dataclass(frozen=True)
class TrustCertificate:
    """Trust the certificate with this SHA-256 fingerprint, after comparing it. ``renewed``: it replaces a trusted one.
    ``of_daemon``: it is the daemon's, not that of a vSphere server."""

    sha256: str | None = None
    renewed: bool = False
    of_daemon: bool = False


class NameServer(_Plain):
    """Name the vCenter or ESXi host."""


class GiveLogin(_Plain):
    """Provide the user name and the password for vSphere."""


@dataclass(frozen=True)
class LogIn:
    """Log in to the daemon; ``longer``: for more days."""

    longer: bool = False


class UseToken(_Plain):
    """Send an API token with the request."""


class NameDaemon(_Plain):
    """Use another address of a daemon."""


class NameConfiguration(_Plain):
    """Use another configuration file of a program."""


@dataclass(frozen=True)
class Configure:
    """Set a key of the daemon's configuration."""

    key: str


class StartWorker(_Plain):
    """Start a worker."""


@dataclass(frozen=True)
class Look:
    """Look up more information."""

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


@dataclass(frozen=True)
class Notice:
    """A warning and its remedies."""

    text: str
    remedies: tuple[Remedy, ...] = ()


def kind_of(kind: type[Remedy]) -> str:
    """Its name in JSON: ``exclude_disk``."""
    return re.sub(r"(?<!^)([A-Z])", r"_\1", kind.__name__).lower()


KINDS: Final[Mapping[str, type[Remedy]]] = {kind_of(kind): kind for kind in get_args(Remedy)}


def as_json(remedies: Iterable[Remedy]) -> list[dict[str, Any]]:
    """Records with their ``kind`` and the fields that have a value."""
    found = []
    for remedy in remedies:
        values = {field.name: getattr(remedy, field.name) for field in fields(remedy)}
        found.append(
            {"kind": kind_of(type(remedy)), **{key: value for key, value in values.items() if value is not None}}
        )
    return found


def of_json(found: object) -> tuple[Remedy, ...] | None:
    """Reads what ``as_json`` wrote, maybe on another host. None where it cannot be read: another version may have other
    kinds."""
    if not isinstance(found, list) or not found:
        return None
    try:
        return tuple(_read(record) for record in found)
    except (KeyError, TypeError):
        return None


def _read(record: Mapping[str, object]) -> Remedy:
    kind = KINDS[str(record["kind"])]
    known = {field.name for field in fields(kind)}
    return kind(**{key: _bounded(value) for key, value in record.items() if key in known})


def _bounded(value: object) -> Any:
    return value if isinstance(value, int) else str(value)[:MAX_TEXT]


def text_of(remedies: Sequence[Remedy], clause: Callable[[Remedy], str | None]) -> str:
    """Remedies as sentences. ``clause`` returns the words of an interface for a remedy, or None where the interface has
    no way to do it."""
    sentences: list[str] = []
    before: Remedy | None = None
    for remedy in remedies:
        text = clause(remedy)
        if text is None:
            continue
        alone = isinstance(remedy, Advice | Look | ReplaceInput)
        if isinstance(remedy, Advice):
            sentences.append(text)
        elif alone or before is None or (isinstance(remedy, RestoreSource) and not _prepares(before)):
            sentences.append(f"{text[:1].upper()}{text[1:]}.")
        else:
            joint = ", then " if _prepares(before) else ", or "
            sentences[-1] = f"{sentences[-1][:-1]}{joint}{text}."
        before = None if alone else remedy
    return " ".join(sentences)


def _prepares(remedy: Remedy) -> bool:
    return isinstance(remedy, First | ReportBug | FreeSpace)


def of_source(remedies: Iterable[Remedy]) -> tuple[Remedy, ...]:
    """The remedies that restore the source; they apply whatever else is wrong."""
    return tuple(remedy for remedy in remedies if isinstance(remedy, RestoreSource))


def advice(remedies: Sequence[Remedy]) -> str:
    """The text of the remedies that need no words of an interface: for a log."""
    return text_of(remedies, lambda remedy: remedy.text if isinstance(remedy, Advice | First) else None)
