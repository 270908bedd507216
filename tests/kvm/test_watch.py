"""What a proof makes of a guest that stays as it is: a stand-in for the guest, which says the same for ever."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image, ImageDraw

from hypersdk.kvm import prove
from hypersdk.kvm.prove import ProofOptions
from hypersdk.kvm.screen import Picture, read_picture
from hypersdk.model.guestplan import Verdict
from hypersdk.transfer.cancel import CancelToken


def _screen() -> Picture:
    image = Image.new("RGB", (640, 480))
    ImageDraw.Draw(image).text((40, 40), "Welcome", (255, 255, 255), font_size=60)
    file = io.BytesIO()
    image.save(file, "PNG")
    return read_picture(file.getvalue())


@dataclass
class StandIn:
    """``says`` are the pieces that come from its serial port, one a look."""

    says: Iterator[bytes]
    domain: Any = field(default_factory=lambda: SimpleNamespace(serial="serial0", debug=None, accelerated=False))
    picture: Picture = field(default_factory=_screen)

    def read(self, _console: str) -> bytes:
        return next(self.says)

    def failure(self) -> None:
        return None

    def system(self) -> None:
        return None

    def screenshot(self) -> Picture:
        return self.picture


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prove, "_POLL_S", 0.01)
    monkeypatch.setattr(prove, "_SCREEN_EVERY_S", 0.02)
    monkeypatch.setattr(prove, "_WORTH_TELLING_S", 0.1)


def watched(says: Iterator[bytes], told: list[str], **wanted: Any) -> prove.Boot:
    guest: Any = StandIn(says)
    return prove._Watch(guest, ProofOptions(**wanted), told.append).wait(CancelToken())


def test_a_guest_that_only_repeats_itself_is_not_waited_for() -> None:
    told: list[str] = []
    boot = watched(itertools.repeat(b"alive\r\n"), told, stable_s=0.5, timeout_s=600)
    assert boot.verdict is Verdict.SCREEN_STABLE
    assert told[-1].startswith("waits for login, agent or a still screen (")


def test_a_guest_that_still_says_something_new_is_not_done() -> None:
    lines = (f"step {number}\r\n".encode() for number in itertools.count())
    boot = watched(lines, [], stable_s=0.5, timeout_s=2)
    assert boot.error is not None
    assert boot.error.code == "boot_unproved"
    assert "so that a screen that does not change" in str(boot.error.remedies)


def test_where_only_a_text_counts_the_advice_is_of_that_text() -> None:
    boot = watched(itertools.repeat(b"alive\r\n"), [], marker="READY", stable_s=0.1, timeout_s=1)
    assert boot.error is not None
    assert boot.error.message.startswith("'READY' did not appear within")
    assert "check its spelling" in str(boot.error.remedies)
    assert "a screen that does not change" not in str(boot.error.remedies)
