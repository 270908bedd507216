"""`hyper2kvm` at a terminal: connect, pick, choose, confirm, watch.

::

    banner ─> connection ─> inventory ─> picker ─> form ─> plans ─> yes? ─> progress ─> result ─> land?
                                           ^                          │ edit
                                           └──────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from rich import box
from rich.panel import Panel
from rich.text import Text

from hypersdk import __version__
from hypersdk.cli import exporting
from hypersdk.cli.batch import Batch
from hypersdk.cli.commands.export import run_settings, template, with_defaults
from hypersdk.cli.connect import endpoint_of, log_in
from hypersdk.cli.machines import read_inventory
from hypersdk.cli.offering import offer_landing
from hypersdk.cli.picker.app import Picked, PickerApp
from hypersdk.cli.picker.choices import Choices
from hypersdk.cli.picker.details import facts_table
from hypersdk.cli.plantable import show_plans
from hypersdk.cli.programs.program import spelled
from hypersdk.cli.state import Cli
from hypersdk.cli.terminal import only_ascii
from hypersdk.errors import LookupFailed
from hypersdk.migration.plan import RESUMABLE_STATE, free_bytes
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import ResumeMode
from hypersdk.model import MachineSummary
from hypersdk.text import clean
from hypersdk.vsphere.endpoint import Endpoint
from hypersdk.vsphere.machine import read_machine
from hypersdk.vsphere.session import Session

BANNER: Final = (
    "╻ ╻╻ ╻┏━┓┏━╸┏━┓┏━┓╺┳┓╻┏ ",
    "┣━┫┗┳┛┣━┛┣╸ ┣┳┛┗━┓ ┃┃┣┻┓",
    "╹ ╹ ╹ ╹  ┗━╸╹┗╸┗━┛╺┻┛╹ ╹",
)


NO_MACHINES: Final = (
    "Check the name of the datacenter, and that the account may read the inventory: run `hyper2kvm doctor`."
)


def interactive_run(cli: Cli) -> None:
    """The whole flow. Returns when the user quits or all machines are exported. Raises the error of a failure."""
    cli.interactive = True
    _banner(cli)
    endpoint = endpoint_of(cli)
    cli.output.notes.print(_connection_box(endpoint))
    with log_in(cli, endpoint) as session:
        about = session.about
        _done(cli, "Connected to vSphere successfully!", f"{about.full_name}, API {about.api_version}")
        machines = read_inventory(cli, session)
        _done(cli, f"Found {len(machines):,} virtual machine(s)")
        if not machines:
            raise LookupFailed(f"{endpoint.address} shows no machines to {endpoint.username}", next_step=NO_MACHINES)
        agreed = _agree(cli, session, machines)
        if agreed is None:
            cli.output.note("Nothing was exported.")
            return
        batch, settings = agreed
        exporting.carry_out(cli, session, batch, batch.plans, settings)
    exporting.conclude(cli, batch)
    if not offer_landing(cli, batch.outcomes):
        exporting.show_next_steps(cli, batch.outcomes)


def _banner(cli: Cli) -> None:
    notes = cli.output.notes
    for line in ("HyperSDK",) if only_ascii() else BANNER:
        notes.print(Text(f"  {line}", style="bold cyan"))
    notes.print(Text(f"  vSphere to KVM in one pass    {__version__}", style="dim"))


def _connection_box(endpoint: Endpoint) -> Panel:
    tls = endpoint.tls
    trust = "certificates signed by a known authority"
    if tls.thumbprint or tls.known:
        trust = "the pinned certificate" if tls.thumbprint else "the remembered certificate"
    if tls.insecure:
        trust = "any certificate (insecure)"
    facts = [
        ("server", Text(clean(endpoint.address, 300), style="bold")),
        ("user", Text(clean(endpoint.username, 200))),
        ("trusts", Text(trust, style="yellow" if tls.insecure else "")),
    ]
    if endpoint.datacenter:
        facts.append(("datacenter", Text(clean(endpoint.datacenter, 200))))
    return Panel(
        facts_table(facts),
        title=" Connection ",
        title_align="left",
        box=box.ROUNDED,
        border_style="cyan",
        expand=False,
        padding=(0, 2),
    )


def _done(cli: Cli, text: str, more: str = "") -> None:
    cli.output.notes.print(Text.assemble(("✔ ", "bold green"), text))
    if more:
        cli.output.notes.print(Text(f"  {clean(more, 200)}", style="dim", no_wrap=True, overflow="ellipsis"))


def _agree(cli: Cli, session: Session, machines: Sequence[MachineSummary]) -> tuple[Batch, RunSettings] | None:
    """Picks machines, plans and asks until the user confirms; None if they quit."""
    flags = with_defaults(cli, {})
    start = Choices(template(flags))
    marked: tuple[str, ...] = ()
    while True:
        picked = _pick(cli, session, machines, start, marked)
        if picked is None:
            return None
        settings = replace(run_settings(cli, flags), bandwidth_limit=picked.choices.bandwidth_bytes_s)
        specs = exporting.specs_for(picked.choices.spec, picked.machines, own_folder=True)
        batch = exporting.make_plans(cli, session, specs, machines, settings)
        _plan_unfinished(cli, session, machines, settings, batch)
        show_plans(cli, batch, alone=bool(batch.plans) and batch.size == 1)
        answer = _confirm(cli, bool(batch.plans))
        if answer == "yes":
            return batch, settings
        if answer == "quit":
            return None
        start, marked = picked.choices, tuple(machine.moref for machine in picked.machines)


def _pick(
    cli: Cli, session: Session, machines: Sequence[MachineSummary], start: Choices, marked: Sequence[str]
) -> Picked | None:
    title = f"HyperSDK   {session.endpoint.address}   {session.endpoint.username}"
    app = PickerApp(
        machines,
        title=title,
        start=start,
        free_bytes=free_bytes,
        marked=marked,
        colour=cli.output.colour,
        look_up=lambda moref: read_machine(session, moref, cancel=cli.cancel),
    )
    with cli.interrupts.diverted(lambda: app.call_from_thread(app.exit)):
        picked = app.run()
    if app.failure is not None:
        raise app.failure
    cli.cancel.check()
    return picked


def _plan_unfinished(
    cli: Cli,
    session: Session,
    machines: Sequence[MachineSummary],
    settings: RunSettings,
    batch: Batch,
) -> None:
    """Asks what to do about unfinished exports in the folders, and plans those machines again."""
    waiting = [failure for failure in batch.skipped if failure.error.code == RESUMABLE_STATE]
    if not waiting:
        return
    for failure in waiting:
        cli.output.note(failure.error.message, style="yellow")
    question = "[r]esume, [d]iscard and start over, or [s]kip? "
    answer = cli.choose(question, spelled("resume", "discard", "skip"), empty="skip", unanswered="skip")
    if answer == "skip":
        return
    resume = ResumeMode.RESUME if answer == "resume" else ResumeMode.DISCARD
    again = [replace(failure.spec, resume=resume) for failure in waiting if failure.spec is not None]
    batch.skipped = [failure for failure in batch.skipped if failure not in waiting]
    batch.add(exporting.make_plans(cli, session, again, machines, settings))


def _confirm(cli: Cli, possible: bool) -> str:
    """``yes``, ``edit`` or ``quit``."""
    if not possible:
        question = "None of these machines can be exported. [E]dit, [q]uit: "
        return cli.choose(question, spelled("edit", "quit"), empty="edit", unanswered="quit")
    answers = spelled("yes", "edit", "quit") | exporting.NO_IS_QUIT
    return cli.choose("Start? [Y]es, [e]dit, [q]uit: ", answers, empty="yes", unanswered="quit")
