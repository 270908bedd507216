"""The entry of ``hyperctl``."""

from __future__ import annotations

import sys

from hypersdk.cli.hyperctl.app import run

__all__ = ["run"]

if __name__ == "__main__":
    sys.exit(run())
