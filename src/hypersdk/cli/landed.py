"""What `migrate` and `import` have in common: the machines of one command, their report and their end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic

from rich.text import Text

from hypersdk.cli.batch import Failure
from hypersdk.cli.exporting import MAX_SHOWN, NO_IS_QUIT, codes_of, raise_stopped, report_ended
from hypersdk.cli.migrationtable import machine_text
from hypersdk.cli.programs.program import spelled
from hypersdk.cli.remedies import in_one_line
from hypersdk.cli.report import labelled, show_line
from hypersdk.cli.state import Cli
from hypersdk.errors import Cancelled, PartlyFailed
from hypersdk.landing.moves import LandingOutcome, P
from hypersdk.landing.prove import proof_text
from hypersdk.landing.report import MachineReport, read_report
from hypersdk.landing.request import LandingRequest
from hypersdk.landing.results import migrated_dict
from hypersdk.landing.steps import Migrated
from hypersdk.landing.target import Target, open_target
from hypersdk.text import clean, count, shell_line
from hypersdk.units import format_duration


@dataclass(slots=True)
class Landings(Generic[P]):
    """The machines of one command. ``verb`` is what is done with each: ``migrated`` or ``imported``."""

    verb: str
    plans: list[P] = field(default_factory=list)
    skipped: list[Failure] = field(default_factory=list)
    earlier: list[P] = field(default_factory=list)
    outcomes: list[LandingOutcome[P]] = field(default_factory=list)
    elapsed_s: float = 0.0
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def size(self) -> int:
        """The number of machines."""
        return len(self.plans) + len(self.skipped) + len(self.earlier)

    def failed(self) -> list[Failure]:
        """Those that began and failed, or were stopped."""
        return [
            Failure(outcome.plan.name, outcome.error, outcome.plan.spec)
            for outcome in self.outcomes
            if outcome.error is not None
        ]


@contextmanager
def opened_target(cli: Cli, request: LandingRequest) -> Iterator[Target]:
    """Connects to the target. Raises ConnectError, AccessError, Refused."""
    with ExitStack() as stack:
        with cli.output.working(f"Connecting to {request.address} ..."), cli.interrupts.breakable():
            target = stack.enter_context(open_target(request, cancel=cli.cancel))
        yield target


def reports_of(batch: Landings[P]) -> Iterator[MachineReport]:
    """What the report says of each machine."""
    for outcome in batch.outcomes:
        yield read_report(
            outcome.plan.spec.output_dir,
            machine=outcome.plan.name,
            source=outcome.source_changes,
            error=outcome.error,
            next_step=in_one_line(outcome.error) if outcome.error else "",
            elapsed_s=outcome.elapsed_s,
        )
    for plan in batch.earlier:
        yield read_report(plan.spec.output_dir, machine=plan.name)
    for failure in batch.skipped:
        assert failure.spec is not None, "each has one"
        step = in_one_line(failure.error)
        yield read_report(failure.spec.output_dir, machine=failure.machine, error=failure.error, next_step=step)


def may_start(cli: Cli, machines: int, what: str, *, yes: bool) -> bool:
    """Asks at a terminal before several machines. ``what`` is done with one: ``migration``."""
    if machines == 1 or yes or not cli.output.can_ask:
        return True
    question = f"Start {count(machines, what)}? [Y]es, [q]uit: "
    if cli.choose(question, spelled("yes", "quit") | NO_IS_QUIT, empty="yes", unanswered="quit") == "yes":
        return True
    cli.output.note("Nothing was changed.")
    return False


def conclude(cli: Cli, batch: Landings[P], next_step: Callable[[P, Migrated], str]) -> None:
    """Reports each machine and, of several, the totals. Raises the error that sets the exit status."""
    for outcome in batch.outcomes:
        if outcome.migrated is not None:
            show_migrated(
                cli,
                outcome.plan.name,
                outcome.migrated,
                outcome.elapsed_s,
                next_step=next_step(outcome.plan, outcome.migrated),
                brief=batch.size > MAX_SHOWN,
            )
    failed = batch.failed()
    report_ended(cli, batch.size, batch.skipped, failed)
    if batch.size == 1:
        return
    if batch.outcomes:
        _show_totals(cli, batch, failed)
    raise_stopped(failed)
    if bad := [*batch.skipped, *failed]:
        raise PartlyFailed(
            f"{len(bad)} of {count(batch.size, 'machine')} not {batch.verb}",
            next_step="Check each failure, then run the same command again.",
            migrated=sum(outcome.migrated is not None for outcome in batch.outcomes),
            failed=codes_of(bad),
        )


def start_step(migrated: Migrated) -> str:
    """The command that starts the landed machine; empty if it is started."""
    landed = migrated.landed
    return "" if migrated.started else shell_line(["virsh", "-c", landed.uri, "start", landed.name])


def show_migrated(
    cli: Cli, name: str, migrated: Migrated, elapsed_s: float, *, next_step: str, brief: bool = False
) -> None:
    """Where the machine is now, and what to do next; an event of type "result" with --json."""
    landed = migrated.landed
    if cli.output.json_lines:
        cli.output.event("result", migrated_dict(name, migrated, elapsed_s))
        return
    if brief:
        show_line(cli.output, _brief_line(name, migrated, elapsed_s))
        return
    where = f"as {clean(landed.name, 200)} on {landed.uri}"
    heading = _done(name, f"running {where}" if migrated.started else f"defined {where}, not started")
    cli.output.print(heading)
    for path in landed.disks:
        cli.output.line(f"  {path}")
    for label, text, style in _facts(migrated, elapsed_s, next_step):
        if cli.output.width is None:
            cli.output.line(f"  {label:<8}{text}")
        else:
            cli.output.print(labelled(label, text, cli.output.width, style))


def _done(name: str, text: str) -> Text:
    return Text.assemble(("✔ ", "bold green"), (clean(name, 100), "bold"), f"  {text}")


def _brief_line(name: str, migrated: Migrated, elapsed_s: float) -> Text:
    """One of many machines, whose target the plan has named."""
    words = ["running" if migrated.started else "defined, not started"]
    if migrated.landed.name != name:
        words.append(f"as {clean(migrated.landed.name, 200)}")
    if migrated.proof is not None:
        words.append(f"proof: {migrated.proof.verdict}")
    return _done(name, ", ".join(words)).append(f" in {format_duration(elapsed_s)}", "dim")


def _facts(migrated: Migrated, elapsed_s: float, next_step: str) -> list[tuple[str, str, str]]:
    domain, landed = migrated.domain, migrated.landed
    buses = ", ".join(dict.fromkeys(disk.bus.value for disk in domain.disks))
    models = ", ".join(dict.fromkeys(nic.model.value for nic in domain.nics)) or "no network card"
    found = [
        ("machine", machine_text(domain), ""),
        ("guest", "converted" if migrated.converted else "not converted", ""),
        ("devices", f"disks on {buses}; network: {models}", ""),
        ("proof", proof_text(migrated.proof) if migrated.proof else "not booted; --prove does", ""),
        ("images", landed.owner, ""),
        ("took", format_duration(elapsed_s), ""),
    ]
    texts = [warning.text for warning in migrated.warnings] + list(migrated.proof.warnings if migrated.proof else ())
    found += [("warning", text, "yellow") for text in texts]
    if next_step:
        found.append(("next", next_step, "bold"))
    return found


def _show_totals(cli: Cli, batch: Landings[P], failed: Sequence[Failure]) -> None:
    stopped = sum(isinstance(failure.error, Cancelled) for failure in failed)
    counts = {
        "migrated": sum(outcome.migrated is not None for outcome in batch.outcomes),
        "migrated earlier": len(batch.earlier),
        "failed": len(failed) - stopped,
        "stopped": stopped,
        "skipped": len(batch.skipped),
        "not started": len(batch.plans) - len(batch.outcomes),
    }
    if cli.output.json_lines:
        facts = {name.replace(" ", "_"): number for name, number in counts.items()}
        cli.output.event("totals", {"machines": batch.size, **facts, "elapsed_s": round(batch.elapsed_s, 1)})
        return
    good = counts["migrated"] + counts["migrated earlier"] == batch.size
    words = (
        (name.replace("migrated", batch.verb), number)
        for name, number in counts.items()
        if number or name == "migrated"
    )
    shown = ", ".join(f"{number:,} {name}" for name, number in words)
    text = f"{'✔' if good else '✘'} {count(batch.size, 'machine')}: {shown}"
    if batch.outcomes:
        text += f", in {format_duration(batch.elapsed_s)}"
    cli.output.print(Text(text, style=f"bold {'green' if good else 'yellow'}"))
