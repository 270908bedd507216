"""What pictures of a screen are taken for."""

from __future__ import annotations

import io

import pytest
from PIL import Image, ImageDraw

from hypersdk.kvm.screen import Picture, PictureError, read_picture

SIZE = (1024, 768)
WINDOWS_BLUE = (0, 120, 215)


def picture(image: Image.Image, file_format: str = "PNG") -> Picture:
    file = io.BytesIO()
    image.save(file, file_format)
    return read_picture(file.getvalue())


def screen(
    colour: tuple[int, int, int] = (0, 0, 0), text: str = "", ink: tuple[int, int, int] = (255, 255, 255)
) -> Image.Image:
    image = Image.new("RGB", SIZE, colour)
    draw = ImageDraw.Draw(image)
    for line in range(8 if text else 0):
        draw.text((80, 200 + 40 * line), text, ink, font_size=28)
    return image


def cursor(image: Image.Image) -> Image.Image:
    drawn = image.copy()
    ImageDraw.Draw(drawn).rectangle((0, 0, 8, 16), (200, 200, 200))
    return drawn


@pytest.mark.parametrize("file_format", ["PNG", "PPM"])
def test_a_picture_becomes_png(file_format: str) -> None:
    found = picture(screen(text="login"), file_format)
    assert found.png.startswith(b"\x89PNG")
    assert Image.open(io.BytesIO(found.png)).size == SIZE


def test_blank() -> None:
    assert picture(screen()).blank
    assert picture(cursor(screen())).blank
    assert picture(screen((0, 0, 170))).blank
    assert not picture(screen(text="Debian GNU/Linux 12")).blank


def test_the_same_picture_but_for_a_cursor() -> None:
    first = screen(text="Debian GNU/Linux 12")
    assert picture(first).is_like(picture(cursor(first)))
    assert not picture(first).is_like(picture(screen(text="Debian GNU/Linux 13")))
    assert not picture(first).is_like(picture(first.resize((640, 480))))


@pytest.mark.parametrize("colour", [WINDOWS_BLUE, (0, 0, 170), (16, 113, 170), (0, 0, 128)])
def test_blue_screens(colour: tuple[int, int, int]) -> None:
    stopped = picture(screen(colour, "Your PC ran into a problem and needs to restart."))
    assert stopped.blue_screen
    assert not stopped.blank


def test_other_blue_pictures() -> None:
    desktop = screen(WINDOWS_BLUE, "Recycle Bin")
    ImageDraw.Draw(desktop).rectangle((0, 700, 1023, 767), (16, 16, 16))  # the task bar
    dialog = screen(WINDOWS_BLUE, "Setup")
    ImageDraw.Draw(dialog).rectangle((200, 150, 800, 600), (240, 240, 240))
    for other in (desktop, dialog, screen(WINDOWS_BLUE), screen(text="blue"), screen((200, 30, 30), "stop")):
        assert not picture(other).blue_screen


@pytest.mark.parametrize("data", [b"", b"P6 1 1", b"\x89PNG\r\n\x1a\n" + bytes(50), b"GIF89a" + bytes(50)])
def test_damaged_pictures(data: bytes) -> None:
    with pytest.raises(PictureError):
        read_picture(data)


def test_a_picture_that_claims_to_be_huge_is_not_unpacked() -> None:
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    with pytest.raises(PictureError):
        read_picture(file.getvalue())
