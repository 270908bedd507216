"""The encryption key for the daemon's secrets: where it is read from, and how it is first generated.

The first of these that exists:

1. the systemd credential ``hypersdk-key`` (``LoadCredentialEncrypted=hypersdk-key:...``), which is never stored in
clear text;
2. the keyring entry that ``$HYPERSDK_KEYRING`` names as ``SERVICE/USER``;
3. the key file (``key_file``, else ``vault.key`` in the state directory), generated at the first start, readable by its
owner only.

Text of a key: 32 bytes as base64 or hex.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hypersdk.access.files import read_private, write_new_private
from hypersdk.errors import HyperSDKError, UsageError, register

KEY_UNUSABLE: Final = register(
    "vault_key_unusable",
    "The encryption key for stored passwords cannot be read.",
    "Correct it: 32 bytes as base64 or hex, in a file that only the daemon's user can read.",
)
KEY_LOST: Final = register(
    "vault_key_lost",
    "The database contains encrypted passwords, and the key that decrypts them is missing. They cannot be read without"
    " it.",
    "Restore the key from its backup (it is not part of the database's backup). If it is lost for good, `hypervisord"
    " reset-vault` deletes the encrypted passwords, which must then be given again; jobs and users are kept.",
)
KEY_BYTES: Final = 32
KEY_FILE: Final = "vault.key"
CREDENTIAL: Final = "hypersdk-key"


class VaultError(HyperSDKError):
    """A stored secret cannot be encrypted or decrypted."""

    exit_status = 12
    default_code = KEY_UNUSABLE


def find_key(state_dir: Path, key_file: Path | None, environ: Mapping[str, str], *, may_make: bool) -> bytes:
    """The key. Where there is none, one is generated if ``may_make``, else VaultError ``vault_key_lost``."""
    if (directory := environ.get("CREDENTIALS_DIRECTORY")) and (credential := Path(directory, CREDENTIAL)).exists():
        return _read(credential, environ)
    if entry := environ.get("HYPERSDK_KEYRING"):
        return _from_keyring(entry, may_make=may_make)
    path = key_file or state_dir / KEY_FILE
    if not path.exists():
        if not may_make:
            raise VaultError(f"the key file {path} does not exist", code=KEY_LOST, path=str(path))
        _make(path)
    return _read(path, environ)


def key_id(key: bytes) -> bytes:
    """Eight bytes that identify the key and reveal nothing of it."""
    return hashlib.sha256(b"hypersdk key id\0" + key).digest()[:8]


def new_key() -> str:
    """The text of a new random key."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def _make(path: Path) -> None:
    try:
        write_new_private(path, new_key() + "\n")
    except FileExistsError:
        return  # another process of the daemon was first; its key is read
    except OSError as error:
        raise VaultError(f"the key file {path} cannot be written: {error.strerror}") from error


def _read(path: Path, environ: Mapping[str, str]) -> bytes:
    try:
        text = read_private(path, environ).reveal()
    except UsageError as error:
        raise VaultError(error.message, remedies=error.remedies) from error
    return _decoded(text, str(path))


def _decoded(text: str, where: str) -> bytes:
    text = text.strip()
    try:
        key = bytes.fromhex(text) if len(text) == 2 * KEY_BYTES else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise VaultError(f"{where} is not a key in base64 or hex") from None
    if len(key) != KEY_BYTES:
        raise VaultError(f"{where} has a key of {len(key)} bytes; {KEY_BYTES} are required")
    return key


def _from_keyring(entry: str, *, may_make: bool) -> bytes:
    service, slash, user = entry.partition("/")
    if not slash or not service or not user:
        raise VaultError("HYPERSDK_KEYRING is not of the form SERVICE/USER")
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError as error:
        raise VaultError(
            "HYPERSDK_KEYRING is set and Python's keyring is not installed",
            next_step="Install it, or unset the variable.",
        ) from error
    try:
        text = keyring.get_password(service, user)
        if text is None and may_make:
            text = new_key()
            keyring.set_password(service, user, text)
    except KeyringError as error:
        raise VaultError(f"the keyring does not answer: {type(error).__name__}") from error
    if text is None:
        raise VaultError(f"the keyring has no entry {entry}", code=KEY_LOST)
    return _decoded(text, f"the keyring entry {entry}")
