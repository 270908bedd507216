"""Interrupted landings in `hyper2kvm status` and `hyper2kvm cleanup`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from hypersdk.cli.state import Cli
from hypersdk.errors import Cancelled, HyperSDKError
from hypersdk.guest.tools import find_tools
from hypersdk.landing.landings import CleanedUp, UnfinishedLanding, clean_conversion, clean_target, unfinished_landings
from hypersdk.landing.record import LAND, ConversionState, LandingRecord, StepState, read_landing
from hypersdk.text import clean, shell_line

_CLEANED: Final = {
    CleanedUp.DROPPED: "removed what an interrupted guest conversion left; the images are as exported",
    CleanedUp.FINISHED: "finished the interrupted guest conversion; the images are converted",
}


def show_landings(cli: Cli, landings: Sequence[UnfinishedLanding]) -> None:
    """A line of facts for each, and the command that helps."""
    for landing in landings:
        if cli.output.json_lines:
            cli.output.event("landing", landing_object(landing))
        elif landing.record is None:
            cli.output.line(f"{landing.folder}: {landing.error}")
        else:
            _show(cli, landing, landing.record)


def _show(cli: Cli, landing: UnfinishedLanding, record: LandingRecord) -> None:
    cli.output.line(clean(f"{record.machine} -> {record.target or 'KVM'}, from {landing.folder}"))
    state = "running now" if landing.active else "interrupted" if _is_interrupted(record) else "not finished"
    cli.output.line(clean(f"  {state}: {', '.join(_facts(record, landing.active))}"))
    if not landing.active:
        first = f"Continue {record.machine}: run the same command again."
        for text in (first, *_ways_out(landing.folder, record)):
            cli.output.notes.print(clean(text), markup=False, soft_wrap=True)


def _is_interrupted(record: LandingRecord) -> bool:
    """Whether something is half done; else a step failed, and what was done before it stays."""
    running = any(step.state is StepState.RUNNING for step in record.steps.values())
    return running or LAND not in record.done_steps or record.is_half_converted


def _ways_out(folder: Path, record: LandingRecord) -> Iterator[str]:
    """Commands for those who do not continue."""
    cleanup = shell_line(["hyper2kvm", "cleanup", str(folder)])
    forget = shell_line(["hyper2kvm", "status", "--forget", str(folder)])
    if not _is_interrupted(record):
        yield f"Leave it as it is: {forget}"
        return
    yield f"Clean up what it left: {cleanup}"
    if record.open_changes:
        yield f"If its target is gone for good: {forget}"


def _facts(record: LandingRecord, active: bool) -> Iterator[str]:
    for name, step in record.steps.items():
        if step.state is StepState.RUNNING and not active:
            yield f"{name} not finished"
        elif step.state is not StepState.WAITING:
            yield f"{name} {step.state}"
    state = record.conversion.state if record.conversion else None
    if state is ConversionState.CONVERTING:
        yield "the images are as exported"
    if state is ConversionState.COMMITTING:
        yield "the images are partly converted"
    yield from (f"left at the target: {change.kind}" for change in record.open_changes)


def show_forgotten(cli: Cli, landing: UnfinishedLanding) -> None:
    """A landing that is not shown any more, and what it left."""
    if cli.output.json_lines:
        cli.output.event("landing_forgotten", landing_object(landing))
        return
    record = landing.record
    cli.output.line(f"forgotten: the landing{f' {record.landing_id}' if record else ''} in {landing.folder}")
    for fact in _facts(record, active=False) if record else ():
        cli.output.line(clean(f"  {fact}"))


def landing_object(landing: UnfinishedLanding) -> dict[str, Any]:
    """One landing for programs."""
    record = landing.record
    common = {"folder": str(landing.folder), "active": landing.active, "error": landing.error}
    if record is None:
        return common
    return {
        **common,
        "id": record.landing_id,
        "machine": record.machine,
        "target": record.target,
        "started_at": record.started_at,
        "steps": {name: step.state for name, step in record.steps.items()},
        "conversion": record.conversion.state if record.conversion else None,
        "left_at_target": [change.kind for change in record.open_changes],
    }


def clean_landings(cli: Cli, folders: Sequence[Path]) -> tuple[list[Path], list[HyperSDKError]]:
    """Cleans up the interrupted landings in ``folders``, or all that `status` shows. Returns the folders where there
    was something to do, and what failed; each failure is a warning, too. Raises Cancelled."""
    known = [landing.folder for landing in unfinished_landings(cli.state_dir) if not landing.active]
    tools = find_tools(cli.environ)
    handled, failed = [], []
    for folder in folders or known:
        try:
            undone = clean_target(folder, state=cli.state_dir, cancel=cli.cancel)
            done = clean_conversion(folder, tools, state=cli.state_dir, cancel=cli.cancel)
        except Cancelled:
            raise
        except HyperSDKError as error:
            cli.output.warn(f"{folder}: {error.message}")
            failed.append(error)
        else:
            if done is CleanedUp.NOTHING and not undone and not (folder.absolute() in known and _is_over(folder)):
                continue
            _tell(cli, folder, done, undone)
        handled.append(folder)
    return handled, failed


def _is_over(folder: Path) -> bool:
    record = read_landing(folder)
    return record is not None and not record.unfinished


def _tell(cli: Cli, folder: Path, done: CleanedUp, undone: Sequence[str]) -> None:
    if cli.output.json_lines:
        cli.output.event("landing_cleanup", {"folder": str(folder), "conversion": done, "undone": list(undone)})
        return
    if undone:
        cli.output.line(f"{folder}: undone at the target: {', '.join(undone)}")
    if done is not CleanedUp.NOTHING:
        cli.output.line(f"{folder}: {_CLEANED[done]}")
    elif not undone:
        cli.output.line(f"{folder}: the landing is over; nothing was left to undo, and a landed machine stays")
