"""The secrets of a job, sealed in one column of its row: the password of its server, and passphrases of disks.

A job without passphrases has the password alone there, as all jobs of earlier versions do. How many passphrases there
are is in its definition.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from hypersdk.access.vault import Vault
from hypersdk.secret import Secret

JOB_PASSWORD: Final = "job-password"  # noqa: S105 - the purpose that the vault binds it to


def seal_secrets(vault: Vault, password: Secret | None, passphrases: Sequence[Secret] = ()) -> bytes | None:
    """What is stored; None without any secret."""
    if passphrases:
        texts = [secret and secret.reveal() for secret in (password, *passphrases)]
        return vault.seal(Secret(json.dumps(texts)), JOB_PASSWORD)
    return None if password is None else vault.seal(password, JOB_PASSWORD)


def open_secrets(vault: Vault, sealed: bytes | None, passphrases: int) -> tuple[Secret | None, tuple[Secret, ...]]:
    """The password, and so many passphrases. Raises VaultError."""
    if sealed is None:
        return None, ()
    opened = vault.open(sealed, JOB_PASSWORD)
    if not passphrases:
        return opened, ()
    password, *others = json.loads(opened.reveal())
    return None if password is None else Secret(password), tuple(map(Secret, others))
