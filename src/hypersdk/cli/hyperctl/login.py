"""``hyperctl login`` exchanges a password for a token, which is stored in a context; ``hyperctl logout`` revokes it."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.accounts import days_flag, password_flags
from hypersdk.cli.programs.groups import Command, flag
from hypersdk.errors import AccessError, HyperSDKError, LookupFailed, UsageError
from hypersdk.secret import Secret

if TYPE_CHECKING:
    from hypersdk.client.address import Target
    from hypersdk.client.contexts import Context, Contexts
    from hypersdk.client.records import Me
    from hypersdk.client.transport import Transport

TIMEOUT_S: Final = 60.0


@click.command("login", cls=Command)
@click.argument("address", required=False, metavar="[URL]")
@flag("--name", metavar="NAME", help="Name of the context (the host name, with the port if that name is taken).")
@flag("--username", metavar="NAME", help="User name; asked for if missing.")
@password_flags("password")
@days_flag(30.0, "Days until the token expires.")
@common_flags
@pass_ctl
def login(
    ctl: Ctl,
    address: str | None,
    name: str | None,
    username: str | None,
    password_file: Path | None,
    password_stdin: bool,
    days: float,
) -> None:
    """Log in to a daemon and save it as the current context.

    The password is exchanged for a token, which is stored in a file that only you can read; the password is not
    stored. With --token-file, that token is checked and stored instead. An untrusted certificate is shown and pinned
    only after you confirm it.
    """
    from hypersdk.client.resources import who_am_i

    if address is not None:
        ctl.given["url"] = address
    target = _trusted(ctl, _target(ctl))
    if "token_file" in ctl.given:
        assert target.token is not None
        with _connected(ctl, target) as transport:
            me, token, token_id = who_am_i(transport), target.token, None
    else:
        me, token, token_id = _logged_in(ctl, target, username, password_file, password_stdin, days)
    context = _save_context(ctl, target, (token, token_id), name)
    facts = {"context": context, "url": target.url, "user": me.name, "role": me.role}
    ctl.show(
        facts, lambda: ctl.say(f"Logged in to {target.url} as {me.name} ({me.role}); context {context}", "bold green")
    )


def _target(ctl: Ctl) -> Target:
    """The daemon, without any saved token: this command obtains one."""
    from hypersdk.client.address import AddressOptions, find_target

    given = {key: value for key, value in ctl.given.items() if key != "timeout_s"}
    environ = {key: value for key, value in ctl.environ.items() if key != "HYPERVISORD_TOKEN"}
    target = find_target(AddressOptions(**given), environ)
    return target if "token_file" in given else replace(target, token=None)


@contextmanager
def _connected(ctl: Ctl, target: Target) -> Iterator[Transport]:
    from hypersdk.client.transport import Transport

    transport = Transport(target, ctl.given.get("timeout_s", TIMEOUT_S))
    try:
        yield transport
    finally:
        transport.close()


def _trusted(ctl: Ctl, target: Target) -> Target:
    """The target, with its certificate pinned if it is untrusted and a person confirms it. Raises ConnectError."""
    from hypersdk.cli.programs.certificates import offers_certificate, trusts_certificate
    from hypersdk.net.certificate import parse_fingerprint

    try:
        with _connected(ctl, replace(target, token=None)) as transport:
            transport.request("GET", "/health")
    except HyperSDKError as error:
        heading = f"{target.url} presents a certificate that is not trusted here."
        if not offers_certificate(error) or not ctl.output.can_ask:
            raise
        if not trusts_certificate(ctl, error, heading, "in the daemon's log"):
            raise
        pin = parse_fingerprint(str(error.fields["sha256"]))
        return replace(target, tls=replace(target.tls, thumbprint=pin, insecure=False))
    return target


def _logged_in(
    ctl: Ctl, target: Target, username: str | None, password_file: Path | None, password_stdin: bool, days: float
) -> tuple[Me, Secret, str | None]:
    from hypersdk.client.resources import log_in

    if username is None:
        if not ctl.output.can_ask:
            raise AccessError(
                "no user name was given",
                code="unauthenticated",
                next_step="Pass --username, or a token with --token-file.",
            )
        username = ctl.ask(f"User name at {target.url}: ").strip()
    password = ctl.password(f"Password of {username}: ", password_file, from_stdin=password_stdin)
    label = f"hyperctl on {socket.gethostname()[:100]}"
    with _connected(ctl, target) as transport:
        me, made = log_in(transport, username, password, label=label, expires_in_days=days)
    return me, made.secret, made.token.id


def _save_context(ctl: Ctl, target: Target, token: tuple[Secret, str | None], name: str | None) -> str:
    from hypersdk.client.address import is_at
    from hypersdk.client.contexts import Context, contexts_path, load_contexts, save_contexts

    path = contexts_path(ctl.environ)
    contexts = load_contexts(path)
    same = next((key for key, context in contexts.known.items() if is_at(context, target.url)), None)
    chosen = name or ctl.given.get("context") or same or _free_name(ctl, target.url, contexts)
    if chosen in contexts.known and not is_at(contexts.get(chosen), target.url):
        ctl.output.warn(f"context {chosen} replaces that of {contexts.get(chosen).url}")
    bundle = target.tls.ca_bundle
    context = Context(
        target.url,
        *token,
        ca_bundle=None if bundle is None else str(bundle.absolute()),
        thumbprint=target.tls.thumbprint,
        insecure=target.tls.insecure,
    )
    save_contexts(path, contexts.with_context(chosen, context).used(chosen))
    return str(chosen)


def _free_name(ctl: Ctl, url: str, contexts: Contexts) -> str:
    """The host name; if another daemon has that name, with the port, and then with a number."""
    host, port = _name_of(url), urlsplit(url).port or (443 if url.startswith("https:") else 80)
    names = chain((host, f"{host[:57]}-{port}"), (f"{host[:50]}-{port}-{number}" for number in count(2)))
    free = next(candidate for candidate in names if candidate not in contexts.known)
    if free != host:
        ctl.output.note(f"{host} is the context of {contexts.get(host).url}; this daemon is saved as {free}.")
    return free


def _name_of(url: str) -> str:
    host = urlsplit(url).hostname or "daemon"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", host).strip("-._")[:63] or "daemon"


@click.command("logout", cls=Command)
@common_flags
@pass_ctl
def logout(ctl: Ctl) -> None:
    """Remove the token of the current context (or of --context, or of the one for --url), and revoke it if the daemon
    can be reached."""
    from hypersdk.client.contexts import CONTEXT_UNKNOWN, contexts_path, load_contexts, save_contexts

    path = contexts_path(ctl.environ)
    contexts = load_contexts(path)
    name = _context_of(ctl, contexts)
    if name is None or contexts.get(name).token is None:
        raise LookupFailed("not logged in", code=CONTEXT_UNKNOWN, next_step="See `hyperctl contexts list`.")
    context = contexts.get(name)
    revoked = _revoke(ctl, name, context)
    save_contexts(path, contexts.with_context(name, replace(context, token=None, token_id=None)))
    ctl.show({"context": name, "revoked": revoked}, lambda: ctl.say(f"Logged out of {context.url}"))


def _context_of(ctl: Ctl, contexts: Contexts) -> str | None:
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
        # With the token itself, at its own daemon: the environment may name another daemon.
        ctl.connect(context=name, url=context.url, token=context.token, **given).tokens.revoke(context.token_id)
    except HyperSDKError as error:
        ctl.output.warn(f"the token could not be revoked: {error.message}")
        return False
    return True
