"""From flags, environment and configuration to a login; what is missing is asked for where a person can answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from hypersdk.cli.programs.passwords import given_password
from hypersdk.cli.state import Cli
from hypersdk.cli.text import clean
from hypersdk.errors import AccessError, ConnectError, UsageError, register
from hypersdk.secret import Secret

if TYPE_CHECKING:
    from hypersdk.vsphere.endpoint import Endpoint
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
LOGIN_REFUSED: Final = "login_refused"
CERTIFICATE_UNKNOWN: Final = "certificate_unknown"
"""Codes of lower packages, by name: their modules take long to import."""

PRINT_LINE: Final = 16 * 3
"""Characters of a fingerprint in one line: 16 bytes, which fits 80 columns; halves can be compared at a glance."""
MAX_ATTEMPTS: Final = 3
"""How often a person at a terminal may retype a password: vCenter locks an account after five failures by default."""

T = TypeVar("T")


def endpoint_of(cli: Cli, overrides: dict[str, object] | None = None) -> Endpoint:
    """The endpoint that flags, environment and configuration name; ``overrides`` (of a job file) stand below the flags.

    At a terminal the user is asked for the address and the user name where none is given. Raises UsageError.
    """
    from hypersdk.vsphere.endpoint import NO_ENDPOINT, resolve_endpoint

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
    values = dict(cli.flags)
    path, from_stdin = values.pop("password_file", None), bool(values.pop("password_stdin", False))
    if isinstance(url := values.get("url"), str) and _holds_password(url):
        raise UsageError("--url holds a password", code=PASSWORD_IN_ARGV)
    password = given_password(cli.stdin, path if isinstance(path, Path) else None, from_stdin=from_stdin)
    return values if password is None else {**values, "password": password}


def _holds_password(url: str) -> bool:
    """By its form alone: one that is no valid URL may hold a password all the same."""
    return ":" in url.rpartition("://")[2].rpartition("@")[0]


@contextmanager
def connected(cli: Cli, overrides: dict[str, object] | None = None) -> Iterator[Session]:
    """A login for the time of the block. Raises ConnectError, AccessError or UsageError when there is none."""
    with log_in(cli, endpoint_of(cli, overrides)) as session:
        yield session


def log_in(cli: Cli, endpoint: Endpoint) -> Session:
    """Logs in. At a terminal a missing or refused password is asked for, and so is whether to trust an unknown
    certificate.

    In that order of need: nobody types a password for a server that does not answer or is not trusted.
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
    """``endpoint`` with a password: asked for at a terminal where it has none."""
    if endpoint.password is not None or not cli.output.can_ask:
        return endpoint
    question = f"Password for {endpoint.username} at {endpoint.address}: "
    return replace(endpoint, password=Secret(cli.ask(question, secret=True)))


def _trusted(cli: Cli, endpoint: Endpoint) -> Endpoint:
    """``endpoint``, reached once where a person watches: an unknown certificate is shown and trusted on their word,
    which is remembered."""
    if not cli.output.can_ask:
        return endpoint
    try:
        _reach(cli, endpoint)
    except ConnectError as error:
        if error.code != CERTIFICATE_UNKNOWN or "sha256" not in error.fields:
            raise
        if not _ask_trust(cli, endpoint, error):
            raise ConnectError(
                f"the certificate of {endpoint.address} was not trusted", code=CERTIFICATE_UNKNOWN, next_step=UNTRUSTED
            ) from error
        return _remember(cli, endpoint, str(error.fields["sha256"]))
    return endpoint


def _reach(cli: Cli, endpoint: Endpoint) -> None:
    """Connects and judges the certificate; nothing is sent. Raises ConnectError."""
    from hypersdk.vsphere.connection import open_connection
    from hypersdk.vsphere.faults import translate

    connection = open_connection(endpoint)
    try:
        with cli.output.working(f"Connecting to {endpoint.address} ..."), cli.interrupts.breakable():
            connection.connect()
    except OSError as error:
        raise translate(error, endpoint.address) from error
    finally:
        connection.close()


def _connect(cli: Cli, endpoint: Endpoint) -> Session:
    from hypersdk.vsphere.session import Session

    with cli.output.working(f"Logging in to {endpoint.address} ..."), cli.interrupts.breakable():
        return Session.connect(endpoint, cancel=cli.cancel)


def _ask_trust(cli: Cli, endpoint: Endpoint, error: ConnectError) -> bool:
    notes = cli.output.notes
    notes.print(
        f"{endpoint.address} shows a certificate that is not signed by an authority this machine trusts.",
        style="yellow",
    )
    facts = {key: clean(str(error.fields.get(key, "")), 200) for key in ("sha256", "sha1", "subject", "issuer")}
    shown = [
        ("SHA-256", facts["sha256"][:PRINT_LINE]),
        ("", facts["sha256"][PRINT_LINE:]),
        ("SHA-1", facts["sha1"]),
        ("subject", facts["subject"]),
        ("issuer", facts["issuer"]),
        ("valid until", str(error.fields.get("not_after", ""))[:10]),
    ]
    for label, text in shown:
        notes.print(f"  {label:<12}{text}", soft_wrap=True)
    notes.print("Compare the SHA-256 fingerprint with the one shown on the server itself.")
    return cli.ask("Trust it from now on? Type yes: ").strip().lower() == "yes"


def _remember(cli: Cli, endpoint: Endpoint, thumbprint: str) -> Endpoint:
    from hypersdk.net.certificate import parse_fingerprint
    from hypersdk.net.knownhosts import remember_host
    from hypersdk.vsphere.endpoint import known_hosts_file

    path = known_hosts_file(cli.environ, cli.config.connection)
    digits = parse_fingerprint(thumbprint)
    try:
        remember_host(path, endpoint.host, endpoint.port, digits)
        cli.output.note(f"Remembered in {path}.", style="dim")
    except OSError as failure:
        cli.output.warn(f"the fingerprint could not be stored in {path}: {failure.strerror}")
    return replace(endpoint, tls=replace(endpoint.tls, known=digits))
