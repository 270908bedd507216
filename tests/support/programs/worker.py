"""A worker in a separate process: ``python -m tests.support.programs.worker CONFIG INDEX [die-after-enqueue]``.

``die-after-enqueue`` kills it between the engine's transaction and ours, at the first attempt that it hands over.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from hypersdk.jobs.settings import load_settings
from hypersdk.jobs.worker import run_worker


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(threadName)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if "die-after-enqueue" in sys.argv[3:]:
        _die_after_enqueue()
    return run_worker(load_settings(os.environ, Path(sys.argv[1]), {}), int(sys.argv[2]), os.environ, ready=_ready)


def _ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def _die_after_enqueue() -> None:
    from dbos import DBOS

    enqueue = DBOS.enqueue_workflow

    def last(*args: Any, **options: Any) -> None:
        enqueue(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    DBOS.enqueue_workflow = last  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    sys.exit(main())
