"""References to secrets stored elsewhere: ``env:NAME``, ``file:/path``, ``credential:NAME`` of systemd,
``vault:mount/path#field``. They are read each time that they are used.

Only administrators can set them, with an endpoint: a user who could choose a reference and the address to send it to
could read the daemon's own environment. References to the daemon's own secrets are always refused.
"""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hypersdk.access.files import MAX_SECRET_BYTES, read_private
from hypersdk.access.keys import CREDENTIAL
from hypersdk.errors import ConnectError, UsageError, register
from hypersdk.net.address import is_loopback_name
from hypersdk.secret import Secret
from hypersdk.units import MiB

if TYPE_CHECKING:
    import httpx

SECRET_REF: Final = register(
    "secret_reference",
    "The reference to a secret cannot be resolved.",
    "Write env:NAME, file:/path, credential:NAME or vault:mount/path#field, and check that it exists.",
)
VAULT_UNREACHABLE: Final = register(
    "vault_unreachable",
    "HashiCorp Vault did not return the secret.",
    "Check VAULT_ADDR, VAULT_TOKEN and the policy of that token with `vault kv get`.",
)
MAX_ANSWER_BYTES: Final = 1 * MiB
TIMEOUT_S: Final = 10.0
_ENV_NAME: Final = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
_OWN_NAMES: Final = re.compile(r"^(?:HYPERSDK_.*|HYPERVISORD_.*|VAULT_.*|CREDENTIALS_DIRECTORY)\Z")
_CREDENTIAL_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_VAULT_REF: Final = re.compile(
    r"^([A-Za-z0-9_.-]{1,128})/([A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*)#([A-Za-z0-9_.-]{1,128})\Z"
)


def check_reference(ref: str) -> None:
    """Raises UsageError ``secret_reference`` unless ``ref`` has one of the forms; nothing is looked up."""
    kind, colon, rest = ref.partition(":")
    if colon and len(ref) <= 1024:
        if kind == "env" and _ENV_NAME.match(rest) and not _OWN_NAMES.match(rest):
            return
        if kind == "file" and rest.startswith("/") and "\0" not in rest:
            return
        if kind == "credential" and _CREDENTIAL_NAME.fullmatch(rest) and rest != CREDENTIAL:
            return
        if kind == "vault" and _VAULT_REF.match(rest) and not {".", ".."} & set(rest.partition("#")[0].split("/")):
            return
    raise UsageError(
        "the reference is not of the form env:NAME, file:/path, credential:NAME or vault:mount/path#field",
        code=SECRET_REF,
    )


def follow(ref: str, environ: Mapping[str, str], *, own: Path | None = None) -> Secret:
    """The secret that ``ref`` names. ``own`` is the state directory, whose files are refused, as is the key among
    systemd's credentials.

    Raises UsageError ``secret_reference`` or ``secret_file``, ConnectError ``vault_unreachable``.
    """
    check_reference(ref)
    kind, _, rest = ref.partition(":")
    if kind == "env":
        return _from_environ(rest, environ)
    if kind == "file":
        return _from_file(Path(rest), environ, own)
    if kind == "credential":
        return _from_credential(rest, environ)
    return _from_vault(rest, environ)


def _from_environ(name: str, environ: Mapping[str, str]) -> Secret:
    value = environ.get(name)
    if not value or len(value) > MAX_SECRET_BYTES:
        raise UsageError(f"the daemon's environment has no {name}", code=SECRET_REF)
    return Secret(value)


def _from_file(path: Path, environ: Mapping[str, str], own: Path | None) -> Secret:
    if own is not None and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(own)):
        raise UsageError(f"{path} is in the daemon's own directory", code=SECRET_REF)
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if directory and os.path.realpath(path) == os.path.realpath(Path(directory, CREDENTIAL)):
        raise UsageError(f"{path} is the daemon's own key", code=SECRET_REF)
    return read_private(path, environ)


def _from_credential(name: str, environ: Mapping[str, str]) -> Secret:
    """Each unit of systemd has a folder of its own, so the same reference works in the API and in the workers."""
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory or not Path(directory, name).exists():
        raise UsageError(f"the service's unit has no credential {name} (LoadCredential=)", code=SECRET_REF)
    return read_private(Path(directory, name), environ)


def _from_vault(rest: str, environ: Mapping[str, str]) -> Secret:
    match = _VAULT_REF.match(rest)
    assert match is not None, "checked before"
    mount, path, field = match.groups()
    with _client(environ) as client:
        status, answer = _get(client, f"/v1/{mount}/data/{path}")  # version 2 of the key-value engine
        data = _inner(answer, "data", "data")
        if status == 404:
            status, answer = _get(client, f"/v1/{mount}/{path}")  # version 1
            data = _inner(answer, "data")
    if status != 200:
        raise ConnectError(f"Vault answered {status} for {mount}/{path}", code=VAULT_UNREACHABLE, status=status)
    value = data.get(field) if isinstance(data, dict) else None
    if not isinstance(value, str) or not value:
        raise UsageError(f"the secret {mount}/{path} in Vault has no text '{field}'", code=SECRET_REF)
    return Secret(value)


def _client(environ: Mapping[str, str]) -> httpx.Client:
    import httpx  # imported here: most processes never use Vault

    address, token = environ.get("VAULT_ADDR", ""), environ.get("VAULT_TOKEN", "")
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL:
        raise UsageError("VAULT_ADDR is not a URL", code=SECRET_REF) from None
    if not address or not token:
        raise UsageError("VAULT_ADDR and VAULT_TOKEN are not set for the daemon", code=SECRET_REF)
    if url.scheme != "https" and not (url.scheme == "http" and is_loopback_name(url.host)):
        raise UsageError("VAULT_ADDR must be https; plain http would show the token", code=SECRET_REF)
    try:
        verify = ssl.create_default_context(cafile=environ.get("VAULT_CACERT") or None)
    except (OSError, ssl.SSLError) as error:
        raise UsageError("VAULT_CACERT cannot be read", code=SECRET_REF) from error
    headers = {"X-Vault-Token": token, "X-Vault-Request": "true"}
    if namespace := environ.get("VAULT_NAMESPACE"):
        headers["X-Vault-Namespace"] = namespace
    return httpx.Client(
        base_url=url,
        headers=headers,
        timeout=TIMEOUT_S,
        follow_redirects=False,
        trust_env=False,
        verify=verify,
    )


def _get(client: httpx.Client, path: str) -> tuple[int, object]:
    """Status and the answer's JSON (None where it is none), no more than ``MAX_ANSWER_BYTES`` of it."""
    import httpx

    data = b""
    try:
        with client.stream("GET", path) as answer:
            for chunk in answer.iter_bytes():
                data += chunk
                if len(data) > MAX_ANSWER_BYTES:
                    raise ConnectError("Vault's answer is too long", code=VAULT_UNREACHABLE)
            status = answer.status_code
    except httpx.HTTPError as error:
        raise ConnectError(f"Vault does not answer: {type(error).__name__}", code=VAULT_UNREACHABLE) from error
    try:
        return status, json.loads(data)
    except (ValueError, RecursionError):
        return status, None


def _inner(answer: object, *names: str) -> object:
    for name in names:
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer
