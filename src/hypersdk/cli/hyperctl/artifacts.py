"""`hyperctl artifacts`: the files of an export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hypersdk.cli.hyperctl.app import daemon_flags, json_option
from hypersdk.cli.hyperctl.completing import complete_file, complete_job
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.groups import Command, flag
from hypersdk.errors import LookupFailed, UsageError
from hypersdk.text import clean
from hypersdk.transfer.files import is_folder
from hypersdk.units import format_size

if TYPE_CHECKING:
    from hypersdk.client.artifacts import Artifact, Artifacts


def _target(text: str) -> Callable[[Any], Any]:
    return flag("--output", "-o", "target", type=click.Path(path_type=Path), metavar="PATH", help=text)


@click.command("artifacts", cls=Command)
@click.argument("job_id", metavar="ID", shell_complete=complete_job)
@click.argument("name", required=False, metavar="[FILE]", shell_complete=complete_file)
@_target("With FILE: download it to this new file, or into this folder (the current one).")
@json_option
@daemon_flags
@pass_ctl
def command(ctl: Ctl, job_id: str, name: str | None, target: Path | None) -> None:
    """List the files of a completed job with their sizes and digests, or download FILE.

    A download appears under its name only when it is complete, and its size and digest are those of the export. It
    continues after an interruption of the connection.
    """
    job_id = ctl.client.find_id(job_id)
    found = ctl.client.artifacts(job_id)
    if name is not None:
        _download(ctl, job_id, found.get(name), target)
    elif target is not None:
        raise UsageError("--output needs the name of a file", next_step=f"`hyperctl artifacts {job_id}` lists them.")
    else:
        ctl.show([dict(artifact.raw) for artifact in found.files], lambda: _print(ctl, found))


@click.command("report", cls=Command)
@click.argument("job_id", metavar="ID", shell_complete=complete_job)
@_target("Write it to this new file, or into this folder (default: ID.html).")
@json_option
@daemon_flags
@pass_ctl
def report(ctl: Ctl, job_id: str, target: Path | None) -> None:
    """Download the report of a job that converts or lands a machine: one HTML page with its steps, digests, changes,
    the boot proof and its screenshot.

    Jobs that failed after their images were made have one, too.
    """
    from hypersdk.migration.naming import REPORT_NAME

    job_id = ctl.client.find_id(job_id)
    found = ctl.client.artifacts(job_id)
    names = {artifact.name for artifact in found.files}
    if REPORT_NAME not in names:
        raise LookupFailed(
            f"the job {job_id} has no report",
            cause="It has not ended, it failed before its images were made, or it is only an export.",
            next_step=f"See `hyperctl get {job_id}`.",
        )
    _download(ctl, job_id, found.get(REPORT_NAME), target or Path(f"{job_id}.html"))


def _print(ctl: Ctl, found: Artifacts) -> None:
    from hypersdk.cli.columns import Cell, Column, lay_out

    if not found.files:
        ctl.output.line("There are no files: the job is not completed.")
        return
    columns = (Column("File", least=12), Column("Size", right=True), Column("Digest", least=12))
    rows: list[list[Cell]] = [
        [
            (clean(artifact.name, 255), "bold"),
            ("-" if artifact.size_bytes is None else format_size(artifact.size_bytes), ""),
            (clean(artifact.digest or "-", 80), "dim"),
        ]
        for artifact in found.files
    ]
    ctl.output.print(lay_out(columns, rows, ctl.output.width))
    ctl.output.note(f"In {found.folder} on the daemon's host.", style="dim")


def _download(ctl: Ctl, job_id: str, artifact: Artifact, target: Path | None) -> None:
    path = _path(artifact.name, target)
    total = "" if artifact.size_bytes is None else f" of {format_size(artifact.size_bytes)}"
    with ctl.output.working(f"Downloading {artifact.name} ...") as tell:
        sha256 = ctl.client.download(
            job_id,
            artifact,
            path,
            lambda received: tell(f"Downloading {artifact.name}: {format_size(received)}{total}"),
        )
    verified = artifact.digest is not None
    facts = {"name": artifact.name, "file": str(path), "size_bytes": path.stat().st_size, "sha256": sha256}
    name = "tree digest" if artifact.tree else "SHA-256"
    how = f"its {name} is that of the export" if verified else f"SHA-256 {sha256}, with nothing to compare it with"
    ctl.show({**facts, "verified": verified}, lambda: ctl.say(f"Downloaded {path}: {how}", "bold green"))


def _path(name: str, target: Path | None) -> Path:
    """The file to write. The name comes from the daemon: it must not lead to another folder."""
    folder = target or Path()
    if not is_folder(folder):
        return folder
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise UsageError(
            f"'{name[:100]}' cannot be the name of a file here", next_step="Give the file to write with --output."
        )
    return folder / name
