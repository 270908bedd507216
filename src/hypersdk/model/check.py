"""One finding of a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hypersdk.remedies import Remedy


class CheckStatus(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class DoctorCheck:
    """One finding. ``remedies`` are empty when there is nothing to do."""

    name: str
    status: CheckStatus
    detail: str
    remedies: tuple[Remedy, ...] = ()
