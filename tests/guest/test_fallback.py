"""Which loader is copied, and the dialog with guestfish that copies it. ``tests/guests`` does it in real guests."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypersdk.errors import Cancelled
from hypersdk.formats.guestdisk.assess import UEFI_NO_FALLBACK
from hypersdk.formats.guestdisk.records import ESP_GUID
from hypersdk.guest.fallback import Loader, add_fallback_loader, choose_loader
from hypersdk.guest.faults import ConversionError
from hypersdk.guest.guestfish import quoted
from hypersdk.guest.report import GuestSystem
from hypersdk.guest.tools import GUESTFISH, GuestTools
from hypersdk.transfer.cancel import CancelToken
from tests.support.guestprograms import own_processes, script
from tests.support.guestrequests import source_disk

DEBIAN = ["/EFI", "/EFI/debian", "/EFI/debian/shimx64.efi", "/EFI/debian/grubx64.efi", "/EFI/debian/mmx64.efi"]


@pytest.mark.parametrize(
    ("files", "loader"),
    [
        (DEBIAN, Loader("/EFI/debian/shimx64.efi", ("/EFI/debian/grubx64.efi", "/EFI/debian/mmx64.efi"))),
        (["/EFI/debian/shimx64.efi", "/EFI/debian/grubx64.efi", "/EFI/debian/grub.cfg"],
         Loader("/EFI/debian/shimx64.efi", ("/EFI/debian/grubx64.efi", "/EFI/debian/grub.cfg"))),
        (["/EFI/debian/grubx64.efi", "/EFI/debian/grub.cfg"], Loader("/EFI/debian/grubx64.efi")),
        (["/EFI/debian/shimx64.efi"], None),
        (["/efi/DEBIAN/GRUBX64.EFI"], Loader("/efi/DEBIAN/GRUBX64.EFI")),
        (["/EFI/arch/grubx64.efi", *DEBIAN], Loader(DEBIAN[2], tuple(DEBIAN[3:]))),
        (["/EFI/systemd/systemd-bootx64.efi"], Loader("/EFI/systemd/systemd-bootx64.efi")),
        (["/EFI/Microsoft/Boot/bootmgfw.efi"], Loader("/EFI/Microsoft/Boot/bootmgfw.efi")),
        (["/EFI/Microsoft/Boot/bootmgfw.efi", "/EFI/ubuntu/grubx64.efi"], Loader("/EFI/ubuntu/grubx64.efi")),
        (["/EFI/debian/grubia32.efi", "/readme.txt"], None),
        ([], None),
    ],
)  # fmt: skip
def test_the_loader_that_is_chosen(files: list[str], loader: Loader | None) -> None:
    assert choose_loader(files, "debian") == loader


GUESTFISH_BODY = """
while [ "$1" != -f ]; do shift; done
while read -r command; do
  echo "$command" >>{folder}/commands
  case "$command" in
    list-partitions) printf '/dev/sda1\\n/dev/sda2\\n/dev/sda3\\n';;
    "-part-get-gpt-type /dev/sda 1") echo {esp};;
    "-part-get-gpt-type /dev/sda 2") echo 0FC63DAF-8483-4772-8E79-3D69D8477DE4;;
    "-part-get-mbr-id /dev/sda 3") echo 0x83;;
    "find /") printf '%s\\n' {files};;
    "echo "*) $command;;
    quit) exit 0;;
  esac
done <"$2"
"""


def fake_guestfish(folder: Path, *files: str) -> GuestTools:
    path = script(folder / GUESTFISH, GUESTFISH_BODY.format(folder=folder, esp=ESP_GUID.upper(), files=" ".join(files)))
    return GuestTools({GUESTFISH: str(path)}, None, None)


def add(tools: GuestTools, folder: Path, cancel: CancelToken | None = None) -> str | None:
    return add_fallback_loader(
        [source_disk(folder / "o.qcow2")], GuestSystem(distro="debian", arch="x86_64"), tools,
        log=folder / "log", accelerated=False, cancel=cancel or CancelToken(),
    )  # fmt: skip


def test_the_copy(tmp_path: Path) -> None:
    assert add(fake_guestfish(tmp_path, *(file[1:] for file in DEBIAN)), tmp_path) == "/EFI/debian/shimx64.efi"
    commands = [line for line in (tmp_path / "commands").read_text().splitlines() if not line.startswith("echo")]
    assert commands == [
        "run", "list-partitions",
        "-part-get-gpt-type /dev/sda 1",
        "-part-get-gpt-type /dev/sda 2",
        "-part-get-gpt-type /dev/sda 3", "-part-get-mbr-id /dev/sda 3",
        "mount /dev/sda1 /", "find /",
        "mkdir-p /EFI/BOOT",
        'cp "/EFI/debian/shimx64.efi" /EFI/BOOT/BOOTX64.EFI',
        'cp "/EFI/debian/grubx64.efi" /EFI/BOOT/grubx64.efi',
        'cp "/EFI/debian/mmx64.efi" /EFI/BOOT/mmx64.efi',
        "umount /", "quit",
    ]  # fmt: skip


def test_one_that_exists_is_left_alone(tmp_path: Path) -> None:
    assert add(fake_guestfish(tmp_path, "EFI/debian/grubx64.efi", "EFI/boot/bootx64.efi"), tmp_path) is None
    assert "cp " not in (tmp_path / "commands").read_text()


def test_without_a_loader(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="no boot loader") as caught:
        add(fake_guestfish(tmp_path, "EFI/tools/memtest.efi"), tmp_path)
    assert caught.value.code == UEFI_NO_FALLBACK


def test_a_guestfish_that_fails_is_an_error_with_its_words(tmp_path: Path) -> None:
    path = script(tmp_path / GUESTFISH, "echo 'libguestfs: error: /usr/bin/supermin exited with error' >&2; exit 1")
    with pytest.raises(ConversionError, match="supermin") as caught:
        add(GuestTools({GUESTFISH: str(path)}, None, None), tmp_path)
    assert caught.value.code == "appliance_failed"


def test_a_cancel(tmp_path: Path) -> None:
    cancel = CancelToken()
    cancel.cancel("enough")
    with pytest.raises(Cancelled):
        add(GuestTools({GUESTFISH: str(script(tmp_path / GUESTFISH, "sleep 600"))}, None, None), tmp_path, cancel)
    assert own_processes(str(tmp_path / GUESTFISH)) == []


@pytest.mark.parametrize("name", ["/EFI/a b.efi", '/EFI/"$(x)".efi', "/EFI/ü\n.efi", "/EFI/\udcff"])
def test_any_name_of_a_file_is_one_word(name: str) -> None:
    word = quoted(name)
    assert word[0] == word[-1] == '"'
    inner = word[1:-1].encode().decode("unicode_escape")
    assert inner.encode("latin-1") == name.encode(errors="surrogateescape")
