"""Logs in with flags, environment and configuration; asks at a terminal for what is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from hypersdk.cli.programs.certificates import offers_certificate, trusts_certificate
from hypersdk.cli.programs.passwords import given_password
from hypersdk.cli.state import Cli
from hypersdk.errors import AccessError, ConnectError, UsageError, register
from hypersdk.net.certificate import CERTIFICATE_UNKNOWN, parse_fingerprint
from hypersdk.net.knownhosts import remember_host
from hypersdk.secret import Secret
from hypersdk.vsphere.connection import open_connection
from hypersdk.vsphere.endpoint import NO_ENDPOINT, Endpoint, known_hosts_file, resolve_endpoint
from hypersdk.vsphere.faults import LOGIN_REFUSED, translate
from hypersdk.vsphere.session import Session

PASSWORD_IN_ARGV: Final = register(
    "password_in_argv",
    "Every user of this host can read the command line of a process.",
    "Leave the password out of --url; use --password-file, --password-stdin, $GOVC_PASSWORD or the prompt.",
)
UNTRUSTED: Final = (
    "Ask the server's administrator for the SHA-256 fingerprint, then pass it with --thumbprint; or name the"
    " authority's file with --ca-bundle."
)
MAX_ATTEMPTS: Final = 3
"""How often a person at a terminal may retype a password: vCenter locks an account after five failures by default."""


def endpoint_of(cli: Cli, overrides: dict[str, object] | None = None) -> Endpoint:
    """The endpoint of flags, environment and configuration. Flags take precedence over ``overrides`` (of a job file).

    At a terminal the user is asked for a missing address or user name. Raises UsageError.
    """
    values: dict[str, object] = {**(overrides or {}), **_flag_values(cli)}
    try:
        endpoint = resolve_endpoint(cli.environ, cli.config.connection, **values)  # type: ignore[arg-type]
    except UsageError as error:
        if error.code != NO_ENDPOINT or not cli.output.can_ask:
            raise
        values["url"] = cli.ask("vCenter or ESXi address: ")
        endpoint = resolve_endpoint(cli.environ, cli.config.connection, **values)  # type: ignore[arg-type]
    if not endpoint.username and cli.output.can_ask:
        endpoint = replace(endpoint, username=cli.ask(f"User name for {endpoint.address}: "))
    return endpoint


def _flag_values(cli: Cli) -> dict[str, object]:
    values = {name: value for name, value in cli.given.items() if name != "config"}
    path, from_stdin = values.pop("password_file", None), bool(values.pop("password_stdin", False))
    if isinstance(url := values.get("url"), str) and _holds_password(url):
        raise UsageError("--url holds a password", code=PASSWORD_IN_ARGV)
    password = given_password(cli.stdin, path if isinstance(path, Path) else None, from_stdin=from_stdin)
    return values if password is None else {**values, "password": password}


def _holds_password(url: str) -> bool:
    """Whether the text looks like a URL with a password; it need not be a valid URL."""
    return ":" in url.rpartition("://")[2].rpartition("@")[0]


def connected(cli: Cli, overrides: dict[str, object] | None = None) -> Session:
    """Logs in to the endpoint; leaving the session's block logs out. Raises ConnectError, AccessError or UsageError."""
    return log_in(cli, endpoint_of(cli, overrides))


def log_in(cli: Cli, endpoint: Endpoint) -> Session:
    """Logs in. At a terminal a missing or refused password is asked for, and so is whether to trust an unknown
    certificate.

    The certificate comes first: nobody types a password for a server that does not answer or is not trusted.
    """
    endpoint = _trusted(cli, endpoint)
    typed = endpoint.password is None and cli.output.can_ask
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            return _connect(cli, with_password(cli, endpoint))
        except AccessError as error:
            if not typed or attempt == MAX_ATTEMPTS or error.code != LOGIN_REFUSED:
                raise
            cli.output.note("That user name and password were refused. Try again.", style="red")
    raise AssertionError("the last attempt returns or raises")


def with_password(cli: Cli, endpoint: Endpoint) -> Endpoint:
    """``endpoint`` with a password: asked for at a terminal if it has none."""
    if endpoint.password is not None or not cli.output.can_ask:
        return endpoint
    question = f"Password for {endpoint.username} at {endpoint.address}: "
    return replace(endpoint, password=Secret(cli.ask(question, secret=True)))


def _trusted(cli: Cli, endpoint: Endpoint) -> Endpoint:
    """``endpoint``, after a first connection at a terminal: an unknown certificate is shown and, once confirmed,
    remembered."""
    if not cli.output.can_ask:
        return endpoint
    try:
        _reach(cli, endpoint)
    except ConnectError as error:
        if not offers_certificate(error):
            raise
        heading = f"{endpoint.address} presents a certificate that no authority trusted by this machine has signed."
        if not trusts_certificate(cli, error, heading, "shown on the server itself"):
            raise ConnectError(
                f"the certificate of {endpoint.address} was not trusted", code=CERTIFICATE_UNKNOWN, next_step=UNTRUSTED
            ) from error
        return _remember(cli, endpoint, str(error.fields["sha256"]))
    return endpoint


def _reach(cli: Cli, endpoint: Endpoint) -> None:
    """Connects and checks the certificate; nothing is sent. Raises ConnectError."""
    connection = open_connection(endpoint)
    try:
        with cli.output.working(f"Connecting to {endpoint.address} ..."), cli.interrupts.breakable():
            connection.connect()
    except OSError as error:
        raise translate(error, endpoint.address) from error
    finally:
        connection.close()


def _connect(cli: Cli, endpoint: Endpoint) -> Session:
    with cli.output.working(f"Logging in to {endpoint.address} ..."), cli.interrupts.breakable():
        return Session.connect(endpoint, cancel=cli.cancel)


def _remember(cli: Cli, endpoint: Endpoint, thumbprint: str) -> Endpoint:
    path = known_hosts_file(cli.environ, cli.config.connection)
    digits = parse_fingerprint(thumbprint)
    try:
        remember_host(path, endpoint.host, endpoint.port, digits)
        cli.output.note(f"Remembered in {path}.", style="dim")
    except OSError as failure:
        cli.output.warn(f"the fingerprint could not be stored in {path}: {failure.strerror}")
    return replace(endpoint, tls=replace(endpoint.tls, known=digits))
