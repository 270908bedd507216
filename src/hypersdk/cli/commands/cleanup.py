"""`hyper2kvm cleanup`: restores what interrupted exports left on the source, and ends interrupted conversions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hypersdk.cli.options import connection_options, output_options
from hypersdk.cli.programs.groups import Command
from hypersdk.cli.remedies import error_dict
from hypersdk.cli.state import Cli, pass_cli
from hypersdk.errors import Cancelled, HyperSDKError, LookupFailed, NotRestored, Refused, UsageError, register
from hypersdk.units import format_duration

if TYPE_CHECKING:
    from hypersdk.migration.runs import CleanUp, Stray, UnfinishedRun
    from hypersdk.vsphere.session import Session

GIVE_UP_STEP: Final = (
    "Run the command again once vSphere is available. For what can never be undone, `hyper2kvm cleanup --give-up DIR`"
    " lists what is left behind and stops trying."
)


SNAPSHOT_UNCLAIMED: Final = register(
    "snapshot_unclaimed",
    "Nothing proves that the run which created the snapshot has ended: it may belong to another user or host, or to a"
    " daemon that was not asked.",
    "Ask the owner that is named. Then answer the question at a terminal, or name exactly that snapshot with"
    " --snapshot NAME.",
)
ASK_DAEMON_S: Final = 5.0


@click.command("cleanup", cls=Command)
@click.argument("folders", nargs=-1, metavar="[DIR]...", type=click.Path(path_type=Path))
@click.option(
    "--drop-snapshots",
    is_flag=True,
    help="Also remove temporary snapshots kept for --resume (always removed after 24 hours).",
)
@click.option(
    "--stray",
    is_flag=True,
    help=(
        "Remove HyperSDK snapshots that belong to no known run: shows age and owner of each and asks. Without a"
        " terminal, only those left by your own runs on this machine."
    ),
)
@click.option(
    "--snapshot",
    "snapshots",
    multiple=True,
    metavar="NAME",
    help=(
        "Remove exactly this HyperSDK snapshot (hypersdk-...), whoever created it, without asking. One that this"
        " host's register or the daemon reports as in use is not removed. Repeatable."
    ),
)
@click.option(
    "--give-up",
    is_flag=True,
    help="Try once more to restore the source of the exports in DIR, then list what cannot be undone and stop trying.",
)
@output_options
@connection_options
@pass_cli
def command(
    cli: Cli, folders: tuple[Path, ...], drop_snapshots: bool, stray: bool, snapshots: tuple[str, ...], give_up: bool
) -> None:
    """Restore what interrupted exports left on the source: leases, ejected ISO images, power states, snapshots.

    DIR is the output folder of an unfinished export; without one, all exports that `hyper2kvm status` shows for this
    server are cleaned up (none with --snapshot). Copied data is kept and the exports stay resumable; where a snapshot
    was removed, its disks are copied again.

    An interrupted landing is cleaned up, too: what it left at its target is undone, overlays of a guest conversion are
    removed, or written into the images to their end if that had begun. A landed machine stays. vSphere is not needed
    for a DIR where nothing else is to be done.

    A migration that holds its source is given up: what is at the target is undone, then the source is put back. If the
    landed machine was started already, it stays, and its source stays off the network.
    """
    from hypersdk.cli.landings import clean_landings
    from hypersdk.migration.runs import unfinished_runs

    if give_up and not folders:
        raise UsageError("--give-up needs the folders of the exports to give up", next_step=GIVE_UP_STEP)
    cli.output.keep_going()
    every = not folders and not snapshots
    handled, unhandled = clean_landings(cli, folders) if every or folders else ([], [])
    idle = [run for run in unfinished_runs(cli.state_dir) if not run.active]
    runs = [run for run in idle if every or any(run.lies_in(folder) for folder in folders)]
    if not runs and set(folders) == set(handled) and folders and not (stray or snapshots):
        _raise_first(unhandled)
        return  # nothing to do at the source
    found, failed = _clean_source(
        cli, runs, unhandled, stray=stray, snapshots=snapshots, drop_snapshots=drop_snapshots, give_up=give_up
    )
    for folder in sorted({folder.absolute() for folder in folders if folder not in handled}):
        if not any(run.lies_in(folder) for run in runs):
            cli.output.warn(f"{folder}: it has no unfinished export of this user, or one is running")
    if not found:
        cli.output.note("Nothing to restore here.")
    if failed:
        raise NotRestored(f"not everything could be restored: {', '.join(failed)}", next_step=GIVE_UP_STEP)
    _raise_first(unhandled)


def _clean_source(
    cli: Cli,
    runs: list[UnfinishedRun],
    unhandled: list[HyperSDKError],
    *,
    stray: bool,
    snapshots: tuple[str, ...],
    drop_snapshots: bool,
    give_up: bool,
) -> tuple[bool, list[str]]:
    """Restores what ``runs`` and strays left at this server: whether there was something, and what failed. Errors of
    runs that could not be begun with are added to ``unhandled``."""
    from hypersdk.cli.connect import connected
    from hypersdk.migration.prepare import endpoint_name

    with connected(cli) as session:
        here = endpoint_name(session)
        mine = [run for run in runs if run.record is not None and run.record.endpoint == here]
        failed = [run for run in mine if not _clean(cli, session, run, unhandled, drop_snapshots, give_up)]
        strays = _Strays(cli, session, ask=stray, named=snapshots)
        strays.handle()
    for run in runs:
        if run not in mine and run.record is not None:
            cli.output.note(f"{run.folder}: belongs to {run.record.endpoint}, not to {here}; left alone", style="dim")
    names = [run.record.machine for run in failed if run.record] + strays.failed
    return bool(mine or strays.removed or names), names


def _raise_first(errors: Sequence[HyperSDKError]) -> None:
    if errors:
        raise errors[0]


def _clean(
    cli: Cli,
    session: Session,
    run: UnfinishedRun,
    unhandled: list[HyperSDKError],
    drop_snapshots: bool,
    give_up: bool,
) -> bool:
    """Whether the source is restored. What keeps it from being begun with does not stop the other runs."""
    try:
        done = _cleaned(cli, session, run, drop_snapshots, give_up)
    except Cancelled:
        raise
    except HyperSDKError as error:
        cli.output.warn(f"{run.folder}: {error.message}")
        unhandled.append(error)
        return True
    _tell(cli, run, done)
    return all(problem.given_up for problem in done.problems)


def _cleaned(cli: Cli, session: Session, run: UnfinishedRun, drop_snapshots: bool, give_up: bool) -> CleanUp:
    from hypersdk.landing.takeover import settle_takeover
    from hypersdk.migration.runfile import FolderRuns
    from hypersdk.migration.runs import clean_up

    return clean_up(
        session,
        run.folder,
        FolderRuns(cli.state_dir),
        drop_snapshot=drop_snapshots,
        give_up=give_up,
        cancel=cli.cancel,
        note=lambda text: cli.output.note(f"{_name(run)}: {text}", style="dim"),
        settle=lambda found, held: settle_takeover(found, held, state=cli.state_dir, cancel=cli.cancel),
    )


def _name(run: UnfinishedRun) -> str:
    assert run.record is not None
    return run.record.machine


def _tell(cli: Cli, run: UnfinishedRun, done: CleanUp) -> None:
    name = _name(run)
    if cli.output.json_lines:
        cli.output.event(
            "cleanup",
            {
                "machine": name,
                "folder": run.folder,
                "undone": done.undone,
                "kept": done.kept,
                "problems": [error_dict(problem.error) for problem in done.problems],
                "given_up": [problem.left for problem in done.problems if problem.given_up],
            },
        )
        return
    undone = f"source restored ({', '.join(done.undone)})" if done.undone else "nothing to restore"
    kept = f"; {', '.join(done.kept)} kept for --resume (or --drop-snapshots)" if done.kept else ""
    cli.output.line(f"{name} in {run.folder}: {undone}{kept}")
    for problem in done.problems:
        cli.output.warn(f"{name}: could not {problem.change}: {problem.error.message}")
        if problem.given_up:
            cli.output.warn(f"{name}: gave up, left behind: {problem.left}")


@dataclass(slots=True)
class _Strays:
    """HyperSDK snapshots that belong to no run of this user: reports them, and removes those that are ``named`` or
    confirmed.

    ``removed`` and ``failed`` are names of snapshots; ``unclaimed`` are those whose removal nobody could confirm.
    """

    cli: Cli
    session: Session
    ask: bool
    named: Sequence[str]
    removed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    unclaimed: list[str] = field(default_factory=list)

    def handle(self) -> None:
        """Handles all of them. Raises LookupFailed for a name that does not exist, Refused where nobody can confirm."""
        strays = self._find()
        for stray in strays:
            if self._wanted(stray):
                (self.removed if _remove(self.cli, self.session, stray) else self.failed).append(stray.found.name)
        if missing := sorted(set(self.named) - {stray.found.name for stray in strays}):
            raise LookupFailed(
                f"there is no removable HyperSDK snapshot called {', '.join(missing)}",
                code="snapshot_not_found",
                next_step=(
                    "`hyper2kvm cleanup` shows them. To remove the snapshot of an unfinished export, run `hyper2kvm"
                    " cleanup --drop-snapshots DIR`."
                ),
            )
        if self.unclaimed:
            raise Refused(
                f"the owner of these snapshots is not certain: {', '.join(self.unclaimed)}", code=SNAPSHOT_UNCLAIMED
            )

    def _find(self) -> Sequence[Stray]:
        from hypersdk.migration.runs import RunClaim, stray_snapshots

        unasked: list[str] = []
        strays = stray_snapshots(
            self.session, self.cli.state_dir, lambda: _held_by_jobs(self.cli, unasked), cancel=self.cli.cancel
        )
        if unasked and any(stray.claim is RunClaim.UNKNOWN for stray in strays):
            self.cli.output.note(f"No daemon could be asked for the snapshots of its jobs: {unasked[0]}.", style="dim")
        return strays

    def _wanted(self, stray: Stray) -> bool:
        """Whether to remove the snapshot; reports why not."""
        from hypersdk.migration.runs import RunClaim

        output = self.cli.output
        if stray.found.name in self.named:
            return True
        if self.named and not self.ask:
            return False
        if stray.claim is RunClaim.USED:
            output.note(f"{_description(stray)}; in use, left alone", style="dim")
            return False
        left_over = stray.claim is RunClaim.LEFT_OVER
        if not self.ask:
            whose = "It was left by one of your runs" if left_over else "It is not certain that its run has ended"
            output.warn(f"{_description(stray)}. {whose}; --stray asks whether to remove it")
            return False
        if output.can_ask:
            return _confirmed(self.cli, stray)
        if not left_over:
            output.warn(f"{_description(stray)}. Not removed")
            self.unclaimed.append(stray.found.name)
        return left_over


def _description(stray: Stray) -> str:
    """The snapshot, its age and its owner."""
    age = "of unknown age" if stray.age is None else f"{format_duration(stray.age.total_seconds())} old"
    return f"snapshot {stray.found.name} of {stray.found.machine_name}, {age}, owner: {stray.owner}"


def _confirmed(cli: Cli, stray: Stray) -> bool:
    cli.output.note(f"{_description(stray)}.", style="bold")
    return cli.agreed("Remove it? A run that needs it would fail.")


def _remove(cli: Cli, session: Session, stray: Stray) -> bool:
    from hypersdk.migration.runs import remove_stray

    name = stray.found.name
    try:
        remove_stray(session, cli.state_dir, stray, cancel=cli.cancel)
    except (Cancelled, Refused):
        raise
    except HyperSDKError as error:
        cli.output.warn(f"snapshot {name} could not be removed: {error.message}")
        return False
    if cli.output.json_lines:
        cli.output.event("removed", {"snapshot": name, "moref": stray.found.moref})
    else:
        cli.output.line(f"removed snapshot {name} of {stray.found.machine_name}")
    return True


def _held_by_jobs(cli: Cli, unasked: list[str]) -> Mapping[str, str]:
    """The snapshots held by jobs of the daemon that hyperctl would contact; ``unasked`` gets the reason if it does not
    answer."""
    from hypersdk.client import Client

    try:
        with Client(environ=cli.environ, timeout_s=ASK_DAEMON_S) as client:
            return {held.snapshot: f"job {held.job_id} ({held.state}) of {client.url}" for held in client.snapshots()}
    except Cancelled:
        raise
    except HyperSDKError as error:
        unasked.append(error.message)
        return {}
