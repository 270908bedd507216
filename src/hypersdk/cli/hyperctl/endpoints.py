"""`hyperctl endpoints`: vCenter and ESXi hosts, and hypervisors, registered with the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.programs.accounts import password_flags
from hypersdk.cli.programs.groups import Group, flag
from hypersdk.errors import HyperSDKError, UsageError

if TYPE_CHECKING:
    from hypersdk.client import EndpointInfo


HYPERVISORS: Final = ("qemu:", "qemu+", "test:")
"""Beginnings of the addresses of libvirt."""


@click.group("endpoints", cls=Group)
def command() -> None:
    """vCenter and ESXi hosts, and libvirt hypervisors, that jobs can use. Stored passwords are never returned."""


@command.command("add")
@click.argument("name")
@click.argument("address", metavar="URL")
@flag("--username", metavar="NAME", help="User name for the server; asked for if missing.")
@password_flags("password")
@flag(
    "--secret-ref",
    metavar="REF",
    help="Reference to the password, resolved by the daemon: vault:NAME, env:NAME, file:PATH or credential:NAME.",
)
@flag("--pin", metavar="FINGERPRINT", help="Trust the server's certificate with this SHA-256 fingerprint.")
@flag(
    "--trust-any",
    is_flag=True,
    help="Trust any certificate of the server. Anyone on the network path can then read the password.",
)
@flag("--datacenter", metavar="NAME", help="Datacenter for relative machine paths.")
@flag("--default", is_flag=True, help="Jobs that name no endpoint use this one.")
@common_flags
@pass_ctl
def add(
    ctl: Ctl,
    name: str,
    address: str,
    username: str | None,
    password_file: Path | None,
    password_stdin: bool,
    secret_ref: str | None,
    pin: str | None,
    trust_any: bool,
    datacenter: str | None,
    default: bool,
) -> None:
    """Register an endpoint. An untrusted certificate is shown and trusted only after you confirm it.

    The password comes from a file, standard input or the prompt, never from the command line. A URL like qemu:///system
    or qemu+ssh://user@host/system is a hypervisor: the daemon logs in there with its own SSH keys or TLS certificates.
    """
    from hypersdk.cli.programs.certificates import offers_certificate

    if secret_ref is not None and (password_file is not None or password_stdin):
        raise UsageError("--secret-ref cannot be combined with a password", next_step="Give one of them.")
    kind = "libvirt" if address.startswith(HYPERVISORS) else None
    if username is None and kind is None:
        if not ctl.output.can_ask:
            raise UsageError("--username is missing", next_step="Give the account that the daemon logs in with.")
        username = ctl.ask(f"User name at {address}: ").strip()
    password = None
    if secret_ref is None and (kind is None or password_file is not None or password_stdin):
        password = ctl.password(f"Password of {username}: ", password_file, from_stdin=password_stdin)
    settings: dict[str, Any] = {
        "secret_ref": secret_ref,
        "insecure": trust_any,
        "datacenter": datacenter,
        "default": default,
        "kind": kind,
    }

    def create(thumbprint: str | None) -> EndpointInfo:
        with ctl.output.working(f"The daemon connects to {address} ..."):
            return ctl.client.endpoints.create(
                name, address, username or "", password, thumbprint=thumbprint, **settings
            )

    try:
        made = create(pin)
    except HyperSDKError as error:
        if pin is not None or not offers_certificate(error):
            raise
        made = create(_confirmed(ctl, address, error))
    ctl.show(dict(made.raw), lambda: ctl.say(f"Added endpoint {made.name} ({made.id})", "bold green"))


def _confirmed(ctl: Ctl, address: str, error: HyperSDKError) -> str:
    """The fingerprint, once the user has confirmed it. Raises ``error``, with the flag to use, if nobody can be
    asked."""
    from hypersdk.cli.programs.certificates import trusts_certificate

    heading = f"{address} presents a certificate that the daemon does not trust."
    if not ctl.output.can_ask or not trusts_certificate(ctl, error, heading, "shown on the server itself"):
        raise error
    return str(error.fields["sha256"])


@command.command("list")
@common_flags
@pass_ctl
def list_(ctl: Ctl) -> None:
    """List the endpoints."""
    from hypersdk.cli.hyperctl.shown import show_table
    from hypersdk.client import EndpointInfo

    empty = "No endpoint is registered. Add one with `hyperctl endpoints add NAME URL`."
    show_table(ctl, ctl.client.endpoints.list(), EndpointInfo, empty=empty, thumbprint=_trust)


def _trust(endpoint: EndpointInfo) -> tuple[str, str]:
    from hypersdk.cli.hyperctl.shown import trust_cell

    return ("", "") if endpoint.url.startswith(HYPERVISORS) else trust_cell(endpoint.insecure, endpoint.thumbprint)


@command.command("test")
@click.argument("endpoint", metavar="NAME")
@common_flags
@pass_ctl
def test(ctl: Ctl, endpoint: str) -> None:
    """Log in to an endpoint and out again."""
    with ctl.output.working("The daemon logs in ..."):
        about = ctl.client.endpoints.test(endpoint)
    name = about.get("full_name") or about.get("name") or "the server"
    ctl.show(dict(about), lambda: ctl.say(f"{endpoint} works: {name}", "bold green"))


@command.command("default")
@click.argument("endpoint", metavar="NAME")
@common_flags
@pass_ctl
def default_(ctl: Ctl, endpoint: str) -> None:
    """Make an endpoint the default for jobs that name none."""
    made = ctl.client.endpoints.make_default(endpoint)
    ctl.show(dict(made.raw), lambda: ctl.say(f"{made.name} is the default endpoint"))


@command.command("delete")
@click.argument("endpoint", metavar="NAME")
@common_flags
@pass_ctl
def delete(ctl: Ctl, endpoint: str) -> None:
    """Delete an endpoint and its password. Refused while unfinished jobs use it."""
    ctl.client.endpoints.delete(endpoint)
    ctl.show({"endpoint": endpoint, "deleted": True}, lambda: ctl.say(f"Deleted endpoint {endpoint}"))
