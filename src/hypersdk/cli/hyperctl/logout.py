"""`hyperctl logout`."""

from __future__ import annotations

from dataclasses import replace

import click

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.groups import Command
from hypersdk.errors import HyperSDKError, LookupFailed


@click.command("logout", cls=Command)
@common_flags
@pass_ctl
def command(ctl: Ctl) -> None:
    """Forget the token of the current context (or of --context), and revoke it where the daemon answers."""
    from hypersdk.client.contexts import CONTEXT_UNKNOWN, contexts_path, load_contexts, save_contexts

    path = contexts_path(ctl.environ)
    contexts = load_contexts(path)
    name = ctl.given.get("context") or contexts.current
    if name is None or contexts.get(name).token is None:
        raise LookupFailed("nobody is logged in", code=CONTEXT_UNKNOWN, next_step="See `hyperctl contexts list`.")
    context = contexts.get(name)
    revoked = _revoke(ctl, name, context.token_id)
    save_contexts(path, contexts.with_context(name, replace(context, token=None, token_id=None)))
    ctl.show({"context": name, "revoked": revoked}, lambda: ctl.say(f"Logged out of {context.url}"))


def _revoke(ctl: Ctl, name: str, token_id: str | None) -> bool:
    """Whether the daemon made the token worthless. One that was given by --token-file is not ours to revoke."""
    if token_id is None:
        return False
    given = {key: value for key, value in ctl.given.items() if key not in ("context", "url", "token_file")}
    try:
        ctl.connect(context=name, **given).tokens.revoke(token_id)
    except HyperSDKError as error:
        ctl.output.warn(f"the token could not be revoked: {error.message}")
        return False
    return True
