"""A display that redraws itself in place, on a terminal whose size may change meanwhile.

Rich moves the cursor up by the lines that it drew. A terminal that became narrower has wrapped them, and one that
became lower has scrolled some of them away, to bring them back when it is enlarged: they would stay as remains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment

_ERASE_LINE: Final = 2
"""Parameter of the control sequence EL: the whole line."""


class Frame:
    """Shows ``inner``, and remembers how many cells each of its lines has."""

    def __init__(self, inner: RenderableType) -> None:
        self.inner = inner
        self.cells: list[int] = []

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        lines = console.render_lines(self.inner, options, pad=False)
        self.cells = [Segment.get_line_length(line) for line in lines]
        for line in lines:
            yield from line
            yield Segment.line()


class Remains:
    """Where the last frame is on a terminal that has changed its size since."""

    def __init__(self) -> None:
        self._size = (0, 0)
        self._scrolled_away = 0

    def rows_above(self, cells: Iterable[int], width: int, height: int) -> int:
        """Rows above those that the frame was drawn in which may still show parts of frames. ``cells`` are the lengths
        of its lines. Called once per frame."""
        lines = list(cells)
        rows = sum(max(-(-length // width), 1) for length in lines)
        grown = width > self._size[0] or height > self._size[1]
        self._size = (width, height)
        self._scrolled_away += max(rows - height, 0)
        return min(rows, height) - min(len(lines), height) + (min(self._scrolled_away, height) if grown else 0)


class LiveDisplay(Live):
    """``rich.live.Live`` that leaves no remains after a resize."""

    def __init__(self, renderable: RenderableType, *, console: Console, **settings: Any) -> None:
        self._frame = Frame(renderable)
        self._remains = Remains()
        super().__init__(self._frame, console=console, **settings)

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Erases what the terminal has moved away from where it was drawn, before the next frame."""
        processed = super().process_renderables(renderables)
        if not self.console.is_interactive:
            return processed
        width, height = self.console.size
        rows = self._remains.rows_above(self._frame.cells, width, height)
        erase = Control(*((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, _ERASE_LINE)) * rows)
        return [processed[0], erase, *processed[1:]]
