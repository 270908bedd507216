"""`hyper2kvm status`: unfinished exports and what they left on the source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hypersdk.cli.options import output_options
from hypersdk.cli.programs.groups import Command
from hypersdk.cli.state import Cli, pass_cli
from hypersdk.errors import LookupFailed
from hypersdk.text import clean, count, shell_line, shell_word
from hypersdk.units import format_duration

if TYPE_CHECKING:
    from hypersdk.migration.register import Registered
    from hypersdk.migration.runfile import RunRecord
    from hypersdk.migration.runs import UnfinishedRun


@click.command("status", cls=Command)
@click.option(
    "--forget",
    metavar="DIR|ID",
    help=(
        "Forget this unfinished export or interrupted landing: it is no longer shown, and an export no longer resumed."
        " Data and what was left at the source and the target stay, and are listed."
    ),
)
@output_options
@pass_cli
def command(cli: Cli, forget: str | None) -> None:
    """Show every unfinished export of this user on this machine, with the command that resumes it, and what it
    left on the source; and every landing that was interrupted.

    Exports of other users and of a daemon are shown as far as they are registered on this machine. No server is
    contacted.
    """
    from hypersdk.migration.runs import other_runs, unfinished_runs

    if forget is not None:
        _forget(cli, forget)
        return
    runs, others = unfinished_runs(cli.state_dir), other_runs(cli.state_dir)
    landings = _landings(cli)
    if cli.output.json_lines:
        for run in runs:
            cli.output.event("run", run_object(run))
        for other in others:
            cli.output.event("other_run", _other_object(other))
        return
    if not runs and not landings:
        cli.output.line("No unfinished exports.")
    for run in runs:
        _show(cli, run)
        _hint(cli, run)
    for other in others:
        entry = other.entry
        cli.output.line(f"{entry.machine or 'unknown machine'}: {entry.owner}")
        held = f"running now, process {entry.pid}" if other.held else "no process is working on it"
        cli.output.line(f"  {held}; may have left snapshot {entry.snapshot} at {entry.endpoint}")


def _landings(cli: Cli) -> bool:
    """Shows the interrupted landings; whether there are any. Nothing is imported for that where there are none."""
    from hypersdk.migration.pointers import LANDINGS, Pointers

    if not Pointers(cli.state_dir, LANDINGS).all():
        return False
    from hypersdk.cli.landings import show_landings
    from hypersdk.landing.landings import unfinished_landings

    landings = unfinished_landings(cli.state_dir)
    show_landings(cli, landings)
    return bool(landings)


def _forget(cli: Cli, which: str) -> None:
    """The landing and the export in a folder, or one of both by its id. Raises LookupFailed where there is neither."""
    landing = _forget_landing(cli, which)
    try:
        _forget_export(cli, which)
    except LookupFailed:
        if not landing:
            raise


def _forget_landing(cli: Cli, which: str) -> bool:
    """Whether there was one. Nothing is imported for that where there are none."""
    from hypersdk.migration.pointers import LANDINGS, Pointers

    if not Pointers(cli.state_dir, LANDINGS).all():
        return False
    from hypersdk.cli.landings import show_forgotten
    from hypersdk.landing.landings import forget_landing

    if (landing := forget_landing(cli.state_dir, which)) is not None:
        show_forgotten(cli, landing)
    return landing is not None


def _forget_export(cli: Cli, which: str) -> None:
    from hypersdk.migration.runs import forget_run

    run = forget_run(cli.state_dir, which)
    left = list(_left_behind(run))
    if cli.output.json_lines:
        cli.output.event("forgotten", {"id": run.run_id, "folder": str(run.folder), "left": left})
        return
    cli.output.line(f"forgotten: {run.run_id} in {run.folder}")
    for text in left:
        cli.output.line(f"  left behind: {text}")


def _left_behind(run: UnfinishedRun) -> Iterator[str]:
    """What the run leaves behind, as texts."""
    from hypersdk.migration.runfile import SNAPSHOT_PREFIX

    snapshot = f"snapshot {SNAPSHOT_PREFIX}{run.run_id}"
    removed = f"`hyper2kvm cleanup --snapshot {SNAPSHOT_PREFIX}{run.run_id}` removes it"
    if run.record is None:
        at = f" at {run.entry.endpoint}" if run.entry else ""
        yield f"perhaps {snapshot}{at}; {removed}"
        yield "perhaps an ejected ISO image or a machine that was powered off: the record of it is lost"
    else:
        for change in run.record.open_changes:
            kind = change.kind.value
            yield (
                f"{snapshot} of {run.record.machine} at {run.record.endpoint}; {removed}"
                if kind == "snapshot"
                else (f"what was changed of {run.record.machine} at {run.record.endpoint}: {kind}; restore it yourself")
            )
    if run.folder.is_dir():
        yield f"the files in {run.folder}"


def run_object(run: UnfinishedRun) -> dict[str, Any]:
    """One run for programs."""
    record = run.record
    if record is None:
        return {"id": run.run_id, "folder": str(run.folder), "active": run.active, "error": run.error}
    return {
        "id": record.run_id,
        "folder": str(run.folder),
        "machine": record.machine,
        "moref": record.moref,
        "endpoint": record.endpoint,
        "format": record.format,
        "compress": record.compress,
        "source": record.source,
        "exclude_disks": record.exclude_disks,
        "started_at": record.started_at,
        "age_s": round(run.age.total_seconds()),
        "active": run.active,
        "disks": [{"label": disk.label, "file": disk.file_name, "done": disk.done} for disk in record.disks],
        "left_on_source": [change.kind.value for change in record.open_changes],
        "error": run.error,
        "resume_command": shell_line(_resume_command(run.folder, record)) if _is_export(record) else None,
    }


def _is_export(record: RunRecord) -> bool:
    """Whether `export --resume` continues it: an image conversion cannot be resumed, a migration is more than an
    export."""
    return bool(record.moref) and not record.hold


def _other_object(other: Registered) -> dict[str, Any]:
    entry = other.entry
    return {
        "id": entry.run_id,
        "program": entry.program,
        "job": entry.job,
        "user": entry.user,
        "pid": entry.pid,
        "machine": entry.machine,
        "endpoint": entry.endpoint,
        "snapshot": entry.snapshot,
        "folder": entry.folder,
        "started_at": entry.started_at,
        "active": other.held,
    }


def _show(cli: Cli, run: UnfinishedRun) -> None:
    record = run.record
    if record is None:
        cli.output.line(f"{run.folder}: {run.error}")
        if run.entry is not None:
            cli.output.line(
                f"  of {run.entry.machine}, id {run.run_id}; may have left {run.entry.snapshot} at {run.entry.endpoint}"
            )
        return
    state = "running now" if run.active else "interrupted"
    done = sum(disk.done for disk in record.disks)
    left = ", ".join(change.kind.value for change in record.open_changes) or "nothing"
    cli.output.line(f"{record.machine} -> {run.folder}")
    cli.output.line(
        f"  {state}, started {format_duration(run.age.total_seconds())} ago; "
        f"{done} of {count(len(record.disks), 'disk')} done as {record.format}"
    )
    cli.output.line(f"  from {record.endpoint}; left there: {left}")


def _resume_command(folder: Path, record: RunRecord) -> Iterator[str]:
    """The command with the flags that a resume must repeat (else ``resume_mismatch``), and all others that were given.
    Defaults are included: a configuration file may override them."""
    yield from ("hyper2kvm", "export", record.moref, "-o", str(folder), "--format", record.format)
    yield f"--compress={record.compress}"
    yield from ("--source", record.source)
    for disk in record.exclude_disks:
        yield from ("--exclude-disk", disk)
    if record.from_snapshot is not None:
        yield from ("--from-snapshot", record.from_snapshot)
    asked = {
        "--power-off": record.state == "power-off",
        "--shutdown": record.state == "shutdown",
        "--remove-cdrom": record.remove_cdrom,
        "--no-quiesce": not record.quiesce,
    }
    yield from (flag for flag, is_given in asked.items() if is_given)
    yield from ("--file-hash", record.file_hash)
    user, _, server = record.endpoint.rpartition("@")
    host, _, port = server.rpartition(":")
    yield from ("--url", f"https://[{host}]:{port}" if ":" in host else f"https://{server}", "--username", user)
    yield "--resume"


def _hint(cli: Cli, run: UnfinishedRun) -> None:
    """Prints the commands that resume or restore it."""
    from hypersdk.cli.exporting import SNAPSHOT_KEPT

    record = run.record
    if run.active:
        return
    if record is None:
        if run.lost:
            cli.output.note("Remove what it left: hyper2kvm cleanup --stray")
        cli.output.note(f"Forget it: hyper2kvm status --forget {run.run_id}")
        return
    if record.hold:
        cli.output.note(f"Continue {clean(record.machine)}: run its `hyper2kvm migrate` command again.")
    if _is_export(record):
        command = shell_line(_resume_command(run.folder, record))
        cli.output.notes.print(clean(f"Resume {record.machine}: {command}"), markup=False, soft_wrap=True)
    kinds = {change.kind.value for change in record.open_changes}
    folder = shell_word(str(run.folder))
    if kinds - {"snapshot"}:
        cli.output.notes.print(clean(f"Restore its source: hyper2kvm cleanup {folder}"), markup=False, soft_wrap=True)
    if "snapshot" in kinds:
        cli.output.note(
            f"Its snapshot {record.snapshot_name} is kept for the resume, and grows. `hyper2kvm cleanup` removes it"
            f" once the export is {SNAPSHOT_KEPT} old. To remove it now:"
        )
        command = f"hyper2kvm cleanup --drop-snapshots {folder}"
        cli.output.notes.print(clean(f"  {command}"), markup=False, soft_wrap=True)
