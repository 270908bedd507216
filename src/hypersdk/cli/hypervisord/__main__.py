"""``python -m hypersdk.cli.hypervisord``: how the daemon starts its processes."""

from __future__ import annotations

import sys

from hypersdk.cli.hypervisord.main import run

sys.exit(run())
