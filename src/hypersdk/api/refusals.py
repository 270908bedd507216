"""Error codes that have an HTTP status of their own, whatever the class of the error (``problems.STATUS``)."""

from __future__ import annotations

from typing import Final

from hypersdk.errors import HyperSDKError, register
from hypersdk.jobs.store import JOB_EXISTS
from hypersdk.remedies import Remedy

STATUS_OF_CODE: Final[dict[str, int]] = {JOB_EXISTS: 409}


class Unavailable(HyperSDKError):  # noqa: N818 - reads as what happened
    """The daemon cannot serve the request now; a later attempt may succeed."""

    exit_status = 12


def register_refusal(status: int, code: str, cause: str, *remedies: Remedy | str) -> str:
    """Registers an error code that is answered with ``status``, and returns it."""
    STATUS_OF_CODE[code] = status
    return register(code, cause, *remedies)
