"""What a conversion found and did; JSON-able, as it is kept in the record of the migration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hypersdk.model.guestplan import GuestDrivers


@dataclass(frozen=True, slots=True)
class GuestSystem:
    """The operating system, in libguestfs's words; empty or None where it is unknown.

    ``type`` is ``linux`` or ``windows``, ``distro`` ``debian``, ``rhel``, ``windows`` ..., ``osinfo`` the id of
    libosinfo, ``root`` the device that holds it.
    """

    type: str = ""
    distro: str = ""
    product: str = ""
    osinfo: str = ""
    arch: str = ""
    major: int | None = None
    minor: int | None = None
    root: str = ""


class EventKind(StrEnum):
    """What an event is about. A ``STAGE`` lasts until the next one."""

    STAGE = "stage"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class ConversionEvent:
    """Something that happened while a conversion runs. ``text`` is one line, safe to show; ``seconds`` since the
    start. There is no percentage: virt-v2v knows none."""

    kind: EventKind
    text: str
    seconds: float


def stages(tell: Callable[[str], None]) -> Callable[[ConversionEvent], None]:
    """An observer of a conversion that passes on its stages: they last until the next one, and warnings do not."""

    def observe(event: ConversionEvent) -> None:
        if event.kind is EventKind.STAGE:
            tell(event.text)

    return observe


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """A guest that was converted, and the ``drivers`` that it has now.

    ``fallback_loader`` is the loader that was copied to where new firmware looks for one, None where none had to be.
    ``log`` is virt-v2v's whole output; ``version`` that of virt-v2v.
    """

    system: GuestSystem
    drivers: GuestDrivers
    warnings: tuple[str, ...]
    log: Path
    version: str
    fallback_loader: str | None = None
