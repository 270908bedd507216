"""A guest that is started for a proof: consoles, screen, agent and events of a transient domain.

::

    create (paused, ended by libvirt with our connection) ─ consoles opened ─ NVRAM unlinked ─ resume ─ ... ─ destroy

Nothing outlives this process, also when it is killed: libvirt ends the domain with the connection that made it, and
deletes the overlays with the domain.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hypersdk.errors import HyperSDKError, IntegrityError, LookupFailed, register
from hypersdk.kvm.connection import Connection
from hypersdk.kvm.library import libvirt
from hypersdk.kvm.proofxml import ProofDomain, nvram_holder
from hypersdk.kvm.screen import MAX_PICTURE_BYTES, Picture, PictureError, pictures_possible, read_picture
from hypersdk.text import clean

LOG: Final = logging.getLogger(__name__)

BOOT_CRASHED: Final = register(
    "boot_crashed",
    "The hypervisor reported that the guest crashed, or QEMU itself ended.",
    "Read the log of the domain on the hypervisor, below /var/log/libvirt/qemu. Another CPU model or machine type can"
    " help.",
)
BOOT_IO_ERROR: Final = register(
    "boot_io_error",
    "The hypervisor stopped the guest because a disk could not be read or written.",
    "Check the free space beside the images (what the guest writes during the proof is kept there), and the storage.",
)
BOOT_STOPPED: Final = register(
    "boot_stopped",
    "The guest was started and switched itself off, or was ended by somebody, before it had come up.",
    "Look at the screenshot and the serial log.",
)
BOOT_LOOP: Final = register(
    "boot_loop",
    "The guest restarts again and again: it crashes early, and is set to restart then.",
    "Look at the screenshot and the serial log. A Windows guest that lacks the driver of its disk does this.",
)
MAX_REBOOTS: Final = 6
"""A converted guest may restart a few times: to relabel its files, to install drivers."""
START_TIMEOUT_S: Final = 120.0
AGENT_TIMEOUT_S: Final = 5
_PIECE: Final = 64 * 1024


@dataclass(slots=True)
class GuestEvents:
    """What libvirt reported of the domain so far; written by libvirt's event thread."""

    failure: IntegrityError | None = None
    reboots: int = 0
    consoles: Mapping[str, deque[bytes]] = field(default_factory=dict)


class ProofGuest:
    """A running proof. Every call is bounded in time."""

    def __init__(self, connection: Connection, domain: ProofDomain, uuid: str) -> None:
        self.domain = domain
        self.events = GuestEvents(consoles={name: deque() for name in (domain.serial, domain.debug) if name})
        self._connection = connection
        self._uuid = uuid

    def failure(self) -> IntegrityError | None:
        """Why the guest cannot come up, as libvirt's events tell. Raises ConnectError where libvirt is gone."""
        if not self._connection.is_alive:
            self._connection.call("the connection ended while the guest ran", lambda raw: raw.getLibVersion())
        if self.events.reboots > MAX_REBOOTS:
            return IntegrityError(f"the guest did not boot: it restarted {self.events.reboots} times", code=BOOT_LOOP)
        return self.events.failure

    def read(self, console: str) -> bytes:
        """What came from the console since the last call."""
        pieces = self.events.consoles[console]
        return b"".join(pieces.popleft() for _ in range(len(pieces)))

    def screenshot(self) -> Picture | None:
        """The screen; None where there is none, or no way to read it."""
        if not pictures_possible():
            return None
        try:
            data = self._call("cannot take a screenshot", _screenshot)
            return read_picture(data)
        except (HyperSDKError, PictureError) as error:
            LOG.debug("no screenshot: %s", error)
            return None

    def system(self) -> str | None:
        """The operating system, as the guest's agent tells it; None while no agent answers."""
        if not self.domain.agent:
            return None
        try:
            facts = self._call("cannot ask the guest's agent", lambda domain: domain.guestInfo(0, 0))
        except HyperSDKError as error:
            LOG.debug("no answer of an agent: %s", error)
            return None
        return _system(facts)

    # Start and end

    def start(self) -> None:
        """Starts it. Raises HyperSDKError."""
        self._connection.call(
            f"cannot start {self.domain.name}", lambda raw: _create(raw, self.domain), timeout_s=START_TIMEOUT_S
        )
        for console, pieces in self.events.consoles.items():
            self._call(f"cannot open {console}", _opening(console, pieces))
        self._call("cannot drop the NVRAM", _drop_nvram)
        with suppress(HyperSDKError):  # libvirt before 5.10
            self._call(
                "cannot set the agent's time limit", lambda domain: domain.agentSetResponseTimeout(AGENT_TIMEOUT_S, 0)
            )
        self._call("cannot resume the guest", lambda domain: domain.resume())

    def end(self) -> None:
        """Ends it at once; nothing happens where it has ended."""
        with suppress(LookupFailed):
            self._call("cannot end the guest", lambda domain: domain.destroy())

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Receives the domain's events during the block."""
        numbers = self._connection.call("cannot receive events", self._register)
        try:
            yield
        finally:
            with suppress(HyperSDKError):
                self._connection.call(
                    "cannot end the events", lambda raw: [raw.domainEventDeregisterAny(number) for number in numbers]
                )

    def _register(self, raw: Any) -> list[int]:
        module = libvirt()

        def on_change(_raw: Any, domain: Any, event: int, detail: int, _: None) -> None:
            if domain.UUIDString() == self._uuid and self.events.failure is None:
                self.events.failure = _failure_of(module, event, detail)

        def on_reboot(_raw: Any, domain: Any, _: None) -> None:
            self.events.reboots += domain.UUIDString() == self._uuid

        kinds = ((module.VIR_DOMAIN_EVENT_ID_LIFECYCLE, on_change), (module.VIR_DOMAIN_EVENT_ID_REBOOT, on_reboot))
        return [raw.domainEventRegisterAny(None, kind, function, None) for kind, function in kinds]

    def _call(self, what: str, call: Callable[[Any], Any]) -> Any:
        return self._connection.call(what, lambda raw: call(raw.lookupByUUIDString(self._uuid)))


@contextmanager
def running_guest(
    connection: Connection, domain: ProofDomain, uuid: str, on_warning: Callable[[str], None]
) -> Iterator[ProofGuest]:
    """A started guest, which ends with the block. An earlier proof of the same name, which a libvirtd that crashed may
    have left, is ended first."""
    with ExitStack() as stack:
        if connection.address.is_local:
            stack.enter_context(_same_owners(domain.disks, on_warning))
        guest = ProofGuest(connection, domain, uuid)
        with suppress(LookupFailed):
            connection.call("no earlier proof", lambda raw: raw.lookupByName(domain.name).destroy())
        stack.enter_context(guest.watched())
        stack.callback(guest.end)
        guest.start()
        yield guest


@contextmanager
def _same_owners(paths: tuple[str, ...], on_warning: Callable[[str], None]) -> Iterator[None]:
    """Gives the images back to their owners: libvirt gives QEMU's user what lies under an overlay, for good."""
    before = {path: _owner(path) for path in paths}
    try:
        yield
    finally:
        kept = [path for path, owner in before.items() if not _give_back(path, owner)]
        if kept:
            names = ", ".join(clean(path, 200) for path in kept)
            on_warning(
                clean(f"still owned by the hypervisor's user, as the owner could not be set back: {names}", 1000)
            )


def _owner(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).lstat()
    except OSError:  # not in sight of this user: starting the guest says more
        return None
    return found.st_uid, found.st_gid


def _give_back(path: str, owner: tuple[int, int] | None) -> bool:
    if owner is None or _owner(path) in (owner, None):
        return True
    try:
        os.chown(path, *owner, follow_symlinks=False)
    except OSError as error:
        LOG.info("the owner of %s could not be changed back: %s", path, error)
        return False
    return True


# --- calls with libvirt's objects ------------------------------------------------------------------------------------


def _create(raw: Any, domain: ProofDomain) -> None:
    module = libvirt()
    raw.createXML(domain.xml, module.VIR_DOMAIN_START_PAUSED | module.VIR_DOMAIN_START_AUTODESTROY)


def _drop_nvram(domain: Any) -> None:
    """QEMU keeps the file open; see ``nvram_holder``."""
    module = libvirt()
    if holder := nvram_holder(domain.XMLDesc(0)):
        domain.connect().defineXML(holder)
        domain.undefineFlags(module.VIR_DOMAIN_UNDEFINE_NVRAM)


def _opening(console: str, pieces: deque[bytes]) -> Callable[[Any], None]:
    """Only what comes after a console was opened is seen, so it is opened before the guest runs."""

    def open_console(domain: Any) -> None:
        module = libvirt()
        stream = domain.connect().newStream(module.VIR_STREAM_NONBLOCK)
        domain.openConsole(console, stream, module.VIR_DOMAIN_CONSOLE_FORCE)
        wanted = module.VIR_STREAM_EVENT_READABLE | module.VIR_STREAM_EVENT_ERROR | module.VIR_STREAM_EVENT_HANGUP
        stream.eventAddCallback(wanted, lambda opened, _events, _: _receive(opened, pieces), None)

    return open_console


def _receive(stream: Any, pieces: deque[bytes]) -> None:
    """Called by libvirt's event thread. The stream ends with the domain."""
    module = libvirt()
    try:
        while (data := stream.recv(_PIECE)) != -2:
            if not data:
                break
            pieces.append(data)
        else:
            return
    except module.libvirtError as error:
        LOG.debug("a console ended: %s", error)
    with suppress(module.libvirtError):
        stream.eventRemoveCallback()


def _screenshot(domain: Any) -> bytes:
    stream = domain.connect().newStream(0)
    domain.screenshot(stream, 0, 0)
    data = bytearray()
    while len(data) <= MAX_PICTURE_BYTES and (piece := stream.recv(_PIECE)):
        data += piece
    stream.finish()
    return bytes(data)


def _failure_of(module: Any, event: int, detail: int) -> IntegrityError | None:
    if event == module.VIR_DOMAIN_EVENT_CRASHED:
        return IntegrityError("the guest did not boot: it crashed", code=BOOT_CRASHED)
    if event == module.VIR_DOMAIN_EVENT_SUSPENDED and detail == module.VIR_DOMAIN_EVENT_SUSPENDED_IOERROR:
        return IntegrityError("the guest was stopped by an error of its disk", code=BOOT_IO_ERROR)
    if event != module.VIR_DOMAIN_EVENT_STOPPED:
        return None
    if detail in (module.VIR_DOMAIN_EVENT_STOPPED_CRASHED, module.VIR_DOMAIN_EVENT_STOPPED_FAILED):
        return IntegrityError("the guest did not boot: QEMU ended", code=BOOT_CRASHED)
    if detail == module.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN:
        return IntegrityError("the guest switched itself off before it had come up", code=BOOT_STOPPED)
    return IntegrityError("the guest was ended by somebody before it had come up", code=BOOT_STOPPED)


def _system(facts: Mapping[str, Any]) -> str:
    """``Debian GNU/Linux 12 (bookworm), kernel 6.1.0-28-amd64``."""
    name = str(facts.get("os.pretty-name") or facts.get("os.name") or "a guest agent without facts")
    kernel = facts.get("os.kernel-release")
    return clean(f"{name}, kernel {kernel}" if kernel else name, 200)
