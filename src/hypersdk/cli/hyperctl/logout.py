"""`hyperctl logout`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.groups import Command
from hypersdk.errors import HyperSDKError, LookupFailed, UsageError

if TYPE_CHECKING:
    from hypersdk.client.contexts import Context, Contexts


@click.command("logout", cls=Command)
@common_flags
@pass_ctl
def command(ctl: Ctl) -> None:
    """Remove the token of the current context (or of --context, or of the one for --url), and revoke it if the daemon
    can be reached."""
    from hypersdk.client.contexts import CONTEXT_UNKNOWN, contexts_path, load_contexts, save_contexts

    path = contexts_path(ctl.environ)
    contexts = load_contexts(path)
    name = _meant(ctl, contexts)
    if name is None or contexts.get(name).token is None:
        raise LookupFailed("not logged in", code=CONTEXT_UNKNOWN, next_step="See `hyperctl contexts list`.")
    context = contexts.get(name)
    revoked = _revoke(ctl, name, context)
    save_contexts(path, contexts.with_context(name, replace(context, token=None, token_id=None)))
    ctl.show({"context": name, "revoked": revoked}, lambda: ctl.say(f"Logged out of {context.url}"))


def _meant(ctl: Ctl, contexts: Contexts) -> str | None:
    """The name of the context. An address that does not belong to exactly one context is an error: the token could be
    another daemon's."""
    from hypersdk.client.address import URL_VARIABLE, is_at, normal_url

    named = ctl.given.get("context")
    address = ctl.given.get("url") or (None if named else ctl.environ.get(URL_VARIABLE))
    if named is not None:
        contexts.get(named)
    if not address:
        return named or contexts.current
    url = normal_url(address)
    found = [name for name, context in contexts.known.items() if is_at(context, url) and named in (None, name)]
    if contexts.current in found:
        return contexts.current
    if len(found) != 1:
        what = f"{len(found)} contexts are" if found else f"context {named} is not" if named else "no context is"
        raise UsageError(f"{what} that of {url}", next_step="Name one with --context; see `hyperctl contexts list`.")
    return found[0]


def _revoke(ctl: Ctl, name: str, context: Context) -> bool:
    """Whether the daemon revoked the token. A token from --token-file is never revoked."""
    if context.token_id is None:
        return False
    given = {key: value for key, value in ctl.given.items() if key not in ("context", "url", "token_file")}
    try:
        # By itself, at its own daemon: what stands in the environment may be about another one.
        ctl.connect(context=name, url=context.url, token=context.token, **given).tokens.revoke(context.token_id)
    except HyperSDKError as error:
        ctl.output.warn(f"the token could not be revoked: {error.message}")
        return False
    return True
