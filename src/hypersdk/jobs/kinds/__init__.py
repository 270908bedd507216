"""The kinds of jobs. A new kind is a module here and a line in ``KINDS``."""

from __future__ import annotations

from typing import Final

from hypersdk.errors import UsageError, register
from hypersdk.jobs.kinds.base import JobKind
from hypersdk.jobs.kinds.import_ import Import
from hypersdk.jobs.kinds.migrate import Export, Migrate

KIND_UNKNOWN: Final = register(
    "kind_unknown", "There is no such kind of job.", "Correct the field `kind`; without it, a job is an export."
)
KINDS: Final[dict[str, JobKind]] = {kind.name: kind for kind in (Export(), Migrate(), Import())}


def kind_of(name: object) -> JobKind:
    """The kind of that name. Raises UsageError ``kind_unknown``."""
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        shown = ascii(name)[:60]
        raise UsageError(f"there is no kind of job {shown}; known are: {', '.join(sorted(KINDS))}", code=KIND_UNKNOWN)
    return kind
