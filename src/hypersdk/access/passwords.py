"""Passwords as argon2id hashes. A check takes the same time whether the user exists or not.

One hash takes 64 MiB (RFC 9106, second recommended option: t=3, p=4), so at most two are computed at a time: a flood
of logins has to wait and does not exhaust memory.
"""

from __future__ import annotations

import secrets
import threading
from functools import lru_cache
from typing import Final

import argon2

from hypersdk.access.faults import USER_INVALID
from hypersdk.errors import UsageError
from hypersdk.secret import Secret

MIN_LENGTH: Final = 12
"""NIST SP 800-63B demands 8 beside a second factor, 15 without one; there is lock-out here."""
MAX_LENGTH: Final = 1024

_HASHER: Final = argon2.PasswordHasher.from_parameters(argon2.profiles.RFC_9106_LOW_MEMORY)
_SLOTS: Final = threading.BoundedSemaphore(2)


def hash_password(password: Secret) -> str:
    """The hash to store. Raises UsageError ``user_invalid`` for a password that is too short or too long."""
    text = password.reveal()
    if not MIN_LENGTH <= len(text) <= MAX_LENGTH:
        raise UsageError(f"password: takes {MIN_LENGTH} to {MAX_LENGTH} characters", code=USER_INVALID)
    with _SLOTS:
        return _HASHER.hash(text)


def check_password(stored: str | None, password: Secret) -> bool:
    """Whether the password matches. With ``stored`` None (no such user, or a user without a password) the check
    takes as long and is always False."""
    text = password.reveal()[: MAX_LENGTH + 1]
    with _SLOTS:
        nobody = (
            _nobody()
        )  # also where it is not needed: otherwise the first check would take longer for an unknown user
        try:
            _HASHER.verify(stored or nobody, text)
        except argon2.exceptions.VerificationError:
            return False
    return stored is not None


def outdated(stored: str) -> bool:
    """Whether the hash was made with other than the current parameters."""
    return _HASHER.check_needs_rehash(stored)


@lru_cache(maxsize=1)
def _nobody() -> str:
    """Hash of a password that no user has."""
    return _HASHER.hash(secrets.token_urlsafe(32))
