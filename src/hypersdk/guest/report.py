"""What a conversion found and did; JSON-able, as it is kept in the record of the migration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage, in virt-v2v's words. ``started_s`` is since the start of the conversion; ``seconds`` how long it
    took."""

    text: str
    started_s: float
    seconds: float


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
    ``accelerated``: KVM was used. ``log`` is virt-v2v's whole output; ``versions`` those of the programs.
    """

    system: GuestSystem
    drivers: GuestDrivers
    warnings: tuple[str, ...]
    stages: tuple[Stage, ...]
    seconds: float
    accelerated: bool
    log: Path
    fallback_loader: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
