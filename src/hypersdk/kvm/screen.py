"""Pictures of a guest's screen: PNG for people, and what can be said of them without reading them.

Pillow, which they need, is in the same optional extra as libvirt's library. A proof without it has no pictures.
"""

from __future__ import annotations

import importlib.util
import io
from dataclasses import dataclass, field
from typing import Any, Final

from hypersdk.units import MiB

MAX_PICTURE_BYTES: Final = 64 * MiB
_MAX_PIXELS: Final = 16 * 1024 * 1024
_SAME: Final = 0.001
"""Part of the pixels that may differ in a picture that stays: a cursor blinks, a clock goes on."""
_BLANK: Final = 0.999
"""Part of the pixels in one colour from which a picture is blank: a cursor may stand in it."""
_MOSTLY: Final = 0.7
_ALMOST_ALL: Final = 0.95
_LIGHT: Final = 170


class PictureError(ValueError):
    """The data is not a picture that can be used."""


@dataclass(frozen=True, slots=True)
class Picture:
    """``blank``: one colour, but for a cursor. ``blue_screen``: light text on one strong blue, as Windows shows when it
    stops."""

    png: bytes
    blank: bool
    blue_screen: bool
    _pixels: Any = field(repr=False, compare=False)

    def is_like(self, other: Picture) -> bool:
        """Whether both show the same, but for a cursor or a clock."""
        from PIL import ImageChops

        if self._pixels.size != other._pixels.size:
            return False
        red, green, blue = ImageChops.difference(self._pixels, other._pixels).split()
        highest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
        width, height = highest.size
        return width * height - highest.histogram()[0] <= _SAME * width * height


def pictures_possible() -> bool:
    """Whether Pillow is installed."""
    return importlib.util.find_spec("PIL") is not None


def read_picture(data: bytes) -> Picture:
    """Reads a screenshot of libvirt (PNG or PPM). Raises PictureError."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "PPM")) as image:
            width, height = image.size
            if not 0 < width * height <= _MAX_PIXELS:
                raise PictureError(f"it has {width} x {height} pixels")
            pixels = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's, for damaged data
        raise PictureError(str(error)) from error
    shares = _colour_shares(pixels)
    return Picture(_png(pixels), shares[0][0] >= _BLANK, _is_blue_screen(shares), pixels)


def _png(pixels: Any) -> bytes:
    """Without what a guest's graphics card or libvirt may have put beside the pixels."""
    file = io.BytesIO()
    pixels.save(file, "PNG", optimize=True)
    return file.getvalue()


def _colour_shares(pixels: Any) -> list[tuple[float, tuple[int, int, int]]]:
    """Parts of the picture in each colour, largest first; colours that nearly are the same count as one."""
    coarse = pixels.point(lambda level: level & 0xF0)
    counts = coarse.getcolors(4096)
    total = pixels.size[0] * pixels.size[1]
    return sorted(((number / total, colour) for number, colour in counts), reverse=True)


def _is_blue_screen(shares: list[tuple[float, tuple[int, int, int]]]) -> bool:
    share, (red, green, blue) = shares[0]
    if share < _MOSTLY or share >= _BLANK or blue < 0x70 or blue - red < 0x50 or blue < 1.3 * green:
        return False
    light = sum(part for part, colour in shares[1:] if min(colour) >= _LIGHT)
    edges = sum(part for part, (r, _, b) in shares[1:] if b - r >= 0x30)  # of letters: between both
    return light > 0 and share + light + edges >= _ALMOST_ALL
