"""The last screen of the interactive program: it offers to land what was exported, where this machine can."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from hypersdk.cli.programs.program import spelled
from hypersdk.cli.state import Cli
from hypersdk.errors import HyperSDKError
from hypersdk.migration.export import Outcome
from hypersdk.migration.formats import FORMATS
from hypersdk.model import Power
from hypersdk.text import count

if TYPE_CHECKING:
    from hypersdk.landing.conversions import ConversionOptions

SYSTEM: Final = "qemu:///system"


def offer_landing(cli: Cli, outcomes: Sequence[Outcome]) -> bool:
    """Asks whether to land the machines, and how, and does it. Returns whether it did.

    Nothing is asked where libvirt's library is not installed, or libvirt does not answer. Raises the error of a
    landing.
    """
    exported = [outcome for outcome in outcomes if _can_land(outcome)]
    address = cli.environ.get("LIBVIRT_DEFAULT_URI") or SYSTEM
    if not exported or find_spec("libvirt") is None or not _answers(cli, address):
        return False
    machines = exported[0].plan.machine.name if len(exported) == 1 else count(len(exported), "machine")
    cli.output.notes.print()
    if not cli.agreed(f"Land {machines} on {address} now?"):
        return False
    _land(cli, address, exported)
    return True


def _can_land(outcome: Outcome) -> bool:
    image = FORMATS[outcome.plan.spec.format].image
    return outcome.result is not None and image.bootable and not FORMATS[outcome.plan.spec.format].package


def _answers(cli: Cli, address: str) -> bool:
    """Whether libvirt answers there."""
    from hypersdk.kvm.address import parse_libvirt_address
    from hypersdk.kvm.connection import open_connection

    try:
        with open_connection(parse_libvirt_address(address), cancel=cli.cancel, timeout_s=5):
            return True
    except HyperSDKError:
        return False


def _land(cli: Cli, address: str, exported: Sequence[Outcome]) -> None:
    """Asks how, and lands. A source that ran is not joined by a machine with its addresses: it is only started where
    all were off."""
    from hypersdk.cli.importing import ImportChoices, import_sources
    from hypersdk.kvm.address import parse_libvirt_address
    from hypersdk.kvm.prove import ProofOptions
    from hypersdk.landing.options import LandOptions
    from hypersdk.landing.request import LandingRequest

    alone = len(exported) == 1
    converts = _converts(cli, "the guest" if alone else "the guests")
    proves = _wanted(cli, f"Boot {'it' if alone else 'each'} once as a proof, without network?")
    were_off = all(outcome.plan.machine.power is Power.OFF for outcome in exported)
    off = "Its source was off, and has" if alone else "Their sources were off, and have"
    starts = were_off and cli.agreed(f"Start {'it' if alone else 'them'} afterwards? {off} to stay off.")
    request = LandingRequest(
        address=parse_libvirt_address(address),
        options=LandOptions(start=starts),
        conversion=converts,
        proof=ProofOptions() if proves else None,
    )
    folders = [outcome.plan.spec.output_dir for outcome in exported]
    import_sources(cli, folders, request, ImportChoices(source_off=starts))


def _converts(cli: Cli, guests: str) -> ConversionOptions | None:
    from hypersdk.guest.tools import find_tools
    from hypersdk.landing.conversions import ConversionOptions

    missing = [program.name for program in find_tools(cli.environ).missing() if program.essential]
    if missing:
        cli.output.note(f"There is no guest conversion here: {', '.join(missing)} not installed.", style="yellow")
        return None
    return ConversionOptions() if _wanted(cli, f"Convert {guests} for KVM (drivers, boot loader)?") else None


def _wanted(cli: Cli, question: str) -> bool:
    """Enter is yes."""
    return cli.choose(f"{question} [Y/n] ", spelled("yes", "no"), empty="yes", unanswered="no") == "yes"
