"""Boots real boot sectors in a real qemu."""

from __future__ import annotations

import hashlib
import struct
import threading
import time
from pathlib import Path

import pytest

from hypersdk.errors import Cancelled, IntegrityError
from hypersdk.kvm.boot import find_qemu, prove_boot
from hypersdk.transfer.cancel import CancelToken


def boot_sector(text: bytes) -> bytes:
    """512 bytes that print ``text`` once on the first serial port (0x3f8) and halt. 16-bit code, loaded at 0x7c00."""
    code = bytes.fromhex(
        "fa31c08ed8"  # cli; xor ax,ax; mov ds,ax
        "be147c"  # mov si, 0x7c14
        "ba f803"  # mov dx, 0x3f8
        "ac84c07403ee"  # lodsb; test al,al; jz +3; out dx,al
        "ebf8"  # jmp back to lodsb
        "f4"  # hlt
    )
    assert len(code) == 0x14
    return (code + text + b"\0").ljust(510, b"\0") + struct.pack("<H", 0xAA55)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "with,comma and space.raw"
    path.write_bytes(boot_sector(b"MARKER-1 hello\r\n").ljust(1 << 20, b"\0"))
    return path


def test_marker_is_found_and_the_image_is_left_alone(image: Path) -> None:
    assert find_qemu(), "qemu-system-x86 is not installed"
    before = hashlib.sha256(image.read_bytes()).hexdigest()
    proof = prove_boot(image, marker="MARKER-1", timeout_s=60, cancel=CancelToken())
    assert proof is not None
    assert proof.line.endswith("MARKER-1 hello")
    assert hashlib.sha256(image.read_bytes()).hexdigest() == before


def test_another_text_is_no_proof(image: Path) -> None:
    with pytest.raises(IntegrityError) as caught:
        prove_boot(image, marker="MARKER-2", timeout_s=4, cancel=CancelToken())
    assert caught.value.code == "boot_unproved"
    assert "MARKER-1" in str(caught.value.fields["output"])


def test_cancel_ends_qemu(image: Path) -> None:
    cancel = CancelToken()
    timer = threading.Timer(0.5, cancel.cancel, ["test"])
    timer.start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        prove_boot(image, marker="MARKER-2", timeout_s=60, cancel=cancel)
    timer.join()
    assert time.monotonic() - started < 50, "it went on to its time-out"


def test_without_qemu_there_is_no_proof(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(image.parent))
    monkeypatch.setattr("hypersdk.kvm.boot.find_qemu", lambda: None)
    assert prove_boot(image, marker="x", timeout_s=1, cancel=CancelToken()) is None
