"""`hyper2kvm migrate`: moves machines from vSphere onto KVM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from hypersdk.cli.commands.export import (
    data_options,
    read_selection,
    run_options,
    run_settings,
    selection_options,
    source_options,
    template,
    with_defaults,
)
from hypersdk.cli.landoptions import (
    DEFAULT_CONVERSIONS,
    conversion_of,
    land_options,
    landing_of,
    max_conversions,
    proof_of,
)
from hypersdk.cli.options import CompressingCommand, complete_machine, connection_options, output_options
from hypersdk.cli.state import Cli, pass_cli
from hypersdk.errors import UsageError
from hypersdk.loading import loading

if TYPE_CHECKING:
    from hypersdk.landing.request import LandingRequest
    from hypersdk.migration.spec import ExportSpec

NAME_MACHINES: Final = "Like `hyper2kvm migrate web01 --to qemu:///system`; see `hyper2kvm migrate --help`."


@click.command("migrate", cls=CompressingCommand)
@click.argument("machines", nargs=-1, metavar="[VM]...", shell_complete=complete_machine)
@selection_options
@land_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of the exports (default: ./NAME). Several machines get a folder each below it.",
)
@click.option(
    "--power-off",
    is_flag=True,
    help="Power a running source off. With --start it stays off, else it is powered on again after the export.",
)
@click.option(
    "--shutdown",
    is_flag=True,
    help="Shut the guest of a running source down. With --start it stays off, else it is powered on again.",
)
@click.option(
    "--disconnect-source",
    is_flag=True,
    help="Disconnect the network cards of the source before it is copied, and leave them so once the landed one runs.",
)
@click.option(
    "--keep-source-running",
    is_flag=True,
    help="Give the landed machine new MAC addresses, so that it can be started beside its source.",
)
@max_conversions
@data_options
@source_options
@run_options
@output_options
@connection_options
@pass_cli
def command(cli: Cli, /, machines: tuple[str, ...], **flags: Any) -> None:
    """Move machines from vSphere onto KVM: export them, convert their guests, land them on libvirt, prove that they
    boot and start them there, as asked.

    Machines are selected as for `export`. The same command again goes on at the first step that is not done. The source
    is never deleted. With --start or --autostart it must be off the network: it is off, or --power-off, --shutdown or
    --disconnect-source take it off and keep it so, or --keep-source-running gives the landed machine new MAC addresses.
    If a machine cannot be migrated, what was changed at its source and at the target is undone.

    With --json: events of type plan, progress, total, result, skipped, totals, report, warning and error, one a
    line.
    """
    selection = read_selection(machines, flags)
    if not selection.given:
        raise UsageError("say which machines", next_step=NAME_MACHINES)
    selection.check()
    given = {key: value for key, value in flags.items() if value is not None and value is not False and value != ()}
    request = request_of(flags, new_macs=flags["keep_source_running"])
    if "max_conversions" in given and request.conversion is None and request.proof is None:
        raise UsageError("--max-conversions has no effect with --no-convert and without --prove")
    spec = _spec(cli, given, request)
    with loading():
        from hypersdk.cli.migrating import Choices, migrate_selected

    settings = run_settings(cli, with_defaults(cli, given))
    conversions = flags["max_conversions"] or DEFAULT_CONVERSIONS
    choices = Choices(settings, flags["dry_run"], flags["yes"], conversions, flags["report"])
    own_folder = "output" not in given or not selection.by_name_only
    migrate_selected(cli, selection, spec, request, choices, own_folder=own_folder)


def request_of(flags: dict[str, Any], *, new_macs: bool) -> LandingRequest:
    """What the flags say about the landing. Raises UsageError."""
    from hypersdk.kvm.address import parse_libvirt_address
    from hypersdk.landing.request import LandingRequest

    return LandingRequest(
        address=parse_libvirt_address(flags["target"]),
        options=landing_of(flags, new_macs=new_macs),
        conversion=conversion_of(flags),
        proof=proof_of(flags),
    )


def _spec(cli: Cli, given: dict[str, Any], request: LandingRequest) -> ExportSpec:
    """The export that comes before. Raises UsageError for flags that exclude each other."""
    fenced = request.options.start or request.options.autostart
    if "disconnect_source" in given and not fenced:
        raise UsageError(
            "--disconnect-source has no effect without --start or --autostart",
            next_step="Only a landed machine that is started disturbs its source.",
        )
    if "keep_source_running" in given:
        for flag in ("disconnect_source", "power_off", "shutdown"):
            if flag in given:
                raise UsageError(f"--keep-source-running and --{flag.replace('_', '-')} exclude each other")
    # Formats and names of the configuration file are for exports.
    flags = {**with_defaults(cli, given), "format": "qcow2"}
    return replace(
        template(flags),
        hold=fenced and not request.options.new_macs,
        disconnect="disconnect_source" in given,
    )
