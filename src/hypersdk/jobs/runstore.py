"""The record of a job's run (journal, receipts, point in time) in the database, fenced by the job's epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from hypersdk.jobs.claims import Claim, Claims
from hypersdk.migration.register import Register


@dataclass(frozen=True, slots=True)
class DatabaseRuns:
    """A ``RunStore`` of one claimed job. Every write raises StaleAttempt, and writes nothing, once another worker has
    the job."""

    claims: Claims
    claim: Claim
    program: ClassVar[str] = "hypervisord"
    register: Register = field(default_factory=Register)

    @property
    def job(self) -> str:
        """See RunStore."""
        return self.claim.job.id

    def exists(self, folder: Path) -> bool:
        """See RunStore."""
        return self.read(folder) is not None

    def read(self, folder: Path) -> bytes | None:  # noqa: ARG002 - the job has one folder
        """See RunStore."""
        text = self.claims.read_run(self.claim)
        return None if text is None else text.encode()

    def write(
        self,
        folder: Path,  # noqa: ARG002
        record: bytes,
        open_changes: int,
        check: Callable[[], None] | None = None,  # noqa: ARG002
    ) -> None:
        """See RunStore. Nothing of it lies in the folder."""
        self.claims.write_run(self.claim, record.decode(), open_changes)

    def make_known(self, folder: Path, run_id: str) -> None:
        """See RunStore: nothing to do, the job knows it."""

    def remove(self, folder: Path, run_id: str) -> None:  # noqa: ARG002
        """See RunStore. The record is deleted in the transaction that ends the job: after a crash between publishing
        and that, the job publishes again, which changes nothing."""
        self.claims.check(self.claim)

    def check(self) -> None:
        """See RunStore."""
        self.claims.check(self.claim)
