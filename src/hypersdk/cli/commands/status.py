"""`hyper2kvm status`: exports that did not end, and what they left on the source."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hypersdk.cli.options import Command, output_options
from hypersdk.cli.state import Cli, pass_cli
from hypersdk.cli.text import clean, count

if TYPE_CHECKING:
    from hypersdk.migration.runfile import RunRecord
    from hypersdk.migration.runs import UnfinishedRun


@click.command("status", cls=Command)
@output_options
@pass_cli
def command(cli: Cli) -> None:
    """Show unfinished exports of this user on this machine, and what they left on the source. No server is asked."""
    from hypersdk.migration.runs import unfinished_runs

    runs = unfinished_runs(cli.state_dir)
    if cli.output.json_lines:
        for run in runs:
            cli.output.event("run", run_object(run))
        return
    if not runs:
        cli.output.line("No unfinished exports.")
        return
    for run in runs:
        _show(cli, run)
    _hint(cli, runs)


def run_object(run: UnfinishedRun) -> dict[str, Any]:
    """One run for programs."""
    record = run.record
    if record is None:
        return {"folder": str(run.folder), "active": run.active, "error": run.error}
    return {
        "id": record.run_id, "folder": str(run.folder), "machine": record.machine, "moref": record.moref, "endpoint": record.endpoint,
        "format": record.format, "compress": record.compress, "source": record.source, "exclude_disks": record.exclude_disks,
        "started_at": record.started_at, "age_s": round(run.age.total_seconds()), "active": run.active,
        "disks": [{"label": disk.label, "file": disk.file_name, "done": disk.done} for disk in record.disks],
        "left_on_source": [change.kind.value for change in record.open_changes], "error": run.error,
    }  # fmt: skip


def _show(cli: Cli, run: UnfinishedRun) -> None:
    from hypersdk.units import format_duration

    record = run.record
    if record is None:
        cli.output.line(f"{run.folder}: {run.error}")
        return
    state = "running now" if run.active else "interrupted"
    done = sum(disk.done for disk in record.disks)
    left = ", ".join(change.kind.value for change in record.open_changes) or "nothing"
    cli.output.line(f"{record.machine} -> {run.folder}")
    cli.output.line(
        f"  {state}, begun {format_duration(run.age.total_seconds())} ago; "
        f"{done} of {count(len(record.disks), 'disk')} done as {record.format}"
    )
    cli.output.line(f"  from {record.endpoint}; left there: {left}")


def _resume_command(folder: Path, record: RunRecord) -> Iterator[str]:
    """What a resume must repeat (``resume_mismatch`` otherwise), and where the bytes came from."""
    yield from ("hyper2kvm", "export", record.moref, "-o", str(folder), "--format", record.format)
    if record.compress != "none":
        yield f"--compress={record.compress}"
    if record.source != "auto":
        yield from ("--source", record.source)
    for disk in record.exclude_disks:
        yield from ("--exclude-disk", disk)
    yield "--resume"


def _hint(cli: Cli, runs: Sequence[UnfinishedRun]) -> None:
    waiting = [run for run in runs if run.record is not None and not run.active]
    for run in waiting[:3]:
        assert run.record is not None
        if not run.record.moref:
            continue  # a conversion: it begins anew
        command = shlex.join(_resume_command(run.folder, run.record))
        cli.output.notes.print(clean(f"Go on with {run.record.machine}: {command}"), markup=False, soft_wrap=True)
    if any(run.record is not None and run.record.open_changes for run in waiting):
        cli.output.note("Put the source back: hyper2kvm cleanup")
