"""The step ``convert`` with a converter that only marks the disks: what the folder has after each way it can end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from hypersdk.errors import Cancelled, HyperSDKError, IntegrityError, Refused, TargetError
from hypersdk.guest.faults import ConversionError
from hypersdk.guest.overlay import commit_overlay, create_overlay
from hypersdk.guest.request import DiskKey
from hypersdk.guest.tools import GuestTools, find_tools
from hypersdk.landing import commit, convert
from hypersdk.landing.commit import converted_drivers
from hypersdk.landing.guests import open_manifest
from hypersdk.landing.landings import CleanedUp, clean_conversion
from hypersdk.landing.record import ConversionState, LandingFile, StepState, read_landing
from hypersdk.landing.verifying import VERIFY_COMMITTING, VERIFY_CONVERTING, verify_export
from hypersdk.migration.manifest import seal
from hypersdk.migration.naming import LANDING_FILE, MANIFEST_NAME
from hypersdk.migration.runfile import held_folder
from hypersdk.migration.spec import OutputFormat
from hypersdk.migration.verify import verify_directory
from hypersdk.model import Firmware
from hypersdk.model.guestplan import GuestDrivers
from hypersdk.secret import Secret
from hypersdk.simulator import DiskSpec, MachineSpec
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.space import SpaceLedger
from hypersdk.units import MiB
from tests.support.exporter import Engine
from tests.support.exports import export_folder
from tests.support.guestconversions import (
    DRIVERS,
    MARK,
    MARK_AT,
    WARNING,
    MarkingConverter,
    guest_bytes,
    killed,
    mark,
    run_conversion,
    tools_found,
)
from tests.support.guestdisks import make_bios_disk
from tests.support.seeds import SEED
from tests.support.simulator import SimulatorFactory
from tests.support.tools import run_tool, sha256
from tests.support.waiting import eventually

FORMATS = ("qcow2", "raw")


def images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in {".qcow2", ".raw"})


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in images(folder)}


def overlays(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".overlay")]


def marked(data: bytes) -> bytes:
    return data[:MARK_AT] + MARK + data[MARK_AT + len(MARK) :]


def assert_verified(folder: Path) -> None:
    report = verify_directory(folder, cancel=CancelToken())
    assert [finding.message for finding in report.findings] == []
    assert not report.unchecked


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("sha", [False, True])
def test_the_images_are_converted_and_the_manifest_says_so(tmp_path: Path, image_format: str, sha: bool) -> None:
    folder = export_folder(tmp_path / "web-01", disks=2, image_format=image_format, sha=sha)
    assert_verified(folder)
    before, was = open_manifest(folder), digests(folder)
    contents = [guest_bytes(path, image_format, tmp_path) for path in images(folder)]
    assert run_conversion(folder, MarkingConverter()) == DRIVERS
    assert_verified(folder)
    assert [guest_bytes(path, image_format, tmp_path) for path in images(folder)] == [*map(marked, contents)]
    assert overlays(folder) == []
    after = open_manifest(folder)
    done = after.pipeline.convert
    assert (done.enabled, done.tool, done.version, done.warnings) == (True, "virt-v2v-in-place", "2.2.0", (WARNING,))
    assert done.received_manifest == before.metadata.hypersdk.manifest_digest
    assert [(file.name, file.bytes, file.checksum, file.tree) for file in done.received] == [
        (file.name, file.bytes, file.checksum, file.tree) for file in before.files
    ]
    assert {file.content_digest for file in done.received} == {"ab" * 32}
    assert [disk.hypersdk.content_digest for disk in after.disks] == [None, None]
    assert [bool(disk.checksum) for disk in after.disks] == [sha, sha]
    assert all(disk.hypersdk.tree != old.hypersdk.tree for disk, old in zip(after.disks, before.disks, strict=True))
    assert [(warning.stage, warning.message) for warning in after.warnings] == [("convert", WARNING)]
    assert digests(folder) != was


def test_a_key_for_all_is_given_for_the_volumes_that_are_encrypted(tmp_path: Path) -> None:
    """By their names: virt-v2v 2.2 ignores ``all``."""
    disks = [make_bios_disk(tmp_path), make_bios_disk(tmp_path, root="luks2", name="data.raw")]
    converter = MarkingConverter()
    run_conversion(export_folder(tmp_path / "web-01", raw=disks), converter, keys=(DiskKey(Secret("x")),))
    assert [request.encrypted for request in converter.runs] == [("/dev/sdb1",)]


def test_converted_once(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "web-01")
    run_conversion(folder, MarkingConverter())
    record, now, again = (folder / LANDING_FILE).read_bytes(), digests(folder), MarkingConverter()
    assert run_conversion(folder, again) == DRIVERS
    assert (again.runs, digests(folder), (folder / LANDING_FILE).read_bytes()) == ([], now, record)


def test_a_folder_without_its_record_is_not_converted_again(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "web-01")
    run_conversion(folder, MarkingConverter())
    (folder / LANDING_FILE).unlink()
    again = MarkingConverter()
    assert run_conversion(folder, again) == DRIVERS
    assert again.runs == []
    with held_folder(folder) as held:
        assert LandingFile.opened(held).done("convert") is not None


def test_a_later_export_in_the_folder_is_converted(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "web-01")
    run_conversion(folder, MarkingConverter())
    export_folder(folder, content=b"later")
    again = MarkingConverter()
    run_conversion(folder, again)
    assert len(again.runs) == 1
    assert_verified(folder)


def test_an_export_of_the_simulator_with_its_descriptor(
    simulator: SimulatorFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "check_images", lambda *_: ())  # its disk has no partitions
    engine = Engine(simulator(machines=(MachineSpec(name="m", disks=(DiskSpec(capacity_bytes=4 * MiB),)),)), tmp_path)
    engine.export("m", tmp_path / "out", format=OutputFormat.QCOW2)
    assert (tmp_path / "out" / "m.ovf").exists()
    converter = MarkingConverter()
    run_conversion(tmp_path / "out", converter)
    assert_verified(tmp_path / "out")
    assert str((tmp_path / "out" / "m-disk1.qcow2").stat().st_size) in (tmp_path / "out" / "m.ovf").read_text()
    received = open_manifest(tmp_path / "out").pipeline.convert.received
    assert [file.name for file in received] == ["m.ovf", "m-disk1.qcow2"]


def test_fields_of_other_programs_stay(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "web-01")
    document = json.loads((folder / MANIFEST_NAME).read_bytes())
    del document["metadata"]["hypersdk"]["manifest_digest"]
    document["disks"][0]["zone"] = document["zone"] = document["disks"][0]["hypersdk"]["zone"] = "a"
    (folder / MANIFEST_NAME).write_text(json.dumps(document))
    run_conversion(folder, MarkingConverter())
    after = json.loads((folder / MANIFEST_NAME).read_bytes())
    assert [after["zone"], after["disks"][0]["zone"], after["disks"][0]["hypersdk"]["zone"]] == ["a", "a", "a"]
    assert_verified(folder)
    run_conversion(folder, MarkingConverter(then=lambda: pytest.fail("it is converted")))


def test_a_manifest_of_another_program_is_written_anew(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "web-01", sha=True)
    document = json.loads((folder / MANIFEST_NAME).read_bytes())
    del document["metadata"]["hypersdk"], document["disks"][0]["hypersdk"]
    (folder / MANIFEST_NAME).write_text(json.dumps(document))
    run_conversion(folder, MarkingConverter())
    assert_verified(folder)
    assert run_conversion(folder, MarkingConverter(then=lambda: pytest.fail("it is converted"))) == DRIVERS


# --- failures ---------------------------------------------------------------------------------------------------------


def fails(error: BaseException) -> Callable[[], None]:
    def raises() -> None:
        raise error

    return raises


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize(
    "error",
    [
        ConversionError("no root device", code="conversion_failed"),
        Cancelled("stopped: test"),
        TargetError("no space"),
        KeyboardInterrupt(),
        RuntimeError("a bug"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failed_conversion_leaves_the_images_as_exported(
    tmp_path: Path, error: BaseException, image_format: str
) -> None:
    folder = export_folder(tmp_path / "web-01", disks=2, image_format=image_format)
    was = digests(folder)
    with pytest.raises(type(error)):
        run_conversion(folder, MarkingConverter(then=fails(error)))
    assert (digests(folder), overlays(folder)) == (was, [])
    assert_verified(folder)
    record = read_landing(folder)
    assert record is not None
    assert (record.conversion, record.steps["convert"].state) == (None, StepState.FAILED)
    run_conversion(folder, MarkingConverter())
    assert_verified(folder)


def test_cancelled_while_it_converts(tmp_path: Path) -> None:
    folder, cancel = export_folder(tmp_path / "web-01"), CancelToken()
    was = digests(folder)
    with pytest.raises(Cancelled):
        run_conversion(folder, MarkingConverter(then=lambda: cancel.cancel("test")), cancel=cancel)
    assert (digests(folder), overlays(folder)) == (was, [])


def test_a_full_file_system_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = export_folder(tmp_path / "web-01")
    was = digests(folder)
    monkeypatch.setattr(commit, "free_bytes", lambda _: 4096)
    with pytest.raises(TargetError) as raised:
        run_conversion(folder, MarkingConverter(then=fails(ConversionError("it ended with 1"))))
    assert raised.value.code == "no_space"
    assert (digests(folder), overlays(folder)) == (was, [])


def test_images_that_could_not_grow_are_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = export_folder(tmp_path / "web-01")
    was = digests(folder)
    monkeypatch.setattr(convert, "free_bytes", lambda _: 2 * MiB // 16)
    with pytest.raises(TargetError) as raised:
        run_conversion(folder, MarkingConverter())
    assert raised.value.code == "no_space"
    assert (digests(folder), overlays(folder)) == (was, [])


def test_its_space_is_reserved_until_the_images_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine's export must not take it between the look at the free space and the commit."""
    folder, ledger, reserved = export_folder(tmp_path / "web-01"), SpaceLedger(), []

    def looking(landing: LandingFile, tools: GuestTools, cancel: CancelToken) -> GuestDrivers:
        reserved.append(ledger.check(folder).promised_bytes)
        return commit.commit(landing, tools, cancel)

    monkeypatch.setattr(convert, "commit", looking)
    run_conversion(folder, MarkingConverter(), space=ledger)
    assert (reserved, ledger.check(folder).promised_bytes) == ([2 * MiB], 0)


def refused(folder: Path, **changes: object) -> HyperSDKError:
    """The error of a conversion that must not begin."""
    converter = MarkingConverter()
    with pytest.raises(HyperSDKError) as raised:
        run_conversion(folder, converter, **changes)  # type: ignore[arg-type]
    assert (converter.runs, overlays(folder)) == ([], [])
    return raised.value


def test_vmdk_is_refused_with_a_remedy(tmp_path: Path) -> None:
    error = refused(export_folder(tmp_path / "web-01", image_format="vmdk"))
    assert (type(error), error.code) == (Refused, "guest_format_unfit")


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "web-01", image_format="raw")
    os.truncate(images(folder)[0], 2 * MiB)
    error = refused(folder)
    assert (type(error), error.code) == (IntegrityError, "image_changed")


@pytest.mark.parametrize("sha", [False, True])
def test_a_damaged_image_is_not_given_new_digests(tmp_path: Path, sha: bool) -> None:
    folder = export_folder(tmp_path / "web-01", disks=2, image_format="raw", sha=sha)
    if sha:  # only that
        _without_trees(folder)
    with images(folder)[1].open("r+b") as file:
        file.seek(MiB // 2)
        file.write(b"flipped")
    was = digests(folder)
    with pytest.raises(IntegrityError) as raised:
        run_conversion(folder, MarkingConverter())
    assert raised.value.code == "image_changed"
    assert (digests(folder), overlays(folder)) == (was, [])
    assert codes(folder) == ["verify_flipped"]


def _without_trees(folder: Path) -> None:
    document = json.loads((folder / MANIFEST_NAME).read_bytes())
    for part in (*(disk["hypersdk"] for disk in document["disks"]), *document["metadata"]["hypersdk"]["files"]):
        part["tree"] = None
    (folder / MANIFEST_NAME).write_text(json.dumps(seal(document)))


def test_a_damage_ends_the_conversion_at_once(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "web-01", image_format="raw")
    cancelled: list[bool] = []
    with images(folder)[0].open("r+b") as file:
        file.write(b"flipped")
    with pytest.raises(IntegrityError):
        run_conversion(folder, MarkingConverter(until_cancelled=cancelled.append))
    assert cancelled == [True]


def test_an_image_with_a_backing_file_is_refused(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "web-01")
    secret = tmp_path / "secret.raw"
    secret.write_bytes(bytes(MiB))
    run_tool("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", secret, images(folder)[0])
    assert refused(folder).code == "image_has_backing_file"


def test_disks_without_anything_to_convert_are_refused_before_the_appliance_starts(tmp_path: Path) -> None:
    empty = tmp_path / "empty.raw"
    empty.touch()
    os.truncate(empty, MiB)
    assert refused(export_folder(tmp_path / "web-01", raw=[empty])).code == "nothing_to_convert"


def test_the_firmware_must_fit_the_disks(tmp_path: Path) -> None:
    error = refused(export_folder(tmp_path / "web-01", firmware=Firmware.EFI))
    assert error.code == "firmware_mismatch"


def test_a_missing_program_is_named_before_anything_begins(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "web-01")
    found = tools_found()
    tools = replace(found, paths={name: path for name, path in found.paths.items() if name != "virt-v2v-in-place"})
    assert refused(folder, tools=tools).code == "guest_tool_missing"


# --- kills ------------------------------------------------------------------------------------------------------------


def codes(folder: Path) -> list[str]:
    return [finding.code for finding in verify_export(folder, cancel=CancelToken()).findings]


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize(
    ("moment", "code", "as_exported"),
    [
        ("converting", VERIFY_CONVERTING, True),
        ("committing", VERIFY_COMMITTING, True),
        ("committed one", VERIFY_COMMITTING, False),
        ("before the manifest", VERIFY_COMMITTING, False),
        ("after the manifest", VERIFY_COMMITTING, False),
        ("dropped one", VERIFY_COMMITTING, False),
    ],
)
def test_killed_in_each_state(tmp_path: Path, image_format: str, moment: str, code: str, as_exported: bool) -> None:
    folder = export_folder(tmp_path / "web-01", disks=2, image_format=image_format)
    was = digests(folder)
    contents = [guest_bytes(path, image_format, tmp_path) for path in images(folder)]
    assert killed(folder, moment)
    assert codes(folder) == [code]
    assert (digests(folder) == was) is as_exported
    again = MarkingConverter()
    assert run_conversion(folder, again) == DRIVERS
    assert len(again.runs) == (moment == "converting")
    assert codes(folder) == []
    assert overlays(folder) == []
    assert [guest_bytes(path, image_format, tmp_path) for path in images(folder)] == [*map(marked, contents)]


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_folder_that_was_moved_is_finished(tmp_path: Path, image_format: str) -> None:
    folder = export_folder(tmp_path / "web-01", disks=2, image_format=image_format)
    assert killed(folder, "committed one")
    folder = folder.rename(tmp_path / "a, b: \u00fc")
    run_conversion(folder, MarkingConverter())
    assert codes(folder) == []
    assert overlays(folder) == []


def test_an_overlay_of_somebody_else_writes_into_no_other_file(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "web-01", image_format="raw")
    assert killed(folder, "committing")
    other = tmp_path / "other.raw"
    other.write_bytes(bytes(MiB))
    overlay = folder / overlays(folder)[0]
    overlay.unlink()
    create_overlay(find_tools(), overlay, other, "raw")
    mark(overlay)
    run_conversion(folder, MarkingConverter())
    assert other.read_bytes() == bytes(MiB)


def test_what_a_commit_left_is_not_written_into_a_later_export(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "web-01", disks=2)
    assert killed(folder, "committed one")
    export_folder(folder, disks=2, content=b"later")
    was = digests(folder)
    assert codes(folder) == [VERIFY_CONVERTING]
    assert clean_conversion(folder, find_tools(), state=None, cancel=CancelToken()) is CleanedUp.DROPPED
    assert (codes(folder), digests(folder)) == ([], was)


def test_without_its_overlay_an_interrupted_commit_is_an_error(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "web-01", disks=2)
    assert killed(folder, "committed one")
    (folder / overlays(folder)[0]).unlink()
    with pytest.raises(IntegrityError) as raised:
        run_conversion(folder, MarkingConverter())
    assert raised.value.code == "conversion_lost"


def test_a_running_conversion_is_said_to_run(tmp_path: Path) -> None:
    folder, seen = export_folder(tmp_path / "web-01"), []
    converter = MarkingConverter(then=lambda: seen.append(verify_export(folder, cancel=CancelToken())))
    run_conversion(folder, converter)
    (report,) = seen
    assert [finding.message for finding in report.findings] == ["the guest conversion of web-01 is running"]


def test_a_damage_that_the_conversion_did_not_make_is_found(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "web-01", image_format="raw")
    assert killed(folder, "converting")
    with images(folder)[0].open("r+b") as file:
        file.write(b"X")
    assert codes(folder) == [VERIFY_CONVERTING, "verify_flipped"]


@pytest.mark.kill
@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("case", range(6))
def test_killed_at_any_moment(tmp_path: Path, image_format: str, case: int) -> None:
    draw = random.Random(f"{SEED}/{image_format}/{case}")
    folder = export_folder(tmp_path / "web-01", disks=3, image_format=image_format)
    was = digests(folder)
    contents = [guest_bytes(path, image_format, tmp_path) for path in images(folder)]
    kills = 0
    while kills < 3 and killed(folder, delay_s=draw.uniform(0, 1.5)):
        kills += 1
        record = read_landing(folder)
        if record is None or record.conversion is None or record.conversion.state is ConversionState.CONVERTING:
            assert digests(folder) == was
    run_conversion(folder, MarkingConverter())
    assert codes(folder) == []
    assert overlays(folder) == []
    assert [guest_bytes(path, image_format, tmp_path) for path in images(folder)] == [*map(marked, contents)]
    assert converted_drivers(open_manifest(folder)) == DRIVERS


@pytest.mark.kill
@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("case", range(3))
def test_a_commit_is_repeated_whenever_it_was_killed(tmp_path: Path, image_format: str, case: int) -> None:
    """qemu-img itself is killed while it writes: the next one writes the same."""
    draw, tools, size = random.Random(f"{SEED}/{image_format}/{case}"), find_tools(), 96 * MiB
    base, overlay = tmp_path / f"base.{image_format}", tmp_path / "overlay"
    run_tool("qemu-img", "create", "-q", "-f", image_format, base, str(size))
    for start in range(0, size, 6 * MiB):
        run_tool("qemu-io", "-f", image_format, "-c", f"write -q -P 17 {start} 1M", base)
    create_overlay(tools, overlay, base, image_format)
    expected = bytearray(guest_bytes(base, image_format, tmp_path))
    for start in range(0, size, 4 * MiB):
        run_tool("qemu-io", "-f", "qcow2", "-c", f"write -q -P 90 {start} 2M", overlay)
        expected[start : start + 2 * MiB] = b"\x5a" * (2 * MiB)
    for _ in range(6):
        with subprocess.Popen(["qemu-img", "commit", "-q", "-d", overlay]) as process:
            time.sleep(draw.uniform(0, 0.1))
            process.kill()
    commit_overlay(tools, overlay, base, image_format)
    assert guest_bytes(base, image_format, tmp_path) == expected


COMMIT: Final = """
import signal, sys
from pathlib import Path
from tests.support.guestconversions import MarkingConverter, run_conversion, slow_commits, tools_found
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as the command does, which ends in order
folder, begun = Path(sys.argv[1]), Path(sys.argv[2])
run_conversion(folder, MarkingConverter(), tools=slow_commits(tools_found(), begun.parent, begun))
"""


@contextmanager
def committing(folder: Path, place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that converts and is about to commit."""
    begun = place / "begun"
    with subprocess.Popen([sys.executable, "-c", COMMIT, str(folder), str(begun)], start_new_session=True) as process:
        eventually(begun.exists)
        yield process


def test_a_commit_ends_with_the_process_that_wants_it(tmp_path: Path) -> None:
    """A qemu-img that is left over would lock the image: the next run could not begin."""
    folder = export_folder(tmp_path / "web-01")
    with committing(folder, tmp_path) as process:
        process.kill()
    run_conversion(folder, MarkingConverter())
    assert codes(folder) == []
    assert overlays(folder) == []
    eventually(lambda: not programs_with(str(tmp_path / "qemu-img")))


def programs_with(word: str) -> list[int]:
    """Processes that have it in their command line."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError):
                if word.encode() in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
    return found


def test_a_commit_is_not_interrupted_from_the_keyboard(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "web-01")
    with committing(folder, tmp_path) as process:
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 0
    assert codes(folder) == []
    assert converted_drivers(open_manifest(folder)) == DRIVERS


FULL_AT: Final = ("overlay", "commit", "manifest", "record")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
@pytest.mark.parametrize("moment", FULL_AT)
def test_a_file_system_that_fills_costs_nothing(tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one, at each step that writes. The images are as exported, or the next run finishes them."""
    with small_file_system(tmp_path / "small") as place:
        folder = export_folder(place / "web-01")
        was, filler = digests(folder), place / "filler"

        def full(call: Callable[..., Any]) -> Callable[..., Any]:
            def called(*arguments: Any, **named: Any) -> Any:
                fill(filler)
                return call(*arguments, **named)

            return called

        def much() -> None:
            (overlay,) = folder.glob(".*.overlay")
            run_tool("qemu-io", "-f", "qcow2", "-c", "write -q -P 3 256k 700k", overlay)

        owner, name = {
            "overlay": (convert, "create_overlay"),
            "commit": (commit, "commit_overlay"),
            "manifest": (commit, "converted_manifest"),
            "record": (convert._Conversion, "_part"),
        }[moment]
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, full(getattr(owner, name)))
            with pytest.raises(HyperSDKError) as raised:
                run_conversion(folder, MarkingConverter(then=much))
        assert raised.value.code == "no_space", raised.value
        assert (digests(folder) == was) or codes(folder) in ([VERIFY_COMMITTING], []), moment
        if moment in ("overlay", "record"):
            assert digests(folder) == was
        if moment == "overlay":
            assert overlays(folder) == []
        filler.unlink()
        run_conversion(folder, MarkingConverter(then=much))
        assert codes(folder) == []
        assert overlays(folder) == []
        assert digests(folder) != was


@contextmanager
def small_file_system(place: Path) -> Iterator[Path]:
    """An empty file system of 8 MiB in memory."""
    place.mkdir()
    run_tool("mount", "-t", "tmpfs", "-o", "size=8m", "none", place)
    try:
        yield place
    finally:
        run_tool("umount", place)


def fill(filler: Path) -> None:
    """Takes all space that is left."""
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
