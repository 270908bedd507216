"""``python -m hypersdk.cli.hypervisord``: how the daemon starts its own processes."""

from __future__ import annotations

import sys

from hypersdk.cli.hypervisord.app import run

if __name__ == "__main__":
    sys.exit(run())
