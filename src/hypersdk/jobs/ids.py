"""Ids of jobs: UUIDs of version 4, in small letters. Definitions may choose other ids, and daemons of earlier versions
did: ``job-`` and 12 digits. Nothing but the functions below depends on the form."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Sequence
from typing import Final

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_EARLIER: Final = re.compile(r"job-[0-9a-f]{12}")
EXAMPLE: Final = "0b9c3f5e-8a41-4d27-9c1b-6f2e7d5a3480"
"""For the OpenAPI document."""
LEAST_PREFIX: Final = 4
"""Characters of the shortest abbreviation that stands for a job: a shorter one is rather a slip."""


def new_id() -> str:
    """A random id. Jobs are listed by their number, so the id need not contain the time; one that did would be the same
    in its first digits for all jobs of a file, and could not be abbreviated."""
    return str(uuid.uuid4())


def derived_id(key: str, number: int) -> str:
    """The id of job ``number`` of the request with that key. It depends on nothing else, is as hard to guess as the
    key, and has the form of a random one."""
    return str(uuid.UUID(bytes=hashlib.sha256(f"{key}/{number}".encode()).digest()[:16], version=4))


def whole_id(text: str) -> str | None:
    """``text`` as an id if it has the form of a whole one; None if it may be an abbreviation, or an id that a
    definition chose."""
    if _UUID.fullmatch(text):
        return text.lower()
    return text if _EARLIER.fullmatch(text) else None


def short_ids(ids: Sequence[str]) -> Sequence[str]:
    """The ids for a narrow table: of a UUID the first 8 characters, or more where several of ``ids`` have them in
    common. Other ids are whole."""
    for length in (8, 13, 18):
        found = [text[:length] if _UUID.fullmatch(text) else text for text in ids]
        if len(set(found)) == len(set(ids)):
            return found
    return ids
