"""The address and the token of the daemon, each from the first of these sources that has it.

::

    address    url given > context given > $HYPERVISORD_URL > current context > http://localhost:8080
    token      given > token file given > $HYPERVISORD_TOKEN > the context, at its own address only
               > for a daemon on this machine only: admin.token in $STATE_DIRECTORY, the XDG state folder,
                 /var/lib/hypersdk

A token is not sent to another address than its context's, to another machine when it was found on this one, to a local
port that another user listens on, or to another machine over plain HTTP.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from hypersdk.client.contexts import Context, contexts_path, load_contexts
from hypersdk.config.folders import service_state, user_state
from hypersdk.errors import AccessError, HyperSDKError, UsageError, register
from hypersdk.net.address import host_port, is_loopback_address
from hypersdk.net.certificate import TlsPolicy, parse_fingerprint
from hypersdk.remedies import First, UseToken
from hypersdk.secret import Secret
from hypersdk.units import KiB

DAEMON_ADDRESS: Final = register(
    "daemon_address", "The address of the daemon is invalid.", "Write it like https://hypervisord.example.com:8443."
)
PLAIN_HTTP: Final = register(
    "token_over_plain_http",
    "Everyone on the network path could read the token.",
    "Give the daemon a certificate and use https://, or reach it through an SSH tunnel on localhost.",
)
TOKEN_SOURCE: Final = register(
    "token_source",
    "The token could not be read from the given source.",
    "Name a file with the token on its first line.",
)
FOREIGN_LISTENER: Final = register(
    "foreign_listener",
    "The process that listens on that port belongs to another user than the token, so it may not be the daemon.",
    First("check which process listens there (`ss -ltnp`)"),
    UseToken(),
)

DEFAULT_URL: Final = "http://localhost:8080"
URL_VARIABLE: Final = "HYPERVISORD_URL"
TOKEN_VARIABLE: Final = "HYPERVISORD_TOKEN"  # noqa: S105 - the name of a variable
ADMIN_TOKEN: Final = "admin.token"  # noqa: S105 - the name of a file
SYSTEM_STATE: Final = Path("/var/lib/hypersdk")
MAX_TOKEN_BYTES: Final = 4 * KiB


@dataclass(frozen=True, slots=True)
class Target:
    """A daemon and how to connect to it. ``found_in`` names the source of the token, for error messages."""

    url: str
    token: Secret | None
    tls: TlsPolicy
    found_in: str | None = None
    context: str | None = None


@dataclass(frozen=True, slots=True)
class AddressOptions:
    """What the caller specified; None is not specified."""

    url: str | None = None
    token: Secret | None = None
    token_file: Path | None = None
    ca_bundle: Path | None = None
    thumbprint: str | None = None
    insecure: bool = False
    context: str | None = None


def find_target(wanted: AddressOptions, environ: Mapping[str, str]) -> Target:
    """Finds the daemon. Raises UsageError for an address, file or fingerprint that cannot be used, AccessError if the
    token must not be sent there."""
    name, context = _context(wanted, environ)
    # An explicit context goes before the environment.
    variable = None if wanted.context else environ.get(URL_VARIABLE)
    url = normal_url(wanted.url or variable or (context.url if context else DEFAULT_URL))
    if context is not None and normal_url(context.url) != url:
        name, context = None, None
    token, found_in = _token(wanted, environ, url, name, context)
    if token is not None and url.startswith("http://") and not is_loopback(url):
        raise AccessError(f"the token is not sent to {url}", code=PLAIN_HTTP)
    return Target(url, token, _tls(wanted, context), found_in, name)


def is_at(context: Context, url: str) -> bool:
    """Whether the context is that of the daemon at ``url``, a ``normal_url``. False for an invalid address, which is
    reported when the context is used."""
    try:
        return normal_url(context.url) == url
    except UsageError:
        return False


def normal_url(text: str) -> str:
    """``scheme://host:port`` in one form, without a path. Raises UsageError ``daemon_address``; the message shows no
    password."""
    whole = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(whole.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UsageError("the daemon's address is not a valid URL", code=DAEMON_ADDRESS) from None
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError("the daemon's address begins with neither http:// nor https://", code=DAEMON_ADDRESS)
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "the daemon's address holds a user name or password",
            code=DAEMON_ADDRESS,
            next_step="Leave it out; use `hyperctl login`.",
        )
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise UsageError("the daemon's address has a path", code=DAEMON_ADDRESS)
    return f"{parts.scheme}://{host_port(host, port)}"


def is_loopback(url: str) -> bool:
    """Whether ``url`` names this machine: localhost or a loopback address."""
    host = urlsplit(url).hostname or ""
    return host == "localhost" or is_loopback_address(host)


def _context(wanted: AddressOptions, environ: Mapping[str, str]) -> tuple[str | None, Context | None]:
    contexts = load_contexts(contexts_path(environ))
    name = wanted.context or contexts.current
    return (None, None) if name is None else (name, contexts.get(name))


def _tls(wanted: AddressOptions, context: Context | None) -> TlsPolicy:
    own = context or Context("")
    pin = wanted.thumbprint or (None if wanted.ca_bundle or wanted.insecure else own.thumbprint)
    bundle = wanted.ca_bundle or (Path(own.ca_bundle) if own.ca_bundle else None)
    return TlsPolicy(
        insecure=wanted.insecure or (own.insecure and not pin and not wanted.ca_bundle),
        ca_bundle=bundle.expanduser() if bundle else None,
        thumbprint=parse_fingerprint(pin) if pin else None,
    )


def _token(
    wanted: AddressOptions, environ: Mapping[str, str], url: str, name: str | None, context: Context | None
) -> tuple[Secret | None, str | None]:
    if wanted.token is not None:
        return _checked(wanted.token.reveal(), "the token given"), "the caller"
    if wanted.token_file is not None:
        return read_token(wanted.token_file), str(wanted.token_file)
    if text := environ.get(TOKEN_VARIABLE, "").strip():
        return _checked(text, f"the token in ${TOKEN_VARIABLE}"), f"${TOKEN_VARIABLE}"
    if context is not None and context.token is not None:
        return _checked(context.token.reveal(), f"the token of context {name}"), f"context {name}"
    return _local_token(environ, url) if is_loopback(url) else (None, None)


def read_token(path: Path) -> Secret:
    """The token on the first line of ``path``. Raises UsageError ``token_source``."""
    try:
        with path.expanduser().open("rb") as file:
            line = file.readline(MAX_TOKEN_BYTES + 2)
    except OSError as error:
        raise UsageError(f"the token file {path} cannot be read", code=TOKEN_SOURCE) from error
    return _checked(line.decode("utf-8", "replace"), f"the first line of {path}")


def _checked(text: str, what: str) -> Secret:
    """The token in ``text``, without surrounding white space. Raises UsageError ``token_source``, without the text, if
    it cannot be sent in a header."""
    token = text.strip()
    if not token:
        raise UsageError(f"{what} is empty", code=TOKEN_SOURCE)
    if len(token) > MAX_TOKEN_BYTES or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            f"{what} is not a token",
            code=TOKEN_SOURCE,
            cause="A token is one word of ASCII characters.",
            next_step="Pass only the token, as it was shown when it was created.",
        )
    return Secret(token)


def state_folders(environ: Mapping[str, str]) -> Iterator[Path]:
    """Possible state folders of a daemon on this machine, in order of preference."""
    if (own := service_state(environ)) is not None:
        yield own
    yield user_state(environ)
    yield SYSTEM_STATE


def _local_token(environ: Mapping[str, str], url: str) -> tuple[Secret | None, str | None]:
    """The token of a daemon on this machine: the first one that may be sent to ``url``. Raises the error about the
    first that may not if there is no other."""
    refused: HyperSDKError | None = None
    for folder in state_folders(environ):
        path = folder / ADMIN_TOKEN
        try:
            owner = path.stat().st_uid
        except OSError:
            continue
        if not os.access(path, os.R_OK):
            continue
        try:
            _check_listener(url, owner)
            return read_token(path), str(path)
        except HyperSDKError as error:
            refused = refused or error
    if refused is not None:
        raise refused
    return None, None


def _check_listener(url: str, owner: int) -> None:
    """The token of a daemon that is not running must not be sent to another program on its port."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    users = set(listeners(port))
    if users and not users & {0, owner}:
        raise AccessError(
            f"port {port} is served by user {min(users)}, the token belongs to user {owner}", code=FOREIGN_LISTENER
        )


_LISTEN: Final = "0A"


def listeners(port: int, tables: tuple[Path, ...] = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))) -> Iterator[int]:
    """User ids of the sockets that listen on ``port`` of this machine, from ``/proc/net/tcp`` (proc(5)); none if it
    cannot be read."""
    for table in tables:
        try:
            lines = table.read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state, *others = line.split()
            if state == _LISTEN and int(local.rpartition(":")[2], 16) == port:
                yield int(others[3])
