"""`hyper2kvm layout`: what lies on disks, told to people and to programs."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.cells import cell_len

from hypersdk.model import Firmware
from hypersdk.units import MiB
from tests.support.cli.commandline import environment, program, run, terminal
from tests.support.exports import export_folder
from tests.support.guestdisks import (
    PHYSICAL_VOLUME,
    empty,
    make_bios_disk,
    make_content,
    make_uefi_disk,
    partition,
    put,
)

LOADERS = ("EFI/debian/shimx64.efi", "EFI/debian/grubx64.efi")


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good machine, one with a warning, and one that is refused."""
    made, folder = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("exports")
    export_folder(folder / "bios-01", name="bios-01", raw=[make_bios_disk(made)])
    export_folder(folder / "uefi-01", name="uefi-01", raw=[make_uefi_disk(made, *LOADERS)], firmware=Firmware.EFI)
    lvm = partition(empty(made / "lvm.raw", 80 * MiB), "label: dos\nstart=2048, type=8e, bootable\n")
    put(lvm, 0, b"\xeb")
    put(lvm, 1 * MiB, PHYSICAL_VOLUME)
    put(lvm, 2 * MiB, make_content(made / "root", "luks2"))
    export_folder(folder / "lvm-01", name="lvm-01", raw=[lvm, make_content(made / "data", "xfs")])
    return folder


def test_one_machine_that_is_fine(exports: Path) -> None:
    done = run("layout", str(exports / "bios-01"))
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"bios-01  BIOS  {exports}/bios-01",
        "Volume         Size  Type   Content  Details",
        "/dev/sda   64.0 MiB  disk   MBR      bios-01-disk1.qcow2, boot code",
        "/dev/sda1  63.0 MiB  Linux  ext4     active, 'label-ext4'",
        "✔ nothing that a guest conversion would refuse",
    ]


def test_a_warning_does_not_fail(exports: Path) -> None:
    done = run("layout", str(exports / "uefi-01"))
    assert done.status == 0
    assert (
        "/dev/sda1  32.0 MiB  EFI system  vfat     EFI/debian/shimx64.efi EFI/debian/grubx64.efi, 'LABELMT'" in done.out
    )
    assert "! no disk has the fallback loader EFI/BOOT/BOOTX64.EFI (uefi_no_fallback)" in done.out


def test_a_refusal_fails_unless_its_key_will_be_given(exports: Path) -> None:
    done = run("layout", str(exports / "lvm-01"))
    assert done.status == 6
    assert "/dev/vg_guest/root   24.0 MiB  volume     luks2" in done.out
    assert "✘ /dev/vg_guest/root (disk 1) is encrypted (LUKS2, UUID" in done.out
    assert "encrypted_without_key (exit status 6)" in done.err
    assert run("layout", str(exports / "lvm-01"), "--key-for", "/dev/vg_guest/root").status == 0
    assert run("layout", str(exports / "lvm-01"), "--key-for", "/dev/sdb").status == 6


def test_a_folder_of_exports_and_what_is_refused_of_it(exports: Path) -> None:
    done = run("layout", str(exports))
    assert done.status == 6
    names = [line.split()[0] for line in done.out.splitlines() if str(exports) in line]
    assert names == ["bios-01", "lvm-01", "uefi-01"]
    assert "1 of 3 machines would be refused by a guest conversion" in done.err
    assert str(exports / "lvm-01") in done.err


def test_images_and_what_cannot_be_read(exports: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.qcow2"
    broken.write_bytes(b"QFI\xfb" + bytes(100))
    image = exports / "bios-01" / "bios-01-disk1.qcow2"
    done = run("layout", str(image), str(broken))
    assert done.status == 10
    assert "bios-01-disk1.qcow2  firmware not known" in done.out
    assert "unreadable_image" in done.err
    assert "1 of 2 machines could not be read" in done.err
    assert run("layout", str(broken)).status == 8
    assert run("layout", str(tmp_path / "missing.raw")).status == 9


def test_json_has_every_fact(exports: Path) -> None:
    good, refused, warned, error = run("layout", "--json", str(exports)).events
    assert {event["type"] for event in (good, refused, warned)} == {"layout"}
    assert (good["name"], good["firmware"], good["findings"]) == ("bios-01", "bios", [])
    (disk,) = good["disks"]
    assert (disk["device"], disk["table"], disk["boot_code"], disk["size_bytes"]) == ("/dev/sda", "mbr", True, 64 * MiB)
    assert disk["partitions"][0]["content"]["kind"] == "ext4"
    assert refused["disks"][0]["partitions"][0]["content"]["group"]["volumes"][0]["content"]["kind"] == "luks"
    assert [(finding["code"], finding["refuses"]) for finding in refused["findings"]] == [
        ("encrypted_without_key", True)
    ]
    assert refused["findings"][0]["next_step"]
    assert warned["disks"][0]["partitions"][0]["content"]["efi"]["loaders"] == list(LOADERS)
    assert (error["type"], error["code"], error["refused"]) == ("error", "guests_refused", [str(exports / "lvm-01")])


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_wider_than_the_terminal(exports: Path, tmp_path: Path, width: int) -> None:
    command = program("layout", str(exports))
    with terminal(command, environment(tmp_path), size=(width, 24)) as shown:
        assert shown.finish() == 6
    lines = [line for line in shown.text.split("\n") if str(exports) not in line]
    assert max(map(cell_len, lines)) <= width
    assert any(line.startswith("/dev/vg_guest/root") for line in lines)
    assert any("encrypted_without_key" in line for line in lines)


def test_names_on_the_disk_cannot_draw(tmp_path: Path) -> None:
    disk = make_content(tmp_path / "disk.raw", "ext4")
    put(disk, 1024 + 120, b"\x1b[31mred\x07")
    done = run("layout", str(disk))
    assert done.status == 0
    assert "\x1b" not in done.out
    assert "\\x1b[31mred" in done.out


def test_a_group_on_two_disks_is_shown_once(tmp_path: Path) -> None:
    first, second = empty(tmp_path / "first", 64 * MiB), empty(tmp_path / "second", 64 * MiB)
    put(first, 0, PHYSICAL_VOLUME)
    put(first, 1 * MiB, make_content(tmp_path / "root", "ext4"))
    put(second, 0, PHYSICAL_VOLUME)
    put(second, 512 + 32, b"0123456789abcdefghijklmnopqrstuv")  # the volume's own UUID
    both = export_folder(tmp_path / "both", raw=[first, second])
    assert run("layout", str(both)).out.count("/dev/vg_guest/root") == 1
    alone = run("layout", str(export_folder(tmp_path / "alone", raw=[second]))).out
    assert alone.count("not seen  spread over several physical volumes") == 2
