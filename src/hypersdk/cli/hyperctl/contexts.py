"""`hyperctl contexts`: saved daemons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hypersdk.cli.hyperctl.app import local_flags, trust_flags
from hypersdk.cli.hyperctl.completing import complete_context
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.groups import Group
from hypersdk.text import clean

if TYPE_CHECKING:
    from hypersdk.client.contexts import Context, Contexts

_FILE: Final = click.Path(path_type=Path, dir_okay=False)


@click.group("contexts", cls=Group)
def command() -> None:
    """Saved daemons, one of which is current. They are stored in ~/.config/hypersdk/contexts.toml."""


@command.command("list")
@local_flags
@pass_ctl
def list_(ctl: Ctl) -> None:
    """List the contexts; the current one is marked with a star."""
    contexts = _load(ctl)
    facts = [_facts(name, context, contexts) for name, context in contexts.known.items()]
    ctl.show(facts, lambda: _print(ctl, contexts))


def _print(ctl: Ctl, contexts: Contexts) -> None:
    from hypersdk.cli.columns import Column, lay_out

    if not contexts.known:
        ctl.output.line("No daemon is saved. Log in to one with `hyperctl login URL`.")
        return
    columns = (Column(""), Column("Name"), Column("URL", least=20), Column("Token"), Column("Trust", optional=True))
    rows = [
        [
            ("*" if name == contexts.current else "", "green"),
            (clean(name, 63), "bold"),
            (clean(context.url, 400), ""),
            ("yes", "") if context.token else ("no", "dim"),
            _trust(context),
        ]
        for name, context in contexts.known.items()
    ]
    ctl.output.print(lay_out(columns, rows, ctl.output.width))


def _trust(context: Context) -> tuple[str, str]:
    from hypersdk.cli.hyperctl.shown import trust_cell

    if not context.url.startswith("https:"):
        return "no TLS", "dim"
    return trust_cell(context.insecure, context.thumbprint)


def _facts(name: str, context: Context, contexts: Contexts) -> dict[str, object]:
    return {
        "name": name,
        "url": context.url,
        "current": name == contexts.current,
        "token": context.token is not None,
        "trust": _trust(context)[0],
    }


@command.command("use")
@click.argument("name", shell_complete=complete_context)
@local_flags
@pass_ctl
def use(ctl: Ctl, name: str) -> None:
    """Make a context the current context."""
    contexts = _load(ctl).used(name)
    _save(ctl, contexts)
    ctl.show(_facts(name, contexts.get(name), contexts), lambda: ctl.say(f"{name} is the current context"))


@command.command("add")
@click.argument("name")
@click.argument("address", metavar="URL")
@trust_flags
@local_flags
@pass_ctl
def add(ctl: Ctl, name: str, address: str) -> None:
    """Save a daemon, with --token-file, --ca-bundle, --thumbprint and --insecure. It is not contacted."""
    from hypersdk.client.address import normal_url, read_token
    from hypersdk.client.contexts import Context
    from hypersdk.net.certificate import parse_fingerprint

    given = ctl.given
    bundle, pin = given.get("ca_bundle"), given.get("thumbprint")
    token = read_token(given["token_file"]) if "token_file" in given else None
    context = Context(
        normal_url(address),
        token,
        ca_bundle=None if bundle is None else str(Path(bundle).absolute()),
        thumbprint=parse_fingerprint(pin) if pin else None,
        insecure=bool(given.get("insecure")),
    )
    contexts = _load(ctl).with_context(name, context)
    _save(ctl, contexts)
    ctl.show(_facts(name, context, contexts), lambda: ctl.say(f"Added context {name} for {context.url}", "bold green"))


@command.command("remove")
@click.argument("name", shell_complete=complete_context)
@local_flags
@pass_ctl
def remove(ctl: Ctl, name: str) -> None:
    """Remove a context and its token. The token stays valid; `hyperctl logout` revokes it."""
    _save(ctl, _load(ctl).without(name))
    ctl.show({"name": name, "removed": True}, lambda: ctl.say(f"Removed context {name}"))


def _load(ctl: Ctl) -> Contexts:
    from hypersdk.client.contexts import contexts_path, load_contexts

    return load_contexts(contexts_path(ctl.environ))


def _save(ctl: Ctl, contexts: Contexts) -> None:
    from hypersdk.client.contexts import contexts_path, save_contexts

    save_contexts(contexts_path(ctl.environ), contexts)
