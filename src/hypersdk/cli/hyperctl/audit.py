"""`hyperctl audit`: the audit trail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.conditions import conditions, merged, moment
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.groups import Command, flag
from hypersdk.text import clean

if TYPE_CHECKING:
    from hypersdk.access.records import AuditEntry

WHEN = "A date, a time, or an age like 12h or 7d."


@click.command("audit", cls=Command)
@flag("--actor", "actors", multiple=True, metavar="USER", help="Entries of this user; may be repeated.")
@flag("--outcome", "outcomes", multiple=True, metavar="WORD", help="Entries that are ok, partial, or a code or status.")
@flag("--since", metavar="TIME", help=f"Entries of this time or later. {WHEN}")
@flag("--until", metavar="TIME", help=f"Entries before this time. {WHEN}")
@flag(
    "--filter",
    "filters",
    multiple=True,
    metavar="NAME=VALUE",
    help=(
        "A parameter of the API's list of entries, like action=login, object=/api/v1/jobs or address=192.0.2.7. May be"
        " repeated; all must hold."
    ),
)
@flag("--limit", type=click.IntRange(1, 1_000_000), default=100, metavar="N", help="At most N entries (100).")
@flag("--all", "everything", is_flag=True, help="All entries, regardless of --limit.")
@common_flags
@pass_ctl
def command(
    ctl: Ctl,
    actors: tuple[str, ...],
    outcomes: tuple[str, ...],
    since: str | None,
    until: str | None,
    filters: tuple[str, ...],
    limit: int,
    everything: bool,
) -> None:
    """Show the audit trail, newest entries first; for administrators.

    With --json, one entry per line, with its details.
    """
    from hypersdk.access.records import AUDIT, AuditEntry
    from hypersdk.cli.hyperctl.shown import show_table

    times = (("at_after", since), ("at_before", until))
    where = conditions(AUDIT, filters) | {name: moment(text) for name, text in times if text is not None}
    found = list(ctl.client.audit(merged(where, actor=actors, outcome=outcomes), None if everything else limit))
    show_table(ctl, found, AuditEntry, empty="No entry matches.", outcome=_outcome, detail=_detail)
    if len(found) == limit and not everything and ctl.for_people:
        ctl.output.note(f"The newest {limit} entries; --limit N or --all shows more.", style="dim")


def _outcome(entry: AuditEntry) -> tuple[str, str]:
    return entry.outcome, {"ok": "green", "partial": "yellow"}.get(entry.outcome, "red")


def _detail(entry: AuditEntry) -> tuple[str, str]:
    """``action=cancel succeeded=2``; lists are shown by their length, unless they have one value."""
    words = (f"{key}={_short(value)}" for key, value in entry.detail.items())
    return clean(" ".join(words), 200), ""


def _short(value: object) -> str:
    if not isinstance(value, list):
        return str(value)
    return str(value[0]) if len(value) == 1 else str(len(value))
