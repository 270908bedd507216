"""virt-v2v's messages become events, stages and errors with a code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.guest import failures
from hypersdk.guest.failures import failure
from hypersdk.guest.findings import HAS_VIRTIO, drivers_of, read_facts, system_of
from hypersdk.guest.messages import MAX_KEPT, MAX_TEXT, MessageReader
from hypersdk.guest.report import ConversionEvent, EventKind, stages
from hypersdk.model.guestplan import DiskBus, NicModel


def message(kind: str, text: str) -> bytes:
    return json.dumps({"message": text, "timestamp": "2026-01-02T03:04:05.000000000+00:00", "type": kind}).encode()


def test_a_warning_does_not_take_the_place_of_the_stage() -> None:
    shown: list[str] = []
    reader = MessageReader(stages(shown.append))
    reader.read(message("message", "Converting Debian to run on KVM"))
    reader.read(message("warning", "could not determine a way to update the configuration of Grub2"))
    reader.read(message("info", "This guest has virtio drivers installed."))
    assert shown == ["Converting Debian to run on KVM"]


def test_stages_have_times_and_no_percentage() -> None:
    times: Iterator[float] = iter([0.0, 1.0, 3.0, 3.5])
    events: list[ConversionEvent] = []
    reader = MessageReader(events.append, clock=lambda: next(times))
    reader.read(message("message", "Setting up the source: -i libvirtxml /tmp/x/source.xml"))
    reader.read(message("message", "Opening the  source\n"))
    reader.read(message("warning", "something\x1b[31m"))
    assert reader.warnings == ("something\\x1b[31m",)
    assert events == [
        ConversionEvent(EventKind.STAGE, "Setting up the source", 1.0),
        ConversionEvent(EventKind.STAGE, "Opening the source", 3.0),
        ConversionEvent(EventKind.WARNING, "something\\x1b[31m", 3.5),
    ]


@given(st.binary(max_size=300))
def test_any_line_is_read(line: bytes) -> None:
    MessageReader().read(line)


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"{}", b'{"message": 1}', b'{"type": "error"}', b"[" * 60_000, b'{"message":"x","type":[]}']
)
def test_what_is_no_message_is_ignored(line: bytes) -> None:
    events: list[ConversionEvent] = []
    reader = MessageReader(events.append)
    reader.read(line)
    assert (events, reader.errors) == ([], [])


def test_messages_are_bounded() -> None:
    events: list[ConversionEvent] = []
    reader = MessageReader(events.append)
    for index in range(2 * MAX_KEPT):
        for kind in ("message", "warning", "info", "error"):
            reader.read(message(kind, f"{index} {'x' * 5000}"))
    assert len(events) / 3 == len(reader.warnings) == len(reader.infos) == len(reader.errors) == MAX_KEPT
    assert max(map(len, reader.warnings)) == MAX_TEXT


KNOWN = [
    (failures.KEY_NEEDED, "could not read key from user"),
    (failures.NO_SYSTEM, "inspection could not detect the source guest (or physical machine) operating system."),
    (failures.NOT_INSTALLED, "libguestfs thinks this is not an installed operating system (it might be an installer)"),
    (failures.MULTI_BOOT, "multi-boot operating systems are not supported by virt-v2v. Use the --root option"),
    (failures.NO_SUCH_ROOT, "root device /dev/sda9 not found.  Roots found were: /dev/sda1 /dev/sdb1"),
    (failures.HIBERNATED, "unable to mount the disk image for writing. ... Windows Hibernation or Fast Restart"),
    (failures.HIBERNATED, "filesystem was mounted read-only, even though we asked for it to be mounted read-write."),
    (failures.DAMAGED, "detected errors on the XFS filesystem on /dev/sda2"),
    (failures.UNSUPPORTED, "virt-v2v is unable to convert this guest type (freebsd/freebsd)"),
    (failures.NO_BOOT_LOADER, "no bootloader detected"),
    (failures.NO_BOOT_LOADER, "no kernels were found in the bootloader configuration."),
    (failures.NO_KERNEL, "no installed kernel packages were found."),
    (failures.NO_KERNEL, "only Xen kernels are installed in this guest."),
    (failures.INITRAMFS, "unable to rebuild initrd (/boot/initrd.img) because update-initramfs was not found"),
    (failures.NO_ROOM, "not enough free space for conversion on filesystem ‘/boot’.  3.0 MB free < 50 MB needed"),
    (failures.VIRT_TOOLS, "One of rhsrvany.exe or pvvxsvc.exe is missing in /usr/share/virt-tools."),
    (failures.HOST_SPACE, "insufficient free space in the conversion server temporary directory /var/tmp (80.0M)."),
    (failures.IN_USE, 'qemu-img: Could not open: Failed to get shared "write" lock'),
    (failures.NBD, "nbdkit is not installed or not working.  It is required to use ‘-i libvirt|libvirtxml’."),
    (failures.NBD, "qemu-nbd did not start up.  See previous debugging messages for problems."),
    (failures.APPLIANCE, "libguestfs error: guestfs_launch failed."),
    (failures.KILLED, "libguestfs error: /usr/bin/qemu-system-x86_64 killed by signal 9 (Killed), see debug messages"),
    (failures.HOST_KERNEL, "libguestfs error: /usr/bin/supermin exited with error: no kernel was found"),
    ("conversion_failed", "something new"),
]  # fmt: skip


def test_several_operating_systems_are_named(tmp_path: Path) -> None:
    """The log as libguestfs 1.48 writes it, over the appliance's serial console."""
    log = tmp_path / "log"
    log.write_bytes(
        b"inspect_os: fses:\r\n"
        b"fs: /dev/sda1 (ext4) role: root\r\n    type: linux\r\n    distro: debian\r\n"
        b"    product_name: 12.15\r\n    fstab: [(/dev/sda1, /)]\r\n\r\n"
        b"fs: /dev/sda2 (ext4) role: other\r\n\r\n"
        b"fs: /dev/vg/root (ntfs) role: root\r\n    type: windows\r\n"
        b"    product_name: Windows Server 2019 \x1b[31m\r\n\r\n"
        b"inspect_get_roots: roots:\r\n/dev/sda1 (ext4):\r\n    type: linux\r\n"
    )
    error = failure(["multi-boot operating systems are not supported by virt-v2v."], log, 1)
    assert error.code == failures.MULTI_BOOT
    assert error.message.startswith("the disks hold several operating systems: /dev/sda1 (debian 12.15), /dev/vg/root")
    assert str(error.fields["roots"]).count("/dev/") == 2
    assert "\x1b" not in error.message


@pytest.mark.parametrize(("code", "text"), KNOWN)
def test_known_failures_have_a_code(tmp_path: Path, code: str, text: str) -> None:
    log = tmp_path / "log"
    log.write_text("nothing\n")
    error = failure([text], log, 1)
    assert (error.code, error.message) == (code, text)
    assert error.fields == {"log": str(log), "status": 1}
    log.write_text(f"supermin: version: 5.2\nvirt-v2v-in-place: error: {text}\n\nrm -rf -- '/tmp/x'\n")
    assert failure([], log, 1).code == code, "also where there was only the log"


def test_every_known_failure_is_tested() -> None:
    tested = {code for code, _text in KNOWN}
    assert {known.code for known in failures._MESSAGES} <= tested


def test_an_encrypted_guest_without_key_is_told_from_one_without_system(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("list_filesystems: /dev/sda1: crypto_LUKS\nvirt-v2v-in-place: error: x\n")
    assert failure(["inspection could not detect the source guest"], log, 1).code == failures.KEY_NEEDED


def test_a_kernel_that_cannot_be_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("cp: cannot open '/boot/vmlinuz-6.8.0-40-generic' for reading: Permission denied\nsupermin: cp -p")
    error = failure(["libguestfs error: /usr/bin/supermin exited with error status 1"], log, 1)
    assert error.code == failures.HOST_KERNEL


def test_without_any_message_the_status_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    assert failure([], log, 3).message == "virt-v2v ended with status 3"
    killed = failure([], log, 137)
    assert (killed.code, killed.message) == (failures.KILLED, "virt-v2v was killed by signal 9")


def test_a_disk_that_went_away_is_not_taken_for_one_without_a_system(tmp_path: Path) -> None:
    """The log of a conversion whose qemu-nbd was killed before the guest was looked at."""
    log = tmp_path / "log"
    log.write_text(
        "[ 17.173760] sd 2:0:0:0: [sda] tag#213 CDB: Synchronize Cache(10) 35 00 00 00 00 00 00 00 00 00\r\n"
        "[ 17.175122] I/O error, dev sda, sector 0 op 0x1:(WRITE) flags 0x800 phys_seg 0 prio class 2\r\n"
    )
    error = failure(["inspection could not detect the source guest (or physical machine)."], log, 1)
    assert error.code == failures.DISK_LOST


LOG = """\
virt-v2v-in-place: virt-v2v 2.2.0 (x86_64)
i_root = /dev/sda1
i_type = linux
i_distro = debian
i_osinfo = debian12
i_arch = x86_64
i_major_version = 12
i_minor_version = 15
i_product_name = 12.15
           gcaps_block_bus = virtio-blk
gcaps_net_bus = virtio-net
gcaps_virtio_rng = true
gcaps_virtio_balloon = false
i_type = forged by a guest
"""


def test_the_log_tells_system_and_drivers(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(LOG)
    facts = read_facts(log)
    system, drivers = system_of(facts), drivers_of(facts, [HAS_VIRTIO])
    assert (system.type, system.distro, system.osinfo, system.arch) == ("linux", "debian", "debian12", "x86_64")
    assert (system.product, system.major, system.minor, system.root) == ("debian 12.15", 12, 15, "/dev/sda1")
    assert (drivers.disk_bus, drivers.nic_model) == (DiskBus.VIRTIO, NicModel.VIRTIO)
    assert (drivers.rng, drivers.balloon, drivers.os_id) == (True, False, "debian12")


def test_without_the_word_of_virt_v2v_there_is_no_virtio_disk(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(LOG.replace("virtio-net", "rtl8139"))
    drivers = drivers_of(read_facts(log), ["This guest does not have virtio drivers installed."])
    assert (drivers.disk_bus, drivers.nic_model) == (DiskBus.SATA, NicModel.E1000E)


@given(st.binary(max_size=2000))
def test_any_log_is_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    log = tmp_path_factory.getbasetemp() / "any.log"
    log.write_bytes(content)
    facts = read_facts(log)
    system_of(facts)
    drivers_of(facts, [])
    failure([], log, 1)
