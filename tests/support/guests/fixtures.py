"""Fixtures with a guest each, whose disks the test may change: copies in ``guest_folder``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.guests import bootsectors, windows
from tests.support.guests.debian import debian_guest as from_recipe
from tests.support.guests.guest import Guest


@pytest.fixture
def boot_sector_guest(guest_folder: Path) -> Guest:
    """Prints its marker once a second."""
    return bootsectors.boot_sector_guest("marker").copied(guest_folder)


@pytest.fixture
def echo_guest(guest_folder: Path) -> Guest:
    """Prints its marker, then sends letters from its serial port back with their case changed."""
    return bootsectors.boot_sector_guest("echo").copied(guest_folder)


@pytest.fixture
def writer_guest(guest_folder: Path) -> Guest:
    """Prints its marker, then writes numbers to its disk and prints each."""
    return bootsectors.boot_sector_guest("writer").copied(guest_folder)


@pytest.fixture
def debian_guest(guest_folder: Path) -> Guest:
    """A Debian that boots by BIOS, on one ext4."""
    return from_recipe("bios").copied(guest_folder)


@pytest.fixture
def debian_without_virtio(guest_folder: Path) -> Guest:
    """The same without virtio drivers in its initramfs: on virtio it boots only when it was converted."""
    return from_recipe("no-virtio").copied(guest_folder)


@pytest.fixture
def debian_lvm_guest(guest_folder: Path) -> Guest:
    """Debian by UEFI, without a loader in ``EFI/BOOT`` and without virtio drivers, its root file system on a logical
    volume, with a second disk that is mounted on ``/srv``."""
    return from_recipe("lvm").copied(guest_folder)


@pytest.fixture
def debian_luks_guest(guest_folder: Path) -> Guest:
    """Debian by UEFI, without virtio drivers, its root file system in a LUKS volume that ``passphrase`` opens."""
    return from_recipe("luks").copied(guest_folder)


@pytest.fixture
def debian_uefi_guest(guest_folder: Path) -> Guest:
    """Debian that boots by UEFI, with a loader for every firmware (``EFI/BOOT``)."""
    return from_recipe("uefi").copied(guest_folder)


@pytest.fixture
def debian_uefi_without_fallback(guest_folder: Path) -> Guest:
    """Debian that boots by UEFI only where the firmware knows its loader."""
    return from_recipe("uefi-no-fallback").copied(guest_folder)


@pytest.fixture
def windows_guest(guest_folder: Path) -> Guest:
    """What looks like a Windows guest to virt-v2v. It does not boot."""
    return windows.windows_guest().copied(guest_folder)


@pytest.fixture
def virtio_win(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Drivers of the virtio-win project and virt-v2v's own programs for Windows, by the variables that name their
    folders: files of the right names and kinds."""
    folder = windows.virtio_win_folder()
    monkeypatch.setenv("VIRTIO_WIN", str(folder))
    monkeypatch.setenv("VIRT_TOOLS_DATA_DIR", str(windows.virt_tools_folder()))
    return folder
