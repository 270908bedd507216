"""The error tree. Every failure that a user can meet has a stable code, a cause, a next step and an exit status.

::

    HyperSDKError
    ├── UsageError                bad flag, job file, selector                          exit 2
    ├── ConnectError              name, route, TLS, certificate                         exit 3
    ├── AccessError               login refused, privilege missing                      exit 4
    ├── LookupFailed              no such machine, or more than one                     exit 5
    ├── Refused                   preflight says no, with the fix                       exit 6
    ├── SourceError               vSphere or the stream failed, retries used up         exit 7
    │   └── TransientError        worth another try: the only thing a retry loop catches
    ├── IntegrityError            bytes are not what they must be                       exit 8
    ├── TargetError               local disk: full, not writable, foreign files         exit 9
    ├── PartlyFailed              some of several machines failed                       exit 10
    ├── NotRestored               the source could not be put back as it was found      exit 11
    └── Cancelled                 Ctrl-C, SIGTERM, cancel; the state is resumable       exit 130

A class is a family and carries the exit status; the ``code`` of an instance names the case. Every code is registered in
``CODES`` with its default cause and next step; ``docs/errors.md`` is made from it. Adapters translate foreign
exceptions at their border, once, with ``raise ... from``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

EXIT_OK: Final = 0
EXIT_INTERNAL: Final = 1


@dataclass(frozen=True, slots=True)
class CodeInfo:
    """What a code means, in general: shown by ``docs/errors.md`` and used where an instance has nothing better to
    say."""

    cause: str
    next_step: str


CODES: Final[dict[str, CodeInfo]] = {}


def register(code: str, cause: str, next_step: str) -> str:
    """Registers ``code`` (snake_case, stable for ever once released) and returns it; a second registration is a bug."""
    if code in CODES:
        raise ValueError(f"error code registered twice: {code}")
    CODES[code] = CodeInfo(cause, next_step)
    return code


class HyperSDKError(Exception):
    """Base of all expected failures.

    ``message`` is one sentence for people that names the object; ``cause`` says why and ``next_step`` what to do, both
    defaulting to what the code says in general. ``fields`` are facts for programs (JSON-able, never secret).
    """

    exit_status: ClassVar[int] = EXIT_INTERNAL
    default_code: ClassVar[str]

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        cause: str | None = None,
        next_step: str | None = None,
        **fields: object,
    ) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        info = CODES[self.code]
        self.message = message
        self.cause = cause or info.cause
        self.next_step = next_step or info.next_step
        self.fields = fields

    def as_dict(self) -> dict[str, object]:
        """For JSON output: ``code``, ``message``, ``cause``, ``next_step``, ``exit_status`` and the fields."""
        return {
            "code": self.code,
            "message": self.message,
            "cause": self.cause,
            "next_step": self.next_step,
            "exit_status": self.exit_status,
            **self.fields,
        }


class UsageError(HyperSDKError):
    """The command line, job file or selector is not valid."""

    exit_status = 2
    default_code = register("usage", "A flag, value or file was given that cannot be used.", "See `--help`.")


class ConnectError(HyperSDKError):
    """vCenter or ESXi cannot be reached or trusted."""

    exit_status = 3
    default_code = register(
        "connect_failed", "The server did not answer.", "Check the address, port and firewall; run `hyper2kvm doctor`."
    )


class AccessError(HyperSDKError):
    """Login refused or privilege missing."""

    exit_status = 4
    default_code = register(
        "access_denied",
        "The account may not do this.",
        "Run `hyper2kvm doctor`: it lists the missing privileges by name.",
    )


class LookupFailed(HyperSDKError):  # noqa: N818 - reads as what happened
    """The object asked for does not exist, or is not unique."""

    exit_status = 5
    default_code = register(
        "not_found", "Nothing in the inventory has that name.", "Run `hyper2kvm list` to see what is there."
    )


class Refused(HyperSDKError):  # noqa: N818
    """Preflight refuses, before anything was changed."""

    exit_status = 6
    default_code = register("refused", "The machine cannot be exported as asked.", "See the reason given.")


class SourceError(HyperSDKError):
    """vSphere or its data stream failed."""

    exit_status = 7
    default_code = register(
        "source_failed",
        "vSphere ended the operation with a fault.",
        "Look at the task in vCenter, then run the command again with --resume.",
    )


class TransientError(SourceError):
    """Another try may succeed. Retry loops catch this class and nothing else."""

    default_code = register(
        "transfer_interrupted",
        "The data stream broke and the retries were used up.",
        "Check the network path, then run it again with --resume.",
    )


class IntegrityError(HyperSDKError):
    """Bytes are not what they must be; never retried silently into success."""

    exit_status = 8
    default_code = register(
        "corrupt_data",
        "The data received is not valid.",
        "Run an export again with --resume; if it repeats, check the source datastore. Of a converted file, get another"
        " copy.",
    )


class TargetError(HyperSDKError):
    """The local side: no space, not writable, foreign files in the way."""

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
        "See the failures above; run the same command again with --resume.",
    )


class NotRestored(HyperSDKError):  # noqa: N818
    """A change made to the source could not be undone."""

    exit_status = 11
    default_code = register(
        "not_restored",
        "A change made to the source could not be undone.",
        "Once vSphere answers again, run `hyper2kvm cleanup`, or for a job of the daemon `hyperctl cancel ID`.",
    )


class Cancelled(HyperSDKError):  # noqa: N818
    """The user or a signal ended the run. What was written is kept for --resume."""

    exit_status = 130
    default_code = register(
        "cancelled",
        "The run was interrupted.",
        "Run the same command again with --resume, or with --discard to give it up.",
    )


# Codes are registered beside the class that most often carries them.

# Integrity
TRUNCATED_STREAM = register(
    "truncated_stream",
    "The stream ended before all the data it announced had come.",
    "Run an export again with --resume. Of a converted file, get another copy.",
)
CORRUPT_GRAIN = register(
    "corrupt_grain",
    "A compressed block fails its own checksum.",
    "Run an export again with --resume; if it repeats at the same offset, the source disk is damaged. Of a converted"
    " file, get another copy.",
)
BAD_FORMAT = register(
    "bad_format",
    "The data is not in the format it claims to be, or uses a feature that is not supported.",
    "Check that the file is a VMDK, OVA or OVF made by vSphere or qemu-img.",
)
MANIFEST_MISMATCH = register(
    "manifest_mismatch",
    "The bytes differ from the server's own manifest or, of a converted package, from its .mf.",
    "Nothing was published. Run an export again with --resume; check the path to the ESXi host for a device that alters"
    " traffic. Of a converted package, get another copy.",
)

# Target
NO_SPACE = register("no_space", "The output file system is full.", "Free space, then run it again with --resume.")
TARGET_DENIED = register(
    "target_denied",
    "The output folder cannot be written by this user.",
    "Choose another folder with -o, or change its owner.",
)
FOREIGN_OUTPUT = register(
    "foreign_output",
    "The output folder holds another export.",
    "Choose an empty folder, or pass --force to replace what is there.",
)
