"""The question where networks of the source go, asked once for all machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from hypersdk.cli.batch import Failure
from hypersdk.cli.landed import Landings
from hypersdk.cli.state import Cli
from hypersdk.errors import HyperSDKError, UsageError
from hypersdk.kvm.connection import Connection
from hypersdk.kvm.preflight import read_inventory
from hypersdk.landing.moves import P
from hypersdk.landing.options import NetworkTarget, parse_network_target
from hypersdk.landing.planning import NETWORK_UNMAPPED
from hypersdk.landing.request import LandingRequest
from hypersdk.text import clean, count, shell_line

_SKIP: Final = "skip"
_MOST_ASKED: Final = 3
_USUAL: Final = "default"
"""libvirt's own network, which most hosts have."""


def plan_asked(
    cli: Cli,
    batch: Landings[P],
    request: LandingRequest,
    connection: Connection,
    add: Callable[[Sequence[Failure], LandingRequest], None],
) -> LandingRequest:
    """Asks where the networks go for which machines of ``batch`` are skipped, and plans these again by ``add``. Returns
    ``request`` with the answers. Raises the errors of a connection."""
    unmapped = [failure for failure in batch.skipped if next(_networks_of(failure.error), None) is not None]
    if not unmapped or not cli.output.can_ask:
        return request
    found = _ask_all(cli, unmapped, connection)
    if not found:
        return request
    options = replace(request.options, networks={**request.options.networks, **found})
    request = replace(request, options=options)
    batch.skipped = [failure for failure in batch.skipped if failure not in unmapped]
    add(unmapped, request)
    return request


def _ask_all(cli: Cli, unmapped: Sequence[Failure], connection: Connection) -> dict[str, NetworkTarget]:
    machines = Counter(network for failure in unmapped for network in _networks_of(failure.error))
    offered = [name for name, active in read_inventory(connection, bridges=()).networks.items() if active]
    cli.output.note(f"{count(len(machines), 'network')} of the source without a target", style="bold")
    cli.output.note(f"libvirt networks there: {', '.join(map(clean, offered)) or 'none'}. Or name a bridge.")
    found: dict[str, NetworkTarget] = {}
    usual = _USUAL if _USUAL in offered else ""
    for network, number in machines.items():
        question = f"  '{clean(network, 80)}' of {count(number, 'machine')} goes to"
        target = _ask(cli, question, usual, offered, connection)
        if target is not None:
            found[network], usual = target, str(target).removeprefix("network:")
    flags = [word for network, target in found.items() for word in ("--map", f"{network}={target}")]
    if flags:
        cli.output.note(f"The same without questions: {shell_line(flags)}", style="dim")
    return found


def _networks_of(error: HyperSDKError) -> Iterator[str]:
    for reason in error.reasons or (error,):
        networks = reason.fields.get("networks")
        if reason.code == NETWORK_UNMAPPED and isinstance(networks, list):
            yield from networks


def _ask(cli: Cli, question: str, usual: str, offered: Sequence[str], connection: Connection) -> NetworkTarget | None:
    """The answer; None to skip the machines of the network."""
    for _ in range(_MOST_ASKED):
        hint = f"Enter for {usual}, or '{_SKIP}'" if usual else f"or '{_SKIP}'"
        answer = cli.ask(f"{question} ({hint}): ").strip() or usual
        if not answer or answer == _SKIP:
            return None
        try:
            return _target(answer, offered, connection)
        except UsageError as error:
            cli.output.note(f"  {error.message}", style="yellow")
    return None


def _target(answer: str, offered: Sequence[str], connection: Connection) -> NetworkTarget:
    """Raises UsageError for an answer that is neither a network nor a bridge of the target."""
    if answer in offered:
        return NetworkTarget(answer, bridge=False)
    target = parse_network_target(answer)
    if not target.bridge:
        raise UsageError(f"the target has no active network '{target.name}'")
    bridges = read_inventory(connection, bridges={target.name}).bridges
    if bridges is not None and target.name not in bridges:
        raise UsageError(f"the target has neither a network nor a bridge '{target.name}'")
    return target
