"""What is asked of guest conversions, and what can be refused before anything is exported."""

from __future__ import annotations

from dataclasses import dataclass

from hypersdk.errors import Refused
from hypersdk.guest.arguments import check_request
from hypersdk.guest.failures import NO_VIRTIO_WIN
from hypersdk.guest.faults import NOT_CONVERTED, TOOL_MISSING, install_advice
from hypersdk.guest.request import ONLY_ROOT, ConversionRequest, Customization, DiskKey, StaticAddress
from hypersdk.guest.tools import GuestTools
from hypersdk.model.guestplan import Acceleration, DiskBus, SourceGuest

_WINDOWS = "windows"


@dataclass(frozen=True, slots=True)
class ConversionOptions:
    """The conversions of all guests of one run. ``disk_bus`` is that of the landed machine, where the user chose it;
    ``root`` is that of ``ConversionRequest``."""

    keys: tuple[DiskKey, ...] = ()
    static_addresses: tuple[StaticAddress, ...] = ()
    customizations: tuple[Customization, ...] = ()
    acceleration: Acceleration = Acceleration.AUTO
    disk_bus: DiskBus | None = None
    root: str = ONLY_ROOT

    def request_for(self, guest: SourceGuest) -> ConversionRequest:
        """The request for one guest: with the addresses of its own cards."""
        own = {nic.mac.lower() for nic in guest.nics if nic.mac}
        return ConversionRequest(
            guest=guest,
            keys=self.keys,
            static_addresses=tuple(address for address in self.static_addresses if address.mac.lower() in own),
            customizations=self.customizations,
            require_virtio=self._require_virtio,
            acceleration=self.acceleration,
            root=self.root,
        )

    @property
    def _require_virtio(self) -> bool | None:
        """Who chooses SATA or IDE can do without."""
        return None if self.disk_bus is None else self.disk_bus in (DiskBus.VIRTIO, DiskBus.SCSI)

    def check_tools(self, tools: GuestTools) -> None:
        """Raises Refused where a program is missing or does not run, or does not have an option that is needed."""
        if missing := [program.name for program in tools.missing() if program.essential]:
            names = ", ".join(f"'{name}'" for name in missing)
            raise Refused(
                f"guests cannot be converted here: {names} not installed",
                code=TOOL_MISSING,
                remedies=(*install_advice(tools.install_command()), NOT_CONVERTED),
                programs=missing,
            )
        options = [f"--{item.operation}" for item in self.customizations]
        options += ["--key"] * bool(self.keys) + ["--mac"] * bool(self.static_addresses)
        tools.v2v().require(options)

    def check_guest(self, guest: SourceGuest, tools: GuestTools) -> None:
        """Raises what can be said of this guest before its disks are seen."""
        check_request(self.request_for(guest), tools.v2v())
        if guest.os_family == _WINDOWS and tools.virtio_win is None and self._require_virtio is not False:
            raise Refused(f"there are no virtio drivers for '{guest.name}' here", code=NO_VIRTIO_WIN)
