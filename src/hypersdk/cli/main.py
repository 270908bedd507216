"""The entry of ``hyper2kvm``."""

from __future__ import annotations

import sys

from hypersdk.loading import loading

with loading():
    from hypersdk.cli.app import program

run = program.run

if __name__ == "__main__":
    sys.exit(run())
