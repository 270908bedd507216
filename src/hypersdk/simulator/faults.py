"""Injected faults: what goes wrong, where, and how often.

::

    stream faults (NFC and /folder)    reset  disconnect  short  stall  slow  corrupt  status  nfc_exhausted
    leases and sessions                lease_timeout  lease_error  session_expiry
    lease contents                     file_size_present  file_size_wrong  wrong_manifest  no_manifest
    hosts, datastores, calls           unreachable  datastore_full  call

As text, for the command line: ``reset,after=10MiB,times=2,disk=web-01:0`` or
``call,method=ExportVm,fault=TaskInProgress``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from hypersdk.errors import UsageError
from hypersdk.simulator.schema import data_types
from hypersdk.units import parse_size

MAX_SECONDS: Final = 24 * 3600


class FaultKind(StrEnum):
    """What goes wrong."""

    RESET = "reset"
    """The connection is reset (RST) after ``after_bytes`` of the body."""
    DISCONNECT = "disconnect"
    """The connection is closed after ``after_bytes``, before the end of the HTTP body."""
    SHORT = "short"
    """The body ends after ``after_bytes``: complete as far as HTTP can tell, but the disk is not."""
    STALL = "stall"
    """Nothing is sent for ``seconds`` after ``after_bytes``; then the body continues. With ``method``: the response to
    that API call is delayed by ``seconds``."""
    SLOW = "slow"
    """The body is sent at ``rate`` bytes a second."""
    CORRUPT = "corrupt"
    """One bit is flipped in the first block that begins at or after ``after_bytes``."""
    STATUS = "status"
    """The request is answered with the HTTP ``status`` (500 by default) and no data."""
    NFC_EXHAUSTED = "nfc_exhausted"
    """The host refuses the stream: HTTP 500 whose text says that it failed to allocate a buffer."""
    LEASE_TIMEOUT = "lease_timeout"
    """The lease times out once ``after_bytes`` of one of its files were sent, renewed or not."""
    LEASE_ERROR = "lease_error"
    """The lease goes from ``initializing`` to ``error``."""
    SESSION_EXPIRY = "session_expiry"
    """The session is dropped: when ``method`` is called, or without one after ``after_bytes`` of a stream."""
    FILE_SIZE_PRESENT = "file_size_present"
    """``deviceUrl.fileSize`` of disks is filled with the length of the stream (absent otherwise)."""
    FILE_SIZE_WRONG = "file_size_wrong"
    """``deviceUrl.fileSize`` of disks is filled with the capacity, which is not the length of the stream."""
    WRONG_MANIFEST = "wrong_manifest"
    """The lease's manifest has wrong checksums."""
    NO_MANIFEST = "no_manifest"
    """The lease's manifest is empty."""
    UNREACHABLE = "unreachable"
    """The host's own address refuses connections; the path through vCenter works. A state: ``times`` does not count."""
    DATASTORE_FULL = "datastore_full"
    """The datastore named ``disk`` (all without) has ``after_bytes`` left. A state: ``times`` does not count."""
    CALL = "call"
    """The API call ``method`` raises the fault ``fault`` (SystemError by default)."""


STREAM_FAULTS: Final = frozenset(
    {
        FaultKind.RESET, FaultKind.DISCONNECT, FaultKind.SHORT, FaultKind.STALL, FaultKind.SLOW, FaultKind.CORRUPT,
        FaultKind.LEASE_TIMEOUT, FaultKind.SESSION_EXPIRY,
    }
)  # fmt: skip
"""Faults of a body while it is sent."""
REFUSALS: Final = (FaultKind.NFC_EXHAUSTED, FaultKind.STATUS)
"""Error responses in place of a body."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. ``times`` is how often it is applied, ``None`` for always; ``host`` and ``disk`` restrict it.

    ``host`` is a host's name. ``disk`` is ``machine:index`` or ``machine``; for ``datastore_full`` the datastore's
    name. A fault of a stream is counted when the stream is opened, even where ``after_bytes`` is beyond its end.
    Raises ValueError for values that could never apply.
    """

    kind: FaultKind
    times: int | None = 1
    host: str | None = None
    disk: str | None = None
    after_bytes: int = 0
    seconds: float = 10
    rate: int = 1_000_000
    status: int = 500
    retry_after_s: int | None = None
    method: str | None = None
    fault: str = "SystemError"

    def __post_init__(self) -> None:
        if self.kind is FaultKind.CALL and self.method is None:
            raise ValueError("fault 'call' needs the method that it applies to, such as method=ExportVm")
        if self.kind is FaultKind.CALL and not _is_fault(self.fault):
            raise ValueError(f"the API has no fault '{self.fault}' here")
        if not 400 <= self.status <= 599:
            raise ValueError(f"the status {self.status} is not an error: use 400 to 599")
        if not 0 <= self.seconds < MAX_SECONDS or self.rate <= 0 or self.after_bytes < 0:
            raise ValueError("seconds, rate and after are positive numbers")

    def matches(self, host: str | None, machine: str | None, index: int | None) -> bool:
        """Whether it applies to that host and disk."""
        if self.host is not None and self.host != host:
            return False
        return self.disk is None or self.disk in (machine, f"{machine}:{index}")

    @classmethod
    def parse(cls, text: str) -> Fault:
        """From ``kind,key=value,...``. Raises UsageError that names what is wrong."""
        kind, *options = text.split(",")
        if kind not in list(FaultKind):
            raise UsageError(f"'{kind}' is not a kind of fault", next_step=f"Choose one of: {', '.join(FaultKind)}.")
        values: dict[str, object] = {}
        for option in options:
            key, _, value = option.partition("=")
            if key not in _OPTIONS:
                raise UsageError(
                    f"'{key}' is not an option of a fault", next_step=f"Choose one of: {', '.join(_OPTIONS)}."
                )
            name, read = _OPTIONS[key]
            try:
                values[name] = read(value)
            except ValueError as error:
                raise UsageError(f"fault option '{key}': {error}") from error
        try:
            return cls(FaultKind(kind), **values)  # type: ignore[arg-type] # the readers match the fields
        except ValueError as error:
            raise UsageError(str(error), next_step="See --help.") from error


def _is_fault(name: str) -> bool:
    type_ = data_types().get(name)
    return type_ is not None and not type_.lineage.isdisjoint({"MethodFault", "VimFault", "RuntimeFault"})


def _count(value: str) -> int:
    if not value.isdecimal():
        raise ValueError(f"'{value}' is not a number")
    return int(value)


def _times(value: str) -> int | None:
    return None if value == "always" else _count(value)


def _seconds(value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ValueError(f"'{value}' is not a number of seconds") from error


_OPTIONS: Final[dict[str, tuple[str, Callable[[str], object]]]] = {
    "times": ("times", _times), "host": ("host", str), "disk": ("disk", str), "after": ("after_bytes", parse_size),
    "seconds": ("seconds", _seconds), "rate": ("rate", parse_size), "status": ("status", _count),
    "retry-after": ("retry_after_s", _count), "method": ("method", str), "fault": ("fault", str),
}  # fmt: skip


@dataclass(slots=True)
class _Armed:
    fault: Fault
    left: int | None


@dataclass(slots=True)
class FaultBook:
    """The active faults, counted as they are applied. Thread-safe."""

    _armed: list[_Armed] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    applied: dict[FaultKind, int] = field(default_factory=dict)

    def arm(self, faults: Iterable[Fault]) -> None:
        """Replaces all faults."""
        with self._lock:
            self._armed = [_Armed(fault, fault.times) for fault in faults]

    def take(
        self, kinds: Iterable[FaultKind], *, host: str | None, machine: str | None, index: int | None
    ) -> list[Fault]:
        """The faults of these kinds that apply to a stream or lease now; each is counted. At most one of each kind.

        Faults that name an API method are left out: see ``take_call``.
        """
        wanted = set(kinds)
        taken: list[Fault] = []
        with self._lock:
            for armed in self._armed:
                fault = armed.fault
                due = fault.kind in wanted and armed.left != 0 and fault.method is None
                if due and fault.matches(host, machine, index):
                    wanted.discard(fault.kind)
                    self._apply(armed)
                    taken.append(fault)
        return taken

    def take_refusal(self, *, host: str | None, machine: str | None, index: int | None) -> Fault | None:
        """The fault that is sent in place of a body; only that one is counted."""
        for kind in REFUSALS:
            if taken := self.take([kind], host=host, machine=machine, index=index):
                return taken[0]
        return None

    def take_call(self, kind: FaultKind, method: str) -> Fault | None:
        """The fault of that kind that applies to the API call ``method``."""
        with self._lock:
            for armed in self._armed:
                if armed.fault.kind is kind and armed.fault.method == method and armed.left != 0:
                    self._apply(armed)
                    return armed.fault
        return None

    def _apply(self, armed: _Armed) -> None:
        if armed.left is not None:
            armed.left -= 1
        self.applied[armed.fault.kind] = self.applied.get(armed.fault.kind, 0) + 1

    def standing(self, kind: FaultKind) -> list[Fault]:
        """Faults of a kind that describe a state and are not counted down."""
        with self._lock:
            return [armed.fault for armed in self._armed if armed.fault.kind is kind]
