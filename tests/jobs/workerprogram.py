"""A worker as a process of its own: ``python -m tests.jobs.workerprogram CONFIG INDEX [edited]``.

``edited`` stands for a later release: the workflow is the same order of steps, its source another.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from hypersdk.jobs import engine
from hypersdk.jobs.process import work
from hypersdk.jobs.settings import load_settings


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(threadName)s %(name)s %(message)s")
    if "edited" in sys.argv[3:]:
        _edit()
    return work(load_settings(os.environ, Path(sys.argv[1]), {}), int(sys.argv[2]), os.environ)


def _edit() -> None:
    from dbos import DBOS

    @DBOS.workflow(name="attempt", max_recovery_attempts=engine.MAX_RECOVERIES)
    def attempt(job_id: str, number: int) -> dict[str, Any]:
        outcome = engine.export(job_id, number)
        return {**outcome, "release": "later"}

    engine.attempt = attempt


if __name__ == "__main__":
    sys.exit(main())
