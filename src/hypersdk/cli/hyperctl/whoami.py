"""`hyperctl whoami`: the caller at a daemon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.groups import Command
from hypersdk.units import format_duration

if TYPE_CHECKING:
    from hypersdk.client import Me

DAY_S = 86_400.0


@click.command("whoami", cls=Command)
@common_flags
@pass_ctl
def command(ctl: Ctl) -> None:
    """Show who you are at the daemon and what you may do there.

    Your user and role; scope and expiry of the token, and where it was found; the daemon's address and version.
    """
    from hypersdk.cli.hyperctl.shown import facts_table

    me, version = ctl.client.me(), ctl.client.status().version
    target = ctl.client.target
    known = {key: value for key, value in me.raw.items() if key != "csrf_token"}
    daemon = {"url": target.url, "context": target.context, "token_from": target.found_in, "version": version}
    facts = list(_facts(me, daemon))
    ctl.show({**known, "daemon": daemon}, lambda: ctl.output.print(facts_table(facts), soft_wrap=True))


def _facts(me: Me, daemon: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "User", me.name
    yield "Role", me.role
    if me.via == "local":
        yield "Token", "none: the daemon runs with --no-auth"
    else:
        yield (
            "Token",
            f"{me.token_id or me.via}, scope {me.scope}"
            + (f", from {daemon['token_from']}" if daemon["token_from"] else ""),
        )
        yield "Expires", "never" if me.expires_at is None else _expiry(me.expires_at)
    yield "Daemon", f"{daemon['url']}" + (f", context {daemon['context']}" if daemon["context"] else "")
    yield "Version", daemon["version"]
    yield from _permissions(me)


def _expiry(moment: datetime) -> str:
    from hypersdk.cli.columns import moment_text

    left_s = max(moment.timestamp() - time.time(), 0.0)
    left = f"{left_s / DAY_S:.0f} days" if left_s >= 2 * DAY_S else format_duration(left_s)
    return f"{moment_text(moment)}, in {left}"


def _permissions(me: Me) -> Iterator[tuple[str, str]]:
    """One line for each kind of object: ``jobs: view, submit``; then what is refused, by the role that it needs."""
    allowed: dict[str, list[str]] = {}
    refused: dict[str, list[str]] = {}
    for permission in me.permissions:
        action = str(permission.get("action"))
        kind, _, verb = action.partition(".")
        if permission.get("allowed"):
            allowed.setdefault(kind, []).append(verb)
        else:
            refused.setdefault(str(permission.get("needs")), []).append(action)
    for number, (kind, verbs) in enumerate(allowed.items()):
        yield ("May" if number == 0 else ""), f"{kind}: {', '.join(verbs)}"
    for number, (role, actions) in enumerate(refused.items()):
        yield ("May not" if number == 0 else ""), f"{', '.join(actions)} (needs the role {role})"
