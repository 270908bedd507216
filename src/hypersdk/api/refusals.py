"""Error codes that have an HTTP status of their own, whatever the class of the error (``problems.STATUS``)."""

from __future__ import annotations

from typing import Final

from hypersdk.errors import HyperSDKError
from hypersdk.jobs.store import JOB_EXISTS

STATUS_OF_CODE: Final[dict[str, int]] = {JOB_EXISTS: 409}


class Unavailable(HyperSDKError):  # noqa: N818 - reads as what happened
    """The daemon cannot serve the request now; a later attempt may succeed."""

    exit_status = 12


def with_status(status: int, code: str) -> str:
    """The code, which is answered with this HTTP status from now on."""
    STATUS_OF_CODE[code] = status
    return code
