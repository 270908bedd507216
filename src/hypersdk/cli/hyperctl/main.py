"""The entry point of ``hyperctl``."""

from __future__ import annotations

import os
import signal
import sys

from hypersdk.cli.hyperctl.app import program
from hypersdk.cli.report import EXIT_TERMINATED


def run() -> int:
    """Runs the program. SIGTERM ends it at once and silently, with the exit status that shells expect."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(EXIT_TERMINATED))
    return program.run()


if __name__ == "__main__":
    sys.exit(run())
