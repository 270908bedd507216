"""`hyperctl login`: exchanges a password for a token, which is stored in a context."""

from __future__ import annotations

import re
import socket
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.groups import Command, flag
from hypersdk.errors import AccessError, HyperSDKError

if TYPE_CHECKING:
    from hypersdk.client.address import Target
    from hypersdk.client.contexts import Contexts
    from hypersdk.client.records import Me
    from hypersdk.client.transport import Transport
    from hypersdk.secret import Secret

TIMEOUT_S: Final = 60.0
_FILE: Final = click.Path(path_type=Path, dir_okay=False)


@click.command("login", cls=Command)
@click.argument("address", required=False, metavar="[URL]")
@flag("--name", metavar="NAME", help="Name of the context (the host name, with the port if that name is taken).")
@flag("--username", metavar="NAME", help="User name; asked for if missing.")
@flag("--password-file", type=_FILE, metavar="FILE", help="Read the password from the first line of this file.")
@flag("--password-stdin", is_flag=True, help="Read the password from standard input.")
@flag(
    "--days",
    type=click.FloatRange(0.001, 3660),
    default=30.0,
    show_default=True,
    metavar="N",
    help="Lifetime of the token.",
)
@common_flags
@pass_ctl
def command(
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
    if address is not None:
        ctl.given["url"] = address
    target = _trusted(ctl, _target(ctl))
    if "token_file" in ctl.given:
        assert target.token is not None
        me, token, token_id = _checked(ctl, target), target.token, None
    else:
        me, token, token_id = _logged_in(ctl, target, username, password_file, password_stdin, days)
    kept = _keep(ctl, target, (token, token_id), name)
    facts = {"context": kept, "url": target.url, "user": me.name, "role": me.role}
    ctl.show(
        facts, lambda: ctl.say(f"Logged in to {target.url} as {me.name} ({me.role}); context {kept}", "bold green")
    )


def _target(ctl: Ctl) -> Target:
    """The daemon, without any saved token: this command obtains one."""
    from hypersdk.client.address import AddressOptions, find_target

    given = {key: value for key, value in ctl.given.items() if key != "timeout_s"}
    environ = {key: value for key, value in ctl.environ.items() if key != "HYPERVISORD_TOKEN"}
    target = find_target(AddressOptions(**given), environ)
    return target if "token_file" in given else replace(target, token=None)


def _transport(ctl: Ctl, target: Target) -> Transport:
    from hypersdk.client.transport import Transport

    return Transport(target, ctl.given.get("timeout_s", TIMEOUT_S))


def _trusted(ctl: Ctl, target: Target) -> Target:
    """The target, with its certificate pinned if it is untrusted and a person confirms it. Raises ConnectError."""
    transport = _transport(ctl, replace(target, token=None))
    try:
        transport.request("GET", "/health")
    except HyperSDKError as error:
        shown = str(error.fields.get("sha256") or "")
        if error.code != "certificate_unknown" or not shown or not ctl.output.can_ask:
            raise
        _show_certificate(ctl, target, error)
        if not ctl.confirm("Trust it from now on?"):
            raise
        from hypersdk.net.certificate import parse_fingerprint

        return replace(target, tls=replace(target.tls, thumbprint=parse_fingerprint(shown), insecure=False))
    finally:
        transport.close()
    return target


def _show_certificate(ctl: Ctl, target: Target, error: HyperSDKError) -> None:
    from hypersdk.cli.text import clean

    notes = ctl.output.notes
    notes.print(f"{target.url} presents a certificate that is not trusted here.", style="yellow")
    for label, key in (
        ("SHA-256", "sha256"),
        ("subject", "subject"),
        ("issuer", "issuer"),
        ("valid until", "not_after"),
    ):
        notes.print(f"  {label:<12}{clean(str(error.fields.get(key, '')), 200)}", soft_wrap=True)
    notes.print("Compare the SHA-256 fingerprint with the one in the daemon's log.")


def _checked(ctl: Ctl, target: Target) -> Me:
    from hypersdk.client.accounts import who_am_i

    transport = _transport(ctl, target)
    try:
        return who_am_i(transport)
    finally:
        transport.close()


def _logged_in(
    ctl: Ctl, target: Target, username: str | None, password_file: Path | None, password_stdin: bool, days: float
) -> tuple[Me, Secret, str | None]:
    from hypersdk.client.accounts import log_in

    if username is None:
        if not ctl.output.can_ask:
            raise AccessError(
                "no user name was given",
                code="unauthenticated",
                next_step="Pass --username, or a token with --token-file.",
            )
        username = ctl.ask(f"User name at {target.url}: ").strip()
    password = ctl.password(f"Password of {username}: ", password_file, from_stdin=password_stdin)
    transport = _transport(ctl, target)
    try:
        me, made = log_in(
            transport, username, password, label=f"hyperctl on {socket.gethostname()[:100]}", expires_in_days=days
        )
    finally:
        transport.close()
    return me, made.secret, made.token.id


def _keep(ctl: Ctl, target: Target, token: tuple[Secret, str | None], name: str | None) -> str:
    from hypersdk.client.address import is_at
    from hypersdk.client.contexts import Context, contexts_path, load_contexts, save_contexts

    path = contexts_path(ctl.environ)
    contexts = load_contexts(path)
    same = next((key for key, context in contexts.known.items() if is_at(context, target.url)), None)
    chosen = name or ctl.given.get("context") or same or _free_name(ctl, target.url, contexts)
    if chosen in contexts.known and not is_at(contexts.get(chosen), target.url):
        ctl.output.warn(f"context {chosen} was that of {contexts.get(chosen).url} until now")
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
    """By host; with the port, and where that is taken too with a number, where the name is another daemon's."""
    host, port = _name_of(url), urlsplit(url).port or (443 if url.startswith("https:") else 80)
    names = chain((host, f"{host[:57]}-{port}"), (f"{host[:50]}-{port}-{number}" for number in count(2)))
    free = next(candidate for candidate in names if candidate not in contexts.known)
    if free != host:
        ctl.output.note(f"{host} is the context of {contexts.get(host).url}; this daemon is remembered as {free}.")
    return free


def _name_of(url: str) -> str:
    host = urlsplit(url).hostname or "daemon"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", host).strip("-._")[:63] or "daemon"
