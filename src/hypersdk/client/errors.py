"""Error responses as exceptions: the server's code, cause and next step, in the class that determines the exit
status."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from hypersdk.access.faults import FORBIDDEN, UNAUTHENTICATED
from hypersdk.errors import (
    AccessError,
    Cancelled,
    ConnectError,
    HyperSDKError,
    IntegrityError,
    LookupFailed,
    NotRestored,
    PartlyFailed,
    Refused,
    SourceError,
    TargetError,
    TransientError,
    UsageError,
    register,
)
from hypersdk.remedies import Advice, Look, NameDaemon, of_json

DAEMON_FAILED: Final = register("daemon_failed", "The daemon reported an internal error.", Look("daemon_log"))
DAEMON_UNREACHABLE: Final = register(
    "daemon_unreachable",
    "The daemon does not answer at that address.",
    "Check that `hypervisord` is running there.",
    NameDaemon(),
)
DAEMON_TIMEOUT: Final = register(
    "daemon_timeout",
    "The daemon did not answer within the time limit.",
    "Try again.",
    Look("daemon"),
)
ANSWER_UNREADABLE: Final = register(
    "answer_unreadable",
    "The server at that address is not a HyperSDK daemon, or its version is incompatible.",
    "Check the address.",
    Look("daemon"),
)
TOO_MANY_REQUESTS: Final = register(
    "too_many_requests",
    "The daemon limits the requests of a token and of an address.",
    "Wait a minute, then continue.",
)
JOB_AMBIGUOUS: Final = register(
    "job_ambiguous",
    "Several jobs have that name, or an id that begins with it.",
    "Give the id, or more characters of it; the message lists the jobs.",
)
WAIT_OVER: Final = register(
    "wait_over",
    "The job was not finished within the time limit.",
    "It continues.",
    Look("job"),
)


class DaemonError(HyperSDKError):
    """The daemon failed, or its response cannot be parsed."""

    exit_status = 13
    default_code = DAEMON_FAILED


class DaemonUnavailable(DaemonError):  # noqa: N818 - reads as what happened
    """The daemon is temporarily unavailable: its database failed, or it is overloaded."""

    exit_status = 12


MAX_TEXT: Final = 2000
"""Characters kept of a text in an error response."""
_KNOWN_KEYS: Final = frozenset(
    {
        "type",
        "title",
        "status",
        "detail",
        "instance",
        "code",
        "cause",
        "next_step",
        "remedies",
        "exit_status",
        "error",
        "timestamp",
    }
)
_BY_EXIT: Final[Mapping[int, type[HyperSDKError]]] = {
    family.exit_status: family
    for family in (
        UsageError,
        ConnectError,
        AccessError,
        LookupFailed,
        Refused,
        SourceError,
        IntegrityError,
        TargetError,
        PartlyFailed,
        NotRestored,
        DaemonUnavailable,
        DaemonError,
        Cancelled,
    )
}
_BY_STATUS: Final[Mapping[int, type[HyperSDKError]]] = {
    HTTPStatus.UNAUTHORIZED: AccessError,
    HTTPStatus.FORBIDDEN: AccessError,
    HTTPStatus.NOT_FOUND: LookupFailed,
    HTTPStatus.CONFLICT: Refused,
    HTTPStatus.TOO_MANY_REQUESTS: TransientError,
    HTTPStatus.BAD_GATEWAY: SourceError,
    HTTPStatus.SERVICE_UNAVAILABLE: DaemonUnavailable,
}
_DECIDED: Final = frozenset(
    {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.TOO_MANY_REQUESTS}
)
"""Statuses about the request itself: they determine the class, whatever the exit status in the response."""
_FALLBACK_CODE: Final[Mapping[int, str]] = {
    HTTPStatus.UNAUTHORIZED: UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: FORBIDDEN,
    HTTPStatus.TOO_MANY_REQUESTS: TOO_MANY_REQUESTS,
}


def error_of(status: int, document: object) -> HyperSDKError:
    """The error for a response with ``status`` (400 or more): a problem document, the ``{error, code}`` of legacy
    routes, or anything else."""
    facts: Mapping[Any, Any] = document if isinstance(document, Mapping) else {}
    family = _family(status, facts)
    message = _text(facts.get("detail")) or _text(facts.get("error")) or _text(facts.get("title"))
    fields = {key: value for key, value in facts.items() if isinstance(key, str) and key not in _KNOWN_KEYS}
    fallback = _FALLBACK_CODE.get(status, DAEMON_FAILED if status >= 500 else family.default_code)
    return remote_error(
        family, message or f"the daemon answered {_phrase(status)}", facts, fallback, {**fields, "http_status": status}
    )


def remote_error(
    family: type[HyperSDKError], message: str, facts: Mapping[str, Any], fallback: str, fields: Mapping[str, Any]
) -> HyperSDKError:
    """An error that was raised by the daemon. A newer daemon may use codes that this version does not know."""
    error = family(message, code=fallback, cause=_text(facts.get("cause")))
    error.daemon_step = step = _text(facts.get("next_step"))
    error.remedies = of_json(facts.get("remedies")) or ((Advice(step),) if step else error.remedies)
    error.code = _text(facts.get("code")) or fallback
    error.fields = dict(fields)
    return error


def family_of_exit(status: object) -> type[HyperSDKError]:
    """The class of errors with that exit status; DaemonError if there is none."""
    return _BY_EXIT.get(status, DaemonError) if isinstance(status, int) else DaemonError


def _family(status: int, facts: Mapping[Any, Any]) -> type[HyperSDKError]:
    exit_status = facts.get("exit_status")
    if status == HTTPStatus.BAD_GATEWAY and "code" not in facts:
        return DaemonError  # a proxy says it of the daemon; said by the daemon, it is about vSphere
    if status not in _DECIDED and isinstance(exit_status, int) and exit_status in _BY_EXIT:
        return _BY_EXIT[exit_status]
    return _BY_STATUS.get(status, DaemonError if status >= 500 else UsageError)


def _text(value: object) -> str | None:
    return value[:MAX_TEXT] if isinstance(value, str) and value else None


def _phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def json_object(text: str | bytes) -> dict[str, Any]:
    """A JSON object that the daemon sent. Raises DaemonError ``answer_unreadable``."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise bad_answer("it is not JSON") from error
    if not isinstance(found, dict):
        raise bad_answer("it is not a JSON object")
    return found


def bad_answer(what: str) -> DaemonError:
    """The response does not match the API."""
    return DaemonError(f"the daemon's response cannot be parsed: {what}", code=ANSWER_UNREADABLE)
