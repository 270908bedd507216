"""Secrets at rest: sealed with AES-256-GCM, each bound to its purpose.

::

    01 | key id (8) | nonce (12) | ciphertext and tag          associated data: "hypersdk:1:" purpose

The purpose names the row (``endpoint:ID``, ``job:ID``): a sealed value that is copied into another row cannot be opened
there. With the key id, a wrong key is reported as such and not as damage. Random nonces of 96 bits are safe for 2^32
values of one key (NIST SP 800-38D, 8.3)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hypersdk.access.keys import KEY_BYTES, VaultError, find_key, key_id
from hypersdk.access.references import follow
from hypersdk.errors import register
from hypersdk.secret import Secret
from hypersdk.state.database import Database
from hypersdk.state.tables import endpoints, idempotency, jobs, meta

WRONG_KEY: Final = register(
    "vault_wrong_key",
    "The secrets in the database were encrypted with another key than the one that was found.",
    "Restore the right key (systemd credential hypersdk-key, keyring or key file). If it is lost, `hypervisord"
    " reset-vault` deletes the secrets, and the passwords of the endpoints must be given again.",
)
DAMAGED: Final = register(
    "vault_damaged",
    "An encrypted secret was altered, or belongs to another object.",
    "Give the password again; if more secrets are damaged, restore the database from a backup.",
)
_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12
_HEAD_BYTES: Final = 1 + 8 + _NONCE_BYTES
KEY_ROW: Final = "vault_key"


class Vault:
    """Seals and opens secrets and resolves references. Thread-safe; the key is never exposed."""

    def __init__(self, key: bytes, *, environ: Mapping[str, str] | None = None, own: Path | None = None) -> None:
        if len(key) != KEY_BYTES:
            raise VaultError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        self._cipher = AESGCM(key)
        self._environ = os.environ if environ is None else environ
        self._own = own
        self.key_id: Final = key_id(key)

    @classmethod
    def load(
        cls, state_dir: Path, key_file: Path | None, environ: Mapping[str, str], database: Database | None = None
    ) -> Vault:
        """The vault of that database. Its key is created on the first start only: a database that has a key id needs
        that key. Without a database (a worker, which starts later) no key is created. Raises VaultError
        ``vault_key_lost``, ``vault_wrong_key``, ``vault_key_unusable``.
        """
        may_make = database is not None and known_key(database) is None
        key = find_key(state_dir, key_file, environ, may_make=may_make)
        vault = cls(key, environ=environ, own=state_dir)
        if database is not None:
            vault._claim(database)
        return vault

    def seal(self, text: Secret, purpose: str) -> bytes:
        """The text, encrypted with the key and bound to that purpose."""
        return self.seal_bytes(text.reveal().encode("utf-8"), purpose)

    def open(self, sealed: bytes, purpose: str) -> Secret:
        """The text again. Raises VaultError ``vault_wrong_key`` or ``vault_damaged``."""
        return Secret(self.open_bytes(sealed, purpose).decode("utf-8"))

    def seal_bytes(self, data: bytes, purpose: str) -> bytes:
        """As ``seal``."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _VERSION + self.key_id + nonce + self._cipher.encrypt(nonce, data, _bound(purpose))

    def open_bytes(self, sealed: bytes, purpose: str) -> bytes:
        """As ``open``."""
        sealed = bytes(sealed)
        if len(sealed) < _HEAD_BYTES + 16 or sealed[:1] != _VERSION:
            raise VaultError("a sealed secret has no valid form", code=DAMAGED)
        if sealed[1:9] != self.key_id:
            raise VaultError(
                f"the secret was sealed with key {sealed[1:9].hex()}; the key here is {self.key_id.hex()}",
                code=WRONG_KEY,
            )
        try:
            return self._cipher.decrypt(sealed[9:_HEAD_BYTES], sealed[_HEAD_BYTES:], _bound(purpose))
        except InvalidTag:
            raise VaultError("a sealed secret does not open", code=DAMAGED) from None

    def resolve(self, ref: str) -> Secret:
        """The secret that ``env:``, ``file:``, ``credential:`` or ``vault:`` names. Raises as ``references.follow``."""
        return follow(ref, self._environ, own=self._own)

    def _claim(self, database: Database) -> None:
        """Stores the key's id, or compares it with the stored one."""
        mine = self.key_id.hex()
        with database.write() as connection:
            known = connection.execute(sa.select(meta.c.value).where(meta.c.name == KEY_ROW)).scalar_one_or_none()
            if known is None:
                connection.execute(sa.insert(meta).values(name=KEY_ROW, value=mine))
        if known not in (None, mine):
            raise VaultError(f"the database needs the key {known}; the key here is {mine}", code=WRONG_KEY)


def known_key(database: Database) -> str | None:
    """Id, in hex, of the key that the database's secrets are sealed with; None before the first start."""
    with database.read() as connection:
        return connection.execute(sa.select(meta.c.value).where(meta.c.name == KEY_ROW)).scalar_one_or_none()


def _bound(purpose: str) -> bytes:
    return b"hypersdk:1:" + purpose.encode("utf-8")


def forget_answers(connection: sa.Connection) -> None:
    """Deletes the stored answers to repeated requests, which are sealed. Their keys stay: a repeated submit creates no
    second jobs."""
    connection.execute(sa.update(idempotency).values(status=None, answer=None, taken_at=None))


def forget_sealed(database: Database) -> int:
    """Deletes every sealed secret and the key's id, after a key was lost; returns how many endpoints and jobs need
    their password again."""
    with database.write() as connection:
        connection.execute(sa.delete(meta).where(meta.c.name == KEY_ROW))
        forget_answers(connection)
        changed = [
            connection.execute(sa.update(table).where(table.c.secret.is_not(None)).values(secret=None)).rowcount
            for table in (endpoints, jobs)
        ]
    return sum(changed)
