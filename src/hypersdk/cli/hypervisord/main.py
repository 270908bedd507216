"""The entry of ``hypervisord``."""

from __future__ import annotations

import sys

from hypersdk.cli.hypervisord.app import program

run = program.run

if __name__ == "__main__":
    sys.exit(run())
