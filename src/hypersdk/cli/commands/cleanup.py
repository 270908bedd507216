"""`hyper2kvm cleanup`: puts back what interrupted exports left on the source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hypersdk.cli.options import Command, connection_options, output_options
from hypersdk.cli.state import Cli, pass_cli
from hypersdk.errors import Cancelled, HyperSDKError, NotRestored, UsageError

GIVE_UP_STEP: Final = (
    "Once vSphere can do it again, run the command again. Of what is gone for good, `hyper2kvm cleanup --give-up DIR` says what stays behind, and "
    "tries it no more."
)

if TYPE_CHECKING:
    from hypersdk.migration.runs import UnfinishedRun
    from hypersdk.vsphere.session import Session


@click.command("cleanup", cls=Command)
@click.argument("folders", nargs=-1, metavar="[DIR]...", type=click.Path(path_type=Path))
@click.option(
    "--drop-snapshots",
    is_flag=True,
    help="Remove temporary snapshots that wait for a --resume, too (after 24 hours always).",
)
@click.option(
    "--stray",
    is_flag=True,
    help="Remove snapshots of ours that no run on this machine knows of. Another machine's run may need them.",
)
@click.option(
    "--give-up",
    is_flag=True,
    help="Try once more to put the exports in DIR back, then tell what cannot be undone and do not try it again.",
)
@output_options
@connection_options
@pass_cli
def command(cli: Cli, folders: tuple[Path, ...], drop_snapshots: bool, stray: bool, give_up: bool) -> None:
    """Put back what interrupted exports left on the source: leases, ejected ISO images, power states, snapshots.

    DIR are output folders of unfinished exports; without any, all that `hyper2kvm status` shows for this server. What was copied
    stays, and the exports stay resumable, except that a removed snapshot means to copy its disks again.
    """
    from hypersdk.cli.connect import connected
    from hypersdk.migration.prepare import endpoint_name
    from hypersdk.migration.runs import unfinished_runs

    if give_up and not folders:
        raise UsageError("--give-up needs the folders of the exports that are given up", next_step=GIVE_UP_STEP)
    with connected(cli) as session:
        here = endpoint_name(session)
        wanted = {folder.absolute() for folder in folders}
        runs = [
            run for run in unfinished_runs(cli.state_dir) if not run.active and (not wanted or run.folder in wanted)
        ]
        mine = [run for run in runs if run.record is not None and run.record.endpoint == here]
        failed = [run for run in mine if not _clean(cli, session, run, drop_snapshots, give_up)]
        failed_strays = _strays(cli, session, remove=stray)
    for run in runs:
        if run not in mine and run.record is not None:
            cli.output.note(f"{run.folder}: belongs to {run.record.endpoint}, not to {here}; left alone", style="dim")
    for folder in sorted(wanted - {run.folder for run in runs}):
        cli.output.warn(f"{folder}: no unfinished export of this user lies there, or one is running")
    if not mine and not failed_strays:
        cli.output.note("Nothing to put back here.")
    if failed or failed_strays:
        names = [run.record.machine for run in failed if run.record] + failed_strays
        raise NotRestored(f"not everything could be put back: {', '.join(names)}", next_step=GIVE_UP_STEP)


def _clean(cli: Cli, session: Session, run: UnfinishedRun, drop_snapshots: bool, give_up: bool) -> bool:
    from hypersdk.migration.runfile import FolderRuns
    from hypersdk.migration.runs import clean_up

    assert run.record is not None
    name = run.record.machine
    done = clean_up(
        session, run.folder, FolderRuns(cli.state_dir), drop_snapshot=drop_snapshots, give_up=give_up, cancel=cli.cancel,
        note=lambda text: cli.output.note(f"{name}: {text}", style="dim"),
    )  # fmt: skip
    if cli.output.json_lines:
        cli.output.event("cleanup", {
            "machine": name, "folder": run.folder, "undone": done.undone, "kept": done.kept,
            "problems": [problem.error.as_dict() for problem in done.problems],
            "given_up": [problem.left for problem in done.problems if problem.given_up],
        })  # fmt: skip
        return all(problem.given_up for problem in done.problems)
    undone = f"put back {', '.join(done.undone)}" if done.undone else "nothing to put back"
    kept = f"; {', '.join(done.kept)} kept for --resume (or --drop-snapshots)" if done.kept else ""
    cli.output.line(f"{name}: {undone}{kept}")
    for problem in done.problems:
        cli.output.warn(f"{name}: could not {problem.change}: {problem.error.message}")
        if problem.given_up:
            cli.output.warn(f"{name}: given up, stays behind: {problem.left}")
    return all(problem.given_up for problem in done.problems)


def _strays(cli: Cli, session: Session, *, remove: bool) -> list[str]:
    """Tells of (or removes) snapshots with our name that no local run knows; the names of those that could not be removed."""
    from hypersdk.migration.runs import remove_stray, stray_snapshots

    failed = []
    for found in stray_snapshots(session, cli.state_dir):
        if not remove:
            cli.output.warn(f"snapshot {found.name} belongs to no run on this machine; --stray removes it")
            continue
        try:
            remove_stray(session, found, cancel=cli.cancel)
        except Cancelled:
            raise
        except HyperSDKError as error:
            cli.output.warn(f"snapshot {found.name} could not be removed: {error.message}")
            failed.append(found.name)
            continue
        if cli.output.json_lines:
            cli.output.event("removed", {"snapshot": found.name, "moref": found.moref})
        else:
            cli.output.line(f"removed snapshot {found.name}")
    return failed
