"""The error tree. Every failure that a user can meet has a stable code, a cause, remedies and an exit status.

::

    HyperSDKError
    ├── UsageError                bad flag, job file, selector                          exit 2
    ├── ConnectError              name, route, TLS, certificate                         exit 3
    ├── AccessError               login refused, privilege missing                      exit 4
    ├── LookupFailed              no such machine, or more than one                     exit 5
    ├── Refused                   refused by the preflight checks                       exit 6
    ├── SourceError               vSphere or the stream failed, retries used up         exit 7
    │   └── TransientError        may succeed when retried: all that a retry loop catches
    ├── IntegrityError            data is damaged or not as expected                    exit 8
    ├── TargetError               local disk: full, not writable, foreign files         exit 9
    ├── PartlyFailed              some of several machines failed                       exit 10
    ├── NotRestored               a change to the source could not be undone            exit 11
    └── Cancelled                 Ctrl-C, SIGTERM, cancel; the state is resumable       exit 130

A class is a family and carries the exit status; the ``code`` of an instance names the case. Every code is registered in
``CODES`` with its default cause and remedies; ``docs/errors.md`` is made from it. Adapters translate foreign
exceptions at their border, once, with ``raise ... from``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from hypersdk.remedies import (
    Advice,
    ChooseFolder,
    Discard,
    First,
    FreeSpace,
    Look,
    Remedy,
    ReplaceFiles,
    ReplaceInput,
    ReportBug,
    RestoreSource,
    Resume,
    Retry,
    advice,
    as_json,
)

EXIT_OK: Final = 0
EXIT_INTERNAL: Final = 1


@dataclass(frozen=True, slots=True)
class CodeInfo:
    """The general meaning of a code: shown by ``docs/errors.md``, and the default of an error with that code."""

    cause: str
    remedies: tuple[Remedy, ...]


CODES: Final[dict[str, CodeInfo]] = {}


def register(code: str, cause: str, *remedies: Remedy | str) -> str:
    """Registers ``code`` (snake_case, never changed once released) and returns it; a second registration is a bug.

    A text among ``remedies`` becomes an ``Advice``. It names no flag, as every interface words remedies for itself.
    """
    if code in CODES:
        raise ValueError(f"error code registered twice: {code}")
    CODES[code] = CodeInfo(cause, tuple(Advice(remedy) if isinstance(remedy, str) else remedy for remedy in remedies))
    return code


class HyperSDKError(Exception):
    """Base of all expected failures.

    ``message`` is one sentence for users that names the object. ``cause`` and ``remedies`` default to those of the
    code; ``next_step`` is short for one ``Advice``. ``reasons`` are the errors that this one summarizes. ``fields`` are
    facts for programs (JSON-able, never secret).
    """

    exit_status: ClassVar[int] = EXIT_INTERNAL
    default_code: ClassVar[str]
    daemon_step: str | None = None
    """The next step in the words of the daemon that reported the error."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        cause: str | None = None,
        next_step: str | None = None,
        remedies: Sequence[Remedy] = (),
        reasons: Sequence[HyperSDKError] = (),
        **fields: object,
    ) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        info = CODES[self.code]
        self.message = message
        self.cause = cause or info.cause
        self.remedies = (Advice(next_step),) if next_step else tuple(remedies) or info.remedies
        self.reasons = tuple(reasons)
        self.fields = fields

    @property
    def next_step(self) -> str:
        """What to do, for a user of the Python client: the daemon's text, or the part of the remedies that needs no
        words of an interface. Programs render ``remedies``."""
        return self.daemon_step or advice(self.remedies)

    def as_dict(self) -> dict[str, object]:
        """For JSON output: ``code``, ``message``, ``cause``, ``remedies``, ``exit_status`` and the fields.
        ``error_dict`` of an interface adds ``next_step``."""
        return {
            "code": self.code,
            "message": self.message,
            "cause": self.cause,
            "remedies": as_json(self.remedies),
            "exit_status": self.exit_status,
            **self.fields,
        }


class UsageError(HyperSDKError):
    """The command line, job file or selector is not valid."""

    exit_status = 2
    default_code = register("usage", "A flag, value or file was given that cannot be used.", Look("help"))


class ConnectError(HyperSDKError):
    """vCenter, ESXi or libvirt cannot be reached or trusted."""

    exit_status = 3
    default_code = register(
        "connect_failed", "The server did not answer.", "Check the address, port and firewall.", Look("connection")
    )


class AccessError(HyperSDKError):
    """Login refused or privilege missing."""

    exit_status = 4
    default_code = register(
        "access_denied",
        "The account may not do this.",
        Look("connection"),
    )


class LookupFailed(HyperSDKError):  # noqa: N818 - reads as what happened
    """The requested object does not exist, or is not unique."""

    exit_status = 5
    default_code = register("not_found", "Nothing in the inventory has that name.", Look("machines"))


class Refused(HyperSDKError):  # noqa: N818
    """Refused by the checks before an export; nothing was changed."""

    exit_status = 6
    default_code = register("refused", "The machine cannot be exported as requested.", "Check the reason given.")


class SourceError(HyperSDKError):
    """vSphere or its data stream failed."""

    exit_status = 7
    default_code = register(
        "source_failed",
        "vSphere ended the operation with a fault.",
        First("check the task in vCenter"),
        Resume(),
    )


class TransientError(SourceError):
    """A retry may succeed. Retry loops catch this class and nothing else."""

    default_code = register(
        "transfer_interrupted",
        "The data stream broke and the retries were used up.",
        First("check the network path"),
        Resume(),
    )


class IntegrityError(HyperSDKError):
    """Data is damaged or differs from what it must be; never retried silently."""

    exit_status = 8
    default_code = register(
        "corrupt_data",
        "The data received is not valid.",
        Resume(),
        "If it happens again, check the source datastore.",
        ReplaceInput(),
    )


class TargetError(HyperSDKError):
    """The output: no space, not writable, or other files are in the way."""

    exit_status = 9
    default_code = register(
        "target_failed", "The output could not be written.", "Check the output folder and its file system."
    )


class PartlyFailed(HyperSDKError):  # noqa: N818
    """Some of several machines failed; each failure is reported on its own."""

    exit_status = 10
    default_code = register(
        "partly_failed",
        "At least one of several machines failed.",
        First("check each failure"),
        Resume(),
    )


class NotRestored(HyperSDKError):  # noqa: N818
    """A change made to the source could not be undone."""

    exit_status = 11
    default_code = register(
        "not_restored",
        "A change made to the source could not be undone.",
        First("wait until vSphere answers again"),
        RestoreSource(),
    )


class Cancelled(HyperSDKError):  # noqa: N818
    """The user or a signal ended the run. What was written is kept and can be resumed."""

    exit_status = 130
    default_code = register(
        "cancelled",
        "The run was interrupted.",
        Resume(),
        Discard(),
    )


INTERNAL = register("internal", "A bug in HyperSDK.", ReportBug())

# Codes are registered beside the class that most often carries them.

# Integrity
TRUNCATED_STREAM = register(
    "truncated_stream",
    "The stream ended before all announced data was received.",
    Resume(),
    ReplaceInput(),
)
CORRUPT_GRAIN = register(
    "corrupt_grain",
    "A compressed block fails its own checksum.",
    Resume(),
    "If it happens again at the same offset, the source disk is damaged.",
    ReplaceInput(),
)
BAD_FORMAT = register(
    "bad_format",
    "The data is not in the format it claims to be, or uses a feature that is not supported.",
    "Check that the file is what its name says, as vSphere or qemu-img write it.",
)
MANIFEST_MISMATCH = register(
    "manifest_mismatch",
    "The data differs from the server's own manifest or, for a converted package, from its .mf.",
    "Nothing was published.",
    Resume(),
    "If it happens again, check the path to the ESXi host for a device that alters traffic.",
    ReplaceInput(),
)

# Target
NO_SPACE = register("no_space", "The output file system is full.", FreeSpace(), Resume())
TARGET_DENIED = register(
    "target_denied",
    "The output folder cannot be written by this user.",
    First("make the folder writable for this user"),
    Retry(),
    ChooseFolder(),
)
FOREIGN_OUTPUT = register(
    "foreign_output",
    "The output folder holds another export.",
    First("empty the folder"),
    Retry(),
    ChooseFolder(),
    ReplaceFiles(),
)
