"""A conversion with a stand-in for virt-v2v: what it is given, and what becomes of what it says."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from pathlib import Path

import pytest

from hypersdk.errors import Cancelled, Refused, UsageError
from hypersdk.guest.conversion import LOG_NAME, convert_in_place
from hypersdk.guest.distribution import Distribution, Family
from hypersdk.guest.failures import NO_VIRTIO_WIN
from hypersdk.guest.faults import OPTION_UNSUPPORTED, ConversionError
from hypersdk.guest.findings import HAS_VIRTIO
from hypersdk.guest.report import ConversionEvent, ConversionReport, EventKind
from hypersdk.guest.request import ConversionRequest, Customization, DiskKey, StaticAddress
from hypersdk.guest.tools import QEMU_NBD, GuestTools
from hypersdk.model.guestplan import Acceleration, DiskBus
from hypersdk.remedies import advice
from hypersdk.secret import Secret
from hypersdk.transfer.cancel import CancelToken
from tests.support.guestprograms import GOOD_CONVERSION, HELP, fake_v2v, own_processes, script
from tests.support.guestrequests import source_disk, source_guest
from tests.support.tools import run_tool

GOOD = GOOD_CONVERSION
WITHOUT_VIRTIO = GOOD.replace(HAS_VIRTIO, "This guest does not have virtio drivers installed.")
ENCRYPTED = ("/dev/sda3", "/dev/vg/home")
NEWER = HELP + "--firstboot <SCRIPT>\n --memsize <mb> \n --smp <n>\n --update\n --run-command <CMD>\n"


@pytest.fixture
def request_(tmp_path: Path) -> ConversionRequest:
    return ConversionRequest(source_guest(source_disk(tmp_path / "o.qcow2")), acceleration=Acceleration.TCG)


def convert(
    request: ConversionRequest, tools: GuestTools, folder: Path, cancel: CancelToken | None = None
) -> ConversionReport:
    return convert_in_place(request, tools, folder=folder, cancel=cancel or CancelToken())


def test_a_conversion(tmp_path: Path, request_: ConversionRequest) -> None:
    events: list[ConversionEvent] = []
    tools = fake_v2v(tmp_path, GOOD)
    report = convert_in_place(request_, tools, folder=tmp_path, cancel=CancelToken(), on_event=events.append)
    assert report.system.type == "linux"
    assert report.drivers.disk_bus is DiskBus.VIRTIO
    assert report.warnings == ("could not determine a way to update the configuration of Grub2",)
    assert events[0].text == "Setting up the source"
    assert [event.kind for event in events] == [EventKind.STAGE, EventKind.WARNING, EventKind.INFO]
    assert (report.log, report.version) == (tmp_path / LOG_NAME, "2.2.0")
    assert "i_type = linux" in report.log.read_text()


def test_what_it_is_given(tmp_path: Path, request_: ConversionRequest) -> None:
    look = f'printf "%s\\n" "$@" >{tmp_path}/arguments; env >{tmp_path}/environment;'
    look += f' cp "$TMPDIR"/key* "$TMPDIR"/firstboot* {tmp_path};'
    look += f' stat -c %a "$TMPDIR"/key0 "$TMPDIR"/key1 >{tmp_path}/modes; eval cp \\"\\${{$#}}\\" {tmp_path}/in.xml;'
    (tmp_path / "key file").write_bytes(b"from a file\n")
    asked = replace(
        request_,
        encrypted=ENCRYPTED,
        keys=(DiskKey(Secret("open sesame")), DiskKey(tmp_path / "key file", "/dev/sda3")),
        static_addresses=(
            StaticAddress("00:50:56:ab:cd:01", ipaddress.ip_address("192.0.2.7"), ipaddress.ip_address("192.0.2.1"), 24,
                          (ipaddress.ip_address("192.0.2.2"), ipaddress.ip_address("192.0.2.3"))),
            StaticAddress("00:50:56:ab:cd:02", ipaddress.ip_address("2001:db8::7"), None, 64),
            StaticAddress("00:50:56:ab:cd:03", ipaddress.ip_address("192.0.2.8")),
        ),
        customizations=(
            Customization("firstboot", "/srv/setup.sh"),
            Customization("update", ""),
            Customization("firstboot", "#!/bin/sh\necho hello\n", is_content=True),
        ),
    )  # fmt: skip
    convert(asked, fake_v2v(tmp_path, look + GOOD, options=NEWER), tmp_path)
    arguments = (tmp_path / "arguments").read_text().splitlines()
    environment = dict(line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines())
    private = environment["TMPDIR"]
    assert " ".join(arguments[2:]) == " ".join([
        "--root", "single",
        *(f"--key {device}:file:{private}/key0" for device in ("all", *ENCRYPTED)),
        f"--key /dev/sda3:file:{private}/key1",
        "--mac", "00:50:56:ab:cd:01:ip:192.0.2.7,192.0.2.1,24,192.0.2.2,192.0.2.3",
        "--mac", "00:50:56:ab:cd:02:ip:2001:db8::7,,64",
        "--mac", "00:50:56:ab:cd:03:ip:192.0.2.8",
        "--firstboot", "/srv/setup.sh", "--update", "--firstboot", f"{private}/firstboot2",
        "-i", "libvirtxml", f"{private}/source.xml",
    ])  # fmt: skip
    assert (tmp_path / "key0").read_bytes() == b"open sesame"
    assert (tmp_path / "key1").read_bytes() == b"from a file\n"
    assert (tmp_path / "firstboot2").read_bytes() == b"#!/bin/sh\necho hello\n"
    assert (tmp_path / "modes").read_text() == "600\n600\n"
    assert b"o.qcow2" in (tmp_path / "in.xml").read_bytes()
    assert not Path(private).exists()
    assert environment["LIBGUESTFS_BACKEND_SETTINGS"] == "force_tcg"
    assert environment["LIBGUESTFS_APPEND"] == "norandmaps"
    assert environment["LIBGUESTFS_CACHEDIR"] == "/var/tmp"


@pytest.mark.parametrize("name", ["\x01.qcow2", "\udcff.qcow2", "a\nb.qcow2"])
def test_a_disk_whose_path_xml_cannot_hold_is_given_by_a_link(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("the disk")
    look = f'cp "$TMPDIR/disk0" {tmp_path}/seen; grep -c "$TMPDIR/disk0" "$TMPDIR/source.xml" >{tmp_path}/named\n'
    asked = ConversionRequest(source_guest(source_disk(tmp_path / name)), acceleration=Acceleration.TCG)
    convert(asked, fake_v2v(tmp_path, look + GOOD), tmp_path)
    assert (tmp_path / "seen").read_text() == "the disk"
    assert (tmp_path / "named").read_text() == "1\n"


def test_the_operating_system_that_is_converted_can_be_chosen(tmp_path: Path, request_: ConversionRequest) -> None:
    look = f'printf "%s\\n" "$@" >{tmp_path}/arguments;'
    convert(replace(request_, root="/dev/vg/root"), fake_v2v(tmp_path, look + GOOD), tmp_path)
    assert "--root\n/dev/vg/root\n" in (tmp_path / "arguments").read_text()


def test_secrets_of_this_process_are_not_passed_on(
    tmp_path: Path, request_: ConversionRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERSDK_PASSWORD", "swordfish")
    convert(request_, fake_v2v(tmp_path, f"env >{tmp_path}/environment\n{GOOD}"), tmp_path)
    assert "swordfish" not in (tmp_path / "environment").read_text()


def test_options_that_this_virt_v2v_lacks_are_refused_before_it_starts(
    tmp_path: Path, request_: ConversionRequest
) -> None:
    tools = fake_v2v(tmp_path, f"touch {tmp_path}/started")
    asked = replace(request_, customizations=(Customization("firstboot", "x"), Customization("tar-in", "y")))
    with pytest.raises(Refused, match="'--firstboot', '--tar-in'") as caught:
        convert(asked, tools, tmp_path)
    assert caught.value.code == OPTION_UNSUPPORTED
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"keys": (DiskKey(Secret("x"), "a:b"),)},
        {"static_addresses": (StaticAddress("x", ipaddress.ip_address("192.0.2.1")),)},
        {"customizations": (Customization("password", "root:password:x"),)},
        {"customizations": (Customization("-v", ""),)},
        {"guest": source_guest()},
        {"root": "ask"},
        {"root": "/dev/sda1 --x"},
    ],
)
def test_values_that_are_not_valid(tmp_path: Path, request_: ConversionRequest, wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        convert(replace(request_, **wrong), fake_v2v(tmp_path, "", options=NEWER), tmp_path)  # type: ignore[arg-type]


def test_a_failure_has_the_code_of_its_message_and_the_log(tmp_path: Path, request_: ConversionRequest) -> None:
    with pytest.raises(ConversionError, match="no bootloader detected") as caught:
        convert(request_, fake_v2v(tmp_path, 'say error "no bootloader detected"; exit 1'), tmp_path)
    assert caught.value.code == "guest_no_boot_loader"
    assert caught.value.fields["log"] == str(tmp_path / LOG_NAME)


def test_data_that_were_not_written_fail_a_conversion_that_virt_v2v_calls_good(
    tmp_path: Path, request_: ConversionRequest
) -> None:
    """Its qemu-nbd was killed before the last flush: virt-v2v 2.2 ends with status 0 then."""
    lost = "[  147.322836] I/O error, dev sda, sector 0 op 0x1:(WRITE) flags 0x800 phys_seg 0 prio class 2"
    with pytest.raises(ConversionError, match="I/O error, dev sda, sector") as caught:
        convert(request_, fake_v2v(tmp_path, f"{GOOD}\necho '{lost}' >&2"), tmp_path)
    assert (caught.value.code, caught.value.exit_status) == ("guest_disk_lost", 15)


def test_windows_without_virtio_drivers_is_an_error_unless_it_is_allowed(
    tmp_path: Path, request_: ConversionRequest
) -> None:
    tools = fake_v2v(tmp_path, f"system=windows\n{WITHOUT_VIRTIO}")
    with pytest.raises(ConversionError) as caught:
        convert(request_, tools, tmp_path)
    assert caught.value.code == NO_VIRTIO_WIN
    assert "VIRTIO_WIN" in advice(caught.value.remedies), "Debian has no package"
    with pytest.raises(ConversionError) as caught:
        convert(request_, replace(tools, distribution=Distribution(Family.FEDORA)), tmp_path)
    assert "sudo dnf install virtio-win" in advice(caught.value.remedies)
    allowed = convert(replace(request_, require_virtio=False), tools, tmp_path)
    assert allowed.drivers.disk_bus is DiskBus.SATA


def test_linux_without_virtio_drivers_gets_emulated_disks(tmp_path: Path, request_: ConversionRequest) -> None:
    tools = fake_v2v(tmp_path, WITHOUT_VIRTIO)
    assert convert(request_, tools, tmp_path).drivers.disk_bus is DiskBus.SATA
    with pytest.raises(ConversionError):
        convert(replace(request_, require_virtio=True), tools, tmp_path)


def test_a_cancel(tmp_path: Path, request_: ConversionRequest) -> None:
    cancel = CancelToken()
    tools = fake_v2v(tmp_path, 'say message "Opening the source"; sleep 600')
    with pytest.raises(Cancelled):
        convert_in_place(
            request_, tools, folder=tmp_path, cancel=cancel, on_event=lambda event: cancel.cancel("enough")
        )
    assert own_processes(str(tmp_path / "virt-v2v-in-place")) == []


def test_the_log_of_an_earlier_attempt_is_replaced(tmp_path: Path, request_: ConversionRequest) -> None:
    (tmp_path / LOG_NAME).write_text("i_type = windows\n")
    assert convert(request_, fake_v2v(tmp_path, GOOD), tmp_path).system.type == "linux"


NBD = """
qemu-nbd -t --socket "$TMPDIR/in0" --format qcow2 {folder}/o.qcow2 &
while ! [ -S "$TMPDIR/in0" ]; do sleep 0.01; done
tr '\\0' ' ' </proc/$!/cmdline >{folder}/served
qemu-io -f raw -c 'write -P 7 0 64k' "nbd+unix:///?socket=$TMPDIR/in0" >&2
kill $!; wait $!
"""


def test_the_disks_are_served_without_flushes_and_are_complete_at_the_end(
    tmp_path: Path, request_: ConversionRequest
) -> None:
    run_tool("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "o.qcow2", "1M")
    convert(request_, fake_v2v(tmp_path, NBD.format(folder=tmp_path) + GOOD), tmp_path)
    assert " --cache=unsafe -t --socket " in (tmp_path / "served").read_text()
    assert "read 65536/65536" in run_tool("qemu-io", "-r", "-c", "read -P 7 0 64k", tmp_path / "o.qcow2")


@pytest.mark.parametrize("chosen", ["--cache=none", "--cache writeback", "-n"])
def test_a_cache_mode_that_virt_v2v_chooses_counts(tmp_path: Path, request_: ConversionRequest, chosen: str) -> None:
    server = script(tmp_path / "its qemu-nbd", f'printf "%s\\n" "$@" >{tmp_path}/arguments\n')
    tools = fake_v2v(tmp_path, f"qemu-nbd -t {chosen} disk\n{GOOD}")
    convert(request_, replace(tools, paths={**tools.paths, QEMU_NBD: str(server)}), tmp_path)
    assert (tmp_path / "arguments").read_text().split() == ["-t", *chosen.split(), "disk"]
