"""The picker, without a terminal or on one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from hypersdk.cli.picker.app import Picked, PickerApp
from hypersdk.cli.picker.choices import Choices
from hypersdk.migration.spec import ExportSpec
from hypersdk.model import MachineSummary
from hypersdk.units import GiB

Driver = Callable[[PickerApp, Pilot[Picked | None]], Awaitable[None]]
START = Choices(ExportSpec(machine="", output_dir=Path("/srv/images")))
KEYS = (
    "p",
    "w",
    "e",
    "b",
    "0",
    "down",
    "tab",
    "pagedown",
    "ctrl+o",
    "backspace",
    "backspace",
    "backspace",
    "backspace",
    "backspace",
)
SEQUENCES = {"down": "\x1b[B", "tab": "\t", "pagedown": "\x1b[6~", "ctrl+o": "\x0f", "backspace": "\x7f"}
PROGRAM = """
from pathlib import Path
from hypersdk.cli.picker.app import PickerApp
from tests.support.inventories import inventory
from tests.support.cli.picker import START
PickerApp(inventory(10_000), title="HyperSDK", start=START, free_bytes=lambda _: 1).run()
"""


class WatchedPicker(PickerApp):
    """Notes when it last drew something."""

    drawn = 0.0

    def _display(self, screen: Any, renderable: Any) -> None:
        super()._display(screen, renderable)
        self.drawn = time.perf_counter()


def drive(
    machines: Sequence[MachineSummary], driver: Driver, *, size: tuple[int, int] = (80, 24), **settings: Any
) -> Picked | None:
    """Runs the picker headless under ``driver``; returns what was picked."""
    app = WatchedPicker(
        machines, title="HyperSDK", start=settings.pop("start", START), free_bytes=lambda _: GiB, **settings
    )

    async def session() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await driver(app, pilot)

    asyncio.run(session())
    return app.return_value
