"""The proof that a landed domain boots: its very XML is started in isolation and watched until a verdict.

::

    serial console ─┐  marker, login prompt          ┌─> verdict
    debug console ──┤  known failures                │
    screen ─────────┼────────────────────────────────┼─> failure, with its code
    agent ──────────┤  answers                       │
    events ─────────┘  crash, I/O error, power-off   └─> nothing in time

Where a marker is wanted, only the marker is a verdict.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from hypersdk.errors import IntegrityError, register
from hypersdk.kvm.bootsigns import BOOT_UNPROVED, REST_OF_LINE_S, KnownFailure, Sign, SignReader, WatchedConsole
from hypersdk.kvm.connection import Connection
from hypersdk.kvm.define import domain_text
from hypersdk.kvm.proofguest import ProofGuest, running_guest
from hypersdk.kvm.proofxml import proof_domain
from hypersdk.kvm.screen import Picture, pictures_possible
from hypersdk.model.guestplan import Verdict
from hypersdk.text import clean
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import format_duration

BOOT_BLUE_SCREEN: Final = register(
    "boot_blue_screen",
    "Windows started and stopped with a blue screen. INACCESSIBLE_BOOT_DEVICE means that it lacks the driver of the bus"
    " that its disk is on.",
    "Look at the screenshot for the name of the error. Convert the guest with the drivers of virtio-win, or choose the"
    " disk bus sata.",
)
_BLUE_SCREEN: Final = KnownFailure(BOOT_BLUE_SCREEN, "Windows stopped with a blue screen")

_POLL_S: Final = 0.1
_AGENT_EVERY_S: Final = 1.0
_SCREEN_EVERY_S: Final = 2.0
_MARKER_STEP: Final = (
    "Look at the screenshot and the serial log. Only the text that was named counts: check its spelling, and that the"
    " guest prints it on its first serial port within that time."
)
_WORTH_TELLING_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """``timeout_s`` is the longest boot; ``stable_s`` is how long a screen and a serial console must not change to be
    taken for a sign. A console that only repeats itself does not change."""

    timeout_s: float
    stable_s: float


ACCELERATED: Final = Limits(timeout_s=180, stable_s=60)
EMULATED: Final = Limits(timeout_s=600, stable_s=180)
"""Emulation takes about ten times as long as KVM for the same boot."""


@dataclass(frozen=True, slots=True)
class ProofOptions:
    """``marker`` is a text that the guest prints on its first serial port when it is up. None: the usual limits."""

    marker: str | None = None
    timeout_s: float | None = None
    stable_s: float | None = None

    def limits(self, *, accelerated: bool) -> Limits:
        """The limits with KVM, or with emulation."""
        usual = ACCELERATED if accelerated else EMULATED
        return Limits(self.timeout_s or usual.timeout_s, self.stable_s or usual.stable_s)


@dataclass(frozen=True, slots=True)
class Boot:
    """What was seen. ``verdict`` with its ``line``, or ``error``, after ``seconds``. ``serial`` is plain text;
    ``screenshot`` is PNG."""

    verdict: Verdict | None
    line: str
    error: IntegrityError | None
    seconds: float
    accelerated: bool
    serial: str
    screenshot: bytes | None
    warnings: tuple[str, ...] = ()


def boot_domain(
    connection: Connection,
    landed: str,
    options: ProofOptions,
    *,
    cancel: CancelToken,
    report: Callable[[str], None] = lambda _text: None,
) -> Boot:
    """Boots the landed domain with the UUID ``landed``, which is off, and tells what was seen. ``report`` gets what is
    waited for, every few seconds. The domain itself is not touched. Raises Cancelled, and errors of libvirt; the guest
    is always ended."""
    own = str(uuid.uuid4())
    domain = proof_domain(domain_text(connection, landed), name=f"hypersdk-proof-{landed[:8]}", uuid=own)
    warnings: list[str] = []
    if not pictures_possible():
        warnings.append("the screen was not looked at: Pillow (python3-pil, python3-pillow) is not installed")
    with running_guest(connection, domain, own, warnings.append) as guest:
        boot = _Watch(guest, options, report).wait(cancel)
    return replace(boot, warnings=tuple(warnings))


class _Screen:
    """Pictures, one after another."""

    def __init__(self) -> None:
        self.last: Picture | None = None
        self._still_since = 0.0
        self._blue = 0

    def add(self, picture: Picture, now: float) -> None:
        """A small change is none; it is compared with the first picture of those that are alike."""
        self._blue = self._blue + 1 if picture.blue_screen else 0
        if self.last is None or not picture.is_like(self.last):
            self.last, self._still_since = picture, now

    @property
    def shows_blue_screen(self) -> bool:
        """Twice in a row: a picture is drawn in pieces."""
        return self._blue > 1

    def still_s(self, now: float) -> float:
        """How long it has shown the same; 0 for a blank screen."""
        return 0.0 if self.last is None or self.last.blank else now - self._still_since


class _Watch:
    """Looks at everything in turn until there is a reason to end."""

    def __init__(self, guest: ProofGuest, options: ProofOptions, report: Callable[[str], None]) -> None:
        self._guest = guest
        self._report = report
        self._marker = options.marker
        self._limits = options.limits(accelerated=guest.domain.accelerated)
        signs = SignReader(options.marker)
        readers = ((guest.domain.serial, signs.read), (guest.domain.debug, signs.failure))
        self._consoles = {name: WatchedConsole(read) for name, read in readers if name}
        self._screen = _Screen()
        self._began = self._heard_at = time.monotonic()
        self._agent_at = self._screen_at = self._began

    def wait(self, cancel: CancelToken) -> Boot:
        """What ended the watch. Raises Cancelled."""
        while True:
            cancel.sleep(_POLL_S)
            now = time.monotonic()
            if (found := self._look(now)) is not None:
                break
        self._read_rest(found, cancel)
        sign = next((console.sign for console in self._consoles.values() if console.sign), None)
        return self._boot(sign or found, now - self._began)

    def _look(self, now: float) -> Sign | IntegrityError | None:
        return (
            self._read_consoles(now)
            or self._guest.failure()
            or self._ask_agent(now)
            or self._look_at_screen(now)
            or self._time_out(now)
        )

    def _read_consoles(self, now: float) -> Sign | None:
        found = None
        for name, console in self._consoles.items():
            if data := self._guest.read(name):
                sign = console.feed(data)
                self._heard_at = now if console.has_news else self._heard_at
                found = found or sign
        return found

    def _read_rest(self, found: Sign | IntegrityError, cancel: CancelToken) -> None:
        """What explains a sign comes after it: the rest of its line; of a failure also a stack trace, a picture."""
        failed = isinstance(found, IntegrityError) or isinstance(found.meaning, KnownFailure)
        end = time.monotonic() + REST_OF_LINE_S
        while (failed or self._is_line_unfinished) and time.monotonic() < end:
            cancel.sleep(_POLL_S)
            self._read_consoles(time.monotonic())

    @property
    def _is_line_unfinished(self) -> bool:
        return any(console.sign and not console.is_complete for console in self._consoles.values())

    def _ask_agent(self, now: float) -> Sign | None:
        if self._marker is not None or now < self._agent_at:
            return None
        self._agent_at = now + _AGENT_EVERY_S
        system = self._guest.system()
        return None if system is None else Sign(Verdict.AGENT, system)

    def _look_at_screen(self, now: float) -> Sign | None:
        if now < self._screen_at:
            return None
        self._screen_at = now + _SCREEN_EVERY_S
        if picture := self._guest.screenshot():
            self._screen.add(picture, now)
        if self._screen.shows_blue_screen:
            return Sign(_BLUE_SCREEN, "the screen")
        quiet_s = min(self._screen.still_s(now), now - self._heard_at)
        self._report(self._waits(now, quiet_s))
        if self._marker is not None or quiet_s < self._limits.stable_s:
            return None
        return Sign(Verdict.SCREEN_STABLE, f"the screen did not change for {format_duration(quiet_s)}")

    def _waits(self, now: float, quiet_s: float) -> str:
        """What is waited for."""
        left = f"{format_duration(max(self._limits.timeout_s - (now - self._began), 0))} left"
        if self._marker is not None:
            return f"waits for '{clean(self._marker, 60)}', {left}"
        if quiet_s < _WORTH_TELLING_S:
            return f"waits for login or agent, {left}"
        stays = f"{format_duration(quiet_s)} of {format_duration(self._limits.stable_s)}"
        return f"waits for login, agent or a still screen ({stays})"

    def _time_out(self, now: float) -> IntegrityError | None:
        if now - self._began < self._limits.timeout_s:
            return None
        within = format_duration(self._limits.timeout_s)
        what, step = f"no sign that the guest is up appeared within {within}", None
        if self._marker is not None:
            what, step = f"'{clean(self._marker, 200)}' did not appear within {within}", _MARKER_STEP
        return IntegrityError(what, code=BOOT_UNPROVED, next_step=step, seen=self._serial[-400:])

    @property
    def _serial(self) -> str:
        serial = self._guest.domain.serial
        return self._consoles[serial].text if serial else ""

    def _boot(self, found: Sign | IntegrityError, seconds: float) -> Boot:
        picture = self._guest.screenshot() or self._screen.last
        verdict, line, error = _told(found)
        return Boot(
            verdict=verdict,
            line=line,
            error=error,
            seconds=seconds,
            accelerated=self._guest.domain.accelerated,
            serial=self._serial,
            screenshot=picture.png if picture else None,
        )


def _told(found: Sign | IntegrityError) -> tuple[Verdict | None, str, IntegrityError | None]:
    if isinstance(found, IntegrityError):
        return None, "", found
    if isinstance(found.meaning, KnownFailure):
        return None, found.line, found.meaning.error(found.line)
    return found.meaning, found.line, None
