"""What a proof takes from libvirt's events and agents, and who owns the images after it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hypersdk.kvm.library import libvirt
from hypersdk.kvm.proofguest import _failure_of, _same_owners, _system
from hypersdk.kvm.prove import ACCELERATED, EMULATED, Limits, ProofOptions


@pytest.mark.parametrize(
    ("event", "detail", "code"),
    [
        ("SUSPENDED", "SUSPENDED_IOERROR", "boot_io_error"),
        ("SUSPENDED", "SUSPENDED_PAUSED", None),
        ("STARTED", "STARTED_BOOTED", None),
        ("CRASHED", "CRASHED_PANICKED", "boot_crashed"),
        ("STOPPED", "STOPPED_CRASHED", "boot_crashed"),
        ("STOPPED", "STOPPED_FAILED", "boot_crashed"),
        ("STOPPED", "STOPPED_SHUTDOWN", "boot_stopped"),
        ("STOPPED", "STOPPED_DESTROYED", "boot_stopped"),
    ],
)
def test_events(event: str, detail: str, code: str | None) -> None:
    module = libvirt()
    numbers = (getattr(module, f"VIR_DOMAIN_EVENT_{name}") for name in (event, detail))
    error = _failure_of(module, *numbers)
    assert (error and error.code) == code


def test_what_an_agent_tells_is_one_clean_line() -> None:
    facts = {"os.pretty-name": "Debian\x1b[2J\nGNU/Linux", "os.kernel-release": "6.1.0"}
    assert _system(facts) == "Debian\\x1b[2J\\nGNU/Linux, kernel 6.1.0"
    assert _system({}) == "a guest agent without facts"


def test_images_are_given_back_to_their_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "disk.raw"
    image.touch()
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    warnings: list[str] = []
    os.chown(image, 1234, 1235)
    with _same_owners((str(image), str(tmp_path / "missing")), warnings.append):
        os.chown(image, 64055, 64055)
    assert (image.stat().st_uid, image.stat().st_gid, warnings) == (1234, 1235, [])

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError

    with _same_owners((str(image),), warnings.append):
        os.chown(image, 64055, 64055)
        monkeypatch.setattr("hypersdk.kvm.proofguest.os.chown", refused)
    assert len(warnings) == 1
    assert str(image) in warnings[0]


def test_limits() -> None:
    assert ProofOptions().limits(accelerated=True) == ACCELERATED
    assert ProofOptions().limits(accelerated=False) == EMULATED
    assert ProofOptions(timeout_s=5).limits(accelerated=True) == Limits(5, ACCELERATED.stable_s)
