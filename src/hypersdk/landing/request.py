"""What is asked for after the export."""

from __future__ import annotations

from dataclasses import dataclass

from hypersdk.kvm.address import LibvirtAddress
from hypersdk.kvm.prove import ProofOptions
from hypersdk.landing.conversions import ConversionOptions
from hypersdk.landing.options import LandOptions
from hypersdk.landing.record import CONVERT, LAND, PROVE, START


@dataclass(frozen=True, slots=True, kw_only=True)
class LandingRequest:
    """Where the machine is landed, and how. Without a ``conversion`` its guest is landed as it is, without a ``proof``
    it is not booted before it is started. ``exported``: this run has just written the images."""

    address: LibvirtAddress
    options: LandOptions
    conversion: ConversionOptions | None = None
    proof: ProofOptions | None = None
    exported: bool = False

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps, in their order."""
        wanted = {
            CONVERT: self.conversion is not None,
            LAND: True,
            PROVE: self.proof is not None,
            START: self.options.start,
        }
        return tuple(step for step, is_wanted in wanted.items() if is_wanted)
