"""The last screen of the interactive program: it offers to land what was exported, where this machine can."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

from hypersdk.cli.state import Cli
from hypersdk.errors import HyperSDKError
from hypersdk.migration.export import Outcome
from hypersdk.migration.formats import FORMATS
from hypersdk.text import count

SYSTEM: Final = "qemu:///system"
NETWORK: Final = "default"
"""libvirt's own network, which most hosts have."""


def offer_landing(cli: Cli, outcomes: Sequence[Outcome]) -> bool:
    """Asks one question, and lands the machines if the answer is yes; they are not started. Returns whether it did.

    Nothing is asked where libvirt's library is not installed, libvirt does not answer, or it has no active network for
    the cards of the machines. Raises the error of a landing.
    """
    exported = [outcome for outcome in outcomes if _can_land(outcome)]
    address = cli.environ.get("LIBVIRT_DEFAULT_URI") or SYSTEM
    if not exported or find_spec("libvirt") is None or not _has_network(cli, address):
        return False
    machines = exported[0].plan.machine.name if len(exported) == 1 else count(len(exported), "machine")
    if not cli.agreed(f"Land {machines} on {address} now? Defined on its network '{NETWORK}', not started."):
        return False
    _land(cli, address, exported)
    return True


def _can_land(outcome: Outcome) -> bool:
    image = FORMATS[outcome.plan.spec.format].image
    return outcome.result is not None and image.bootable and not FORMATS[outcome.plan.spec.format].package


def _has_network(cli: Cli, address: str) -> bool:
    """Whether libvirt answers there and has the network."""
    from hypersdk.kvm.address import parse_libvirt_address
    from hypersdk.kvm.connection import open_connection
    from hypersdk.kvm.preflight import read_inventory

    try:
        with open_connection(parse_libvirt_address(address), cancel=cli.cancel, timeout_s=5) as connection:
            return read_inventory(connection, bridges=()).networks.get(NETWORK, False)
    except HyperSDKError:
        return False


def _land(cli: Cli, address: str, exported: Sequence[Outcome]) -> None:
    """Guests are converted where the programs for that are installed."""
    from hypersdk.cli.importing import ImportChoices, import_sources
    from hypersdk.guest.tools import find_tools
    from hypersdk.kvm.address import parse_libvirt_address
    from hypersdk.landing.conversions import ConversionOptions
    from hypersdk.landing.options import LandOptions, NetworkTarget
    from hypersdk.landing.request import LandingRequest

    missing = [program.name for program in find_tools(cli.environ).missing() if program.essential]
    if missing:
        cli.output.note(f"Guests are landed as they are: {', '.join(missing)} not installed.", style="yellow")
    request = LandingRequest(
        address=parse_libvirt_address(address),
        options=LandOptions(default_network=NetworkTarget(NETWORK, bridge=False)),
        conversion=None if missing else ConversionOptions(),
    )
    import_sources(cli, [outcome.plan.spec.output_dir for outcome in exported], request, ImportChoices(yes=True))
