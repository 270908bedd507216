"""`hyper2kvm export`: copies machines from vSphere into verified images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import click

from hypersdk.cli.options import (
    COMPRESS_MODES,
    CompressingCommand,
    complete_machine,
    compression,
    connection_options,
    file_hash_fields,
    file_hash_options,
    output_options,
    unchecked_option,
)
from hypersdk.cli.programs.groups import flag_group
from hypersdk.cli.state import Cli, pass_cli
from hypersdk.config.user import MAX_RETRIES
from hypersdk.errors import UsageError
from hypersdk.loading import loading
from hypersdk.migration.spec import ExportSpec, Method, OutputFormat, ResumeMode, SourceState
from hypersdk.units import parse_size

if TYPE_CHECKING:
    from hypersdk.cli.exporting import Choices
    from hypersdk.cli.selection import Selection
    from hypersdk.migration.preflight import MinFreeSpace
    from hypersdk.migration.settings import RunSettings

Flags: TypeAlias = dict[str, Any]

FORMATS: Final = tuple(item.value for item in OutputFormat)
METHODS: Final = tuple(item.value for item in Method)
WHOLE: Final = click.IntRange(1, 1024)

selection_options = flag_group(
    click.option(
        "--folder",
        "folders",
        multiple=True,
        metavar="PATH",
        help="Machines in this inventory folder and below it, like Production/Web. Repeatable.",
    ),
    click.option(
        "--tag",
        "tags",
        multiple=True,
        metavar="NAME",
        help="Machines with this vCenter tag, written NAME or CATEGORY:NAME. Repeatable.",
    ),
    click.option(
        "--filter",
        "query",
        default="",
        metavar="WORDS",
        help="Machines whose name, path, guest or host contains all these words, as `list --filter`.",
    ),
    click.option("--all", "everything", is_flag=True, help="All machines."),
    click.option(
        "--exclude",
        multiple=True,
        metavar="VM",
        help="Leave out machines with this name or pattern, whatever else selects them. Repeatable.",
    ),
)
"""Flags that say which machines are meant."""

data_options = flag_group(
    click.option(
        "--compress",
        type=click.Choice(COMPRESS_MODES),
        metavar="[=checked|unchecked|repack|none]",
        help=(
            "Compressed qcow2: blocks are stored compressed as received. Each is checked, unless =unchecked; =repack"
            " is for old readers."
        ),
    ),
    unchecked_option,
    click.option(
        "--source",
        type=click.Choice(METHODS),
        help="Source of the data: export lease or datastore ranges (default: auto).",
    ),
)
"""How the data are read and stored."""

source_options = flag_group(
    click.option(
        "--no-quiesce", is_flag=True, help="Take the temporary snapshot without quiescing the guest's file systems."
    ),
    click.option("--remove-cdrom", is_flag=True, help="Eject ISO images during the export, then re-insert them."),
    click.option(
        "--exclude-disk",
        multiple=True,
        metavar="DISK",
        help="Do not export this disk: its label, number from 1, or device key. Repeatable.",
    ),
    click.option("--parallel", type=WHOLE, metavar="N", help="Disks of one machine copied at a time (default: 4)."),
    click.option("--max-machines", type=WHOLE, metavar="N", help="Machines exported at a time (default: 4)."),
    click.option("--bwlimit", metavar="RATE", help="Limit for all streams together, in bytes per second, like 100M."),
    click.option(
        "--retries",
        type=click.IntRange(0, MAX_RETRIES),
        metavar="N",
        help="Retries after a broken stream (default: 3).",
    ),
    click.option(
        "--space-wait",
        type=click.IntRange(0),
        metavar="SECONDS",
        help="How long to wait for space when the target disk is full (default: 600).",
    ),
    click.option(
        "--datastore-min-free",
        metavar="SIZE|PERCENT",
        help="Minimum free space of a datastore while a snapshot exists (default: the larger of 10% and 20GiB).",
    ),
    click.option("--datastore-floor", hidden=True, help="Former name of --datastore-min-free."),
)
"""What is done at the source, and the limits of a run."""

run_options = flag_group(
    file_hash_options,
    click.option("--dry-run", is_flag=True, help="Show the plan and stop."),
    click.option("--yes", is_flag=True, help="Start several exports without asking."),
)
"""What is checked, shown and asked."""

export_options = flag_group(
    click.option(
        "--write-job",
        type=click.Path(path_type=Path, allow_dash=True),
        metavar="FILE",
        help="Write a job file of the selection instead of exporting it (.json: JSON, else YAML; - prints it).",
    ),
    click.option(
        "-f",
        "--file",
        "job_file",
        type=click.Path(path_type=Path),
        metavar="JOBFILE",
        help="Run the exports of a job file (YAML or JSON; - is standard input).",
    ),
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Output folder (default: ./NAME). Several machines get a folder each below it.",
    ),
    click.option("--format", type=click.Choice(FORMATS), help="Output format (default: qcow2)."),
    data_options,
    click.option(
        "--from-snapshot",
        metavar="NAME",
        help="Export this snapshot of the machine; 'new' creates a temporary one.",
    ),
    click.option("--power-off", is_flag=True, help="Power a running machine off, export it, power it on again."),
    click.option("--shutdown", is_flag=True, help="Shut a running guest down, export it, power it on again."),
    source_options,
    click.option("--resume", is_flag=True, help="Continue an unfinished export in the output folder."),
    click.option("--discard", is_flag=True, help="Discard an unfinished export in the output folder and start again."),
    click.option("--force", is_flag=True, help="Replace another export in the output folder."),
    run_options,
    click.option(
        "--report",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write how each machine ended into this .csv, .json or .html file, also after a failure.",
    ),
)


@click.command("export", cls=CompressingCommand)
@click.argument("machines", nargs=-1, metavar="[VM]...", shell_complete=complete_machine)
@selection_options
@export_options
@output_options
@connection_options
@pass_cli
def command(cli: Cli, /, machines: tuple[str, ...], job_file: Path | None, **flags: Any) -> None:
    """Copy machines out of vSphere into verified images, in one pass.

    VM is a name, an inventory path, a moref like vm-42, a UUID, or a pattern of names or paths like 'web-*'. Names,
    --folder, --tag and --filter narrow each other; several values of one of them are alternatives. A machine that is
    powered off is exported as it is, a running one from a temporary snapshot. No machine is powered off without
    --power-off or --shutdown, and the source is restored at the end.

    With --json: events of type plan, progress, total, result, skipped, totals, report, job_file, warning and error, one
    a line.
    """
    selection = read_selection(machines, flags)
    write_job = flags.pop("write_job")
    given = {key: value for key, value in flags.items() if value is not None and value is not False and value != ()}
    _check_exclusive(given, "file_hash", "no_file_hash")
    flags = with_defaults(cli, given)
    choices = _choices(cli, flags)
    if selection.given == bool(job_file):
        from hypersdk.cli.selection import NAME_MACHINES

        both = ", not both" if job_file else ""
        raise UsageError(f"say which machines, or name a job file with -f{both}", next_step=NAME_MACHINES)
    if job_file is not None:
        from hypersdk.cli.jobs import check_flags, export_jobs

        check_flags({**given, **({"write_job": write_job} if write_job else {})})
        export_jobs(cli, job_file, choices, {**_run_fields(flags), **file_hash_fields(given)})
        return
    selection.check()
    spec, own_folder = template(flags), "output" not in given or not selection.by_name_only
    if write_job is not None:
        from hypersdk.cli.jobs import write_jobs

        write_jobs(cli, selection, spec, write_job, given, own_folder=own_folder)
    else:
        _export_selected(cli, selection, spec, choices, own_folder=own_folder)


def read_selection(machines: tuple[str, ...], flags: Flags) -> Selection:
    """Takes the flags of the selection out of ``flags``."""
    from hypersdk.cli.selection import Selection

    names = ("folders", "tags", "query", "exclude", "everything")
    return Selection(machines, **{name: flags.pop(name) for name in names})


def _choices(cli: Cli, flags: Flags) -> Choices:
    with loading():
        from hypersdk.cli.exporting import Choices

    return Choices(run_settings(cli, flags), "dry_run" in flags, "yes" in flags, flags.get("report"))


def with_defaults(cli: Cli, given: Flags) -> Flags:
    """The given flags, and the values of the configuration file for the others."""
    config = cli.config.export.given()
    names = {"output_dir": "output", "bandwidth_limit": "bwlimit", "space_wait_s": "space_wait"}
    return {**{names.get(key, key): value for key, value in config.items()}, **given}


def template(flags: Flags) -> ExportSpec:
    """The export that the flags describe, without its machine. Raises UsageError for flags that exclude each other."""
    _check_exclusive(flags, "power_off", "shutdown")
    _check_exclusive(flags, "power_off", "from_snapshot")
    _check_exclusive(flags, "shutdown", "from_snapshot")
    return ExportSpec(
        machine="",
        output_dir=Path(flags.get("output", ".")),
        format=OutputFormat(flags.get("format", "qcow2")),
        compress=compression(flags),
        method=Method(flags.get("source", "auto")),
        state=_state(flags),
        snapshot=flags.get("from_snapshot"),
        remove_cdrom="remove_cdrom" in flags,
        exclude_disks=tuple(flags.get("exclude_disk", ())),
        parallel=flags.get("parallel", 4),
        **_run_fields(flags),
        **file_hash_fields(flags),
    )


def _run_fields(flags: Flags) -> dict[str, Any]:
    """The fields of an ExportSpec that say how to run it. Their flags can be given with a job file too."""
    _check_exclusive(flags, "resume", "discard")
    return {
        "force": "force" in flags,
        "resume": ResumeMode.RESUME
        if "resume" in flags
        else ResumeMode.DISCARD
        if "discard" in flags
        else ResumeMode.REFUSE,
        "retries": flags.get("retries", 3),
        "quiesce": "no_quiesce" not in flags,
    }


def _check_exclusive(flags: Flags, *names: str) -> None:
    if all(name in flags for name in names):
        first, second = (f"--{name.replace('_', '-')}" for name in names)
        raise UsageError(f"{first} and {second} exclude each other")


def _state(flags: Flags) -> SourceState:
    if "from_snapshot" in flags:
        return SourceState.SNAPSHOT
    if "power_off" in flags:
        return SourceState.POWER_OFF
    return SourceState.SHUTDOWN if "shutdown" in flags else SourceState.AUTO


def run_settings(cli: Cli, flags: Flags) -> RunSettings:
    """Limits of the run: flags override the configuration file, which overrides the defaults."""
    with loading():
        from hypersdk.migration.settings import RunSettings

    settings = RunSettings(state=cli.state_dir)
    changes: dict[str, Any] = {
        key: flags[key] for key in ("max_machines", "streams_per_host", "streams_per_vcenter") if key in flags
    }
    if "bwlimit" in flags:
        changes["bandwidth_limit"] = _rate(flags["bwlimit"])
    if "space_wait" in flags:
        changes["space_wait_s"] = float(flags["space_wait"])
    for name in ("datastore_floor", "datastore_min_free"):  # the first is its name in earlier releases
        if name in flags:
            changes["min_free"] = min_free_of(flags[name])
    return replace(settings, **changes)


def _rate(value: str | int) -> int:
    rate = value if isinstance(value, int) else parse_size(value)
    if rate <= 0:
        raise UsageError("--bwlimit must be greater than zero", next_step="Omit it for no limit.")
    return rate


def min_free_of(text: str) -> MinFreeSpace:
    """The minimum free space that ``5%`` or ``20GiB`` means."""
    from hypersdk.migration.preflight import MinFreeSpace

    number = text.strip().removesuffix("%")
    if number == text.strip():
        return MinFreeSpace(fraction=0.0, at_least_bytes=parse_size(text))
    try:
        percent = float(number)
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise UsageError(f"'{text[:40]}' is not a percentage", next_step="Write it like 5% or 20GiB.")
    return MinFreeSpace(fraction=percent / 100, at_least_bytes=0)


def _export_selected(cli: Cli, selection: Selection, spec: ExportSpec, choices: Choices, *, own_folder: bool) -> None:
    with loading():
        from hypersdk.cli import exporting
        from hypersdk.cli.batch import Batch
        from hypersdk.cli.connect import connected
        from hypersdk.cli.machines import read_selected

    batch = Batch()
    with exporting.reported(cli, choices, batch):
        with connected(cli) as session:
            inventory, chosen = read_selected(cli, session, selection)
            specs = exporting.specs_for(spec, chosen, own_folder=own_folder)
            batch.unplanned = [(machine.name, spec) for machine, spec in zip(chosen, specs, strict=True)]
            wanted = exporting.run_exports(cli, session, specs, inventory, choices, batch, alone=len(specs) == 1)
        if wanted:
            exporting.conclude(cli, batch)
    exporting.show_next_steps(cli, batch.outcomes)
