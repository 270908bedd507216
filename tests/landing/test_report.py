"""Pages of machines and of runs: what they say, and that no name in them does anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hypersdk.errors import Cancelled, HyperSDKError, IntegrityError, Refused
from hypersdk.landing.guests import manifest_bytes
from hypersdk.landing.record import LandingFile
from hypersdk.landing.report import MachineReport, machine_page, read_report, run_page, write_machine_report
from hypersdk.landing.verifying import verify_export
from hypersdk.migration.manifest import document_text
from hypersdk.migration.naming import MANIFEST_NAME
from hypersdk.migration.runfile import Change, ChangeKind, held_folder
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from tests.support.exports import export_folder

PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
HOSTILE = "<img src=x onerror=alert(1)>\x1b[2J\u202e{uuid.__class__}"
CONVERT = {
    "enabled": True, "tool": "virt-v2v-in-place", "version": "2.2.0", "started_at": "2026-01-02T03:04:05+00:00",
    "ended_at": "2026-01-02T03:05:17+00:00", "guest": {"product": "Debian GNU/Linux 12"},
    "drivers": {"disk_bus": "virtio", "nic_model": "virtio"}, "fallback_loader": "EFI/BOOT/BOOTX64.EFI",
}  # fmt: skip
VALIDATE = {
    "enabled": True, "verdict": "login", "line": "web-01 login:", "seconds": 11.53, "accelerated": False,
    "ended_at": "2026-01-02T03:06:00+00:00", "screenshot": "screenshot.png", "serial_log": "serial.log",
}  # fmt: skip

_DOMAIN = {"uri": "qemu:///system", "uuid": "0001", "landing": "20260102-030405-abcdef", "in_place": []}


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return landed_folder(tmp_path / "web-01")


def landed_folder(folder: Path, name: str = "web-01", pipeline: Mapping[str, object] | None = None) -> Path:
    """An export that was converted, landed and proved."""
    export_folder(folder, name="web-01", disks=2)
    document = json.loads(manifest_bytes(folder))
    document["source"]["vm_name"] = name
    document["pipeline"] |= {"convert": CONVERT, "validate": VALIDATE} if pipeline is None else pipeline
    document["warnings"] = [{"stage": "convert", "message": f"{name}: GRUB was not updated", "timestamp": ""}]
    (folder / MANIFEST_NAME).write_bytes(document_text(document))
    (folder / "screenshot.png").write_bytes(PNG)
    (folder / "serial.log").write_text(f"Debian GNU/Linux 12 {name} ttyS0\nweb-01 login:\n")
    with held_folder(folder) as held:
        landing = LandingFile.opened(held)
        with landing.step("land") as step, landing.change("domain", _DOMAIN):
            step.result = {
                "name": "web-01",
                "uuid": "0001",
                "uri": "qemu:///system",
                "disks": ["/i/1", "/i/2"],
                "owner": "the domain",
            }
        with landing.step("prove") as step:
            step.result = {"warnings": ["2 images belong to another user"]}
    return folder


def test_a_machine(folder: Path) -> None:
    source = [
        Change(ChangeKind.SNAPSHOT, {}, made=True, undone=True),
        Change(ChangeKind.NETWORK, {}, made=True, kept=True),
        Change(ChangeKind.LEASE, {}, made=True, undone=True),
    ]
    page = Page(machine_page(read_report(folder, source=source, elapsed_s=184)))
    for told in (
        "web-01: landed and proved", "a login prompt appeared: web-01 login:", "12 s", "3 m 04 s", "Hard disk 1",
        "Debian GNU/Linux 12", "disks on virtio, network cards virtio", "EFI/BOOT/BOOTX64.EFI", "1 m 12 s",
        "qemu:///system", "/i/1, /i/2", "the domain 0001 defined", "a temporary snapshot", "undone",
        "kept: the landed machine runs in its place", "GRUB was not updated (convert)",
        "2 images belong to another user (prove)", "emulation",
    ):  # fmt: skip
        assert told in page.text, told
    assert "an export lease" not in page.text
    [picture] = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert picture is not None
    assert picture.startswith("data:image/png;base64,")


def test_the_page_needs_nothing_else_and_is_no_foreign_file(folder: Path) -> None:
    path = write_machine_report(read_report(folder))
    written = path.read_text()
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in written
    for mode in ("prefers-color-scheme: dark", "@media print", "max-width: 40rem"):
        assert mode in written
    assert verify_export(folder, cancel=CancelToken()).findings == ()


def test_hostile_names_do_nothing(tmp_path: Path) -> None:
    hostile = {
        "convert": {**CONVERT, "tool": HOSTILE, "fallback_loader": HOSTILE},
        "validate": {**VALIDATE, "verdict": HOSTILE, "line": HOSTILE},
    }
    folder = landed_folder(tmp_path / "x", HOSTILE, hostile)
    with held_folder(folder) as held:
        landing = LandingFile.opened(held)
        with landing.change(HOSTILE, {"uuid": HOSTILE}), landing.step(HOSTILE) as step:
            step.result = {"warnings": 7}
        with landing.step("prove") as step:
            step.result = {"warnings": HOSTILE}
    report = read_report(folder, error=Refused(HOSTILE, next_step=HOSTILE))
    for page in map(Page, (machine_page(report), run_page([report], began=datetime.now(UTC), elapsed_s=1))):
        assert "<img src=x onerror=alert(1)>\\x1b[2J\\u202e{uuid.__class__}" in page.text
        assert "\x1b" not in page.text
        assert not {"script", "iframe", "link"} & {tag for tag, _ in page.tags}
        assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
        assert {value for _, attributes in page.tags if (value := attributes.get("src"))} <= {picture(page)}


def picture(page: Page) -> str | None:
    found = [attributes.get("src") for tag, attributes in page.tags if tag == "img"]
    return found[0] if found and found[0] and found[0].startswith("data:image/png;") else None


@pytest.mark.parametrize("damage", ["manifest", "record", "screenshot", "all"])
def test_what_is_missing_or_damaged_is_left_out(folder: Path, damage: str) -> None:
    names = {"manifest": MANIFEST_NAME, "record": ".hypersdk-landing.json", "screenshot": "screenshot.png"}
    for kind, name in names.items():
        if damage in (kind, "all"):
            (folder / name).write_bytes(b"<script>")
    error = IntegrityError("the guest did not boot: it found no root file system", code="boot_no_root")
    page = Page(machine_page(read_report(folder, machine="web-01", error=error)))
    assert "web-01: failed" in page.text
    assert "boot_no_root" in page.text
    assert error.next_step in page.text
    assert bool(picture(page)) == (damage == "record"), "the manifest tells of the proof"


def test_a_huge_screenshot_is_left_out(folder: Path) -> None:
    (folder / "screenshot.png").write_bytes(PNG + bytes(2 * MiB))
    (folder / "serial.log").write_text("\n".join(f"line {number}" for number in range(100_000)))
    written = machine_page(read_report(folder))
    assert "<img" not in written
    assert "line 99999" in written
    assert len(written) < 100_000


def test_a_run(folder: Path, tmp_path: Path) -> None:
    good = read_report(folder, elapsed_s=184)
    write_machine_report(good)
    failed = MachineReport("db <1>", tmp_path / "db", None, None, error=Refused("no space"), next_step="Free space.")
    page = Page(run_page([good, failed], began=datetime(2026, 1, 2, 3, 4, tzinfo=UTC), elapsed_s=200, place=tmp_path))
    for told in (
        "1 of 2 machines landed on KVM",
        "Started 2026-01-02 03:04:00 UTC",
        "no space",
        "Free space.",
        "db <1>",
    ):
        assert told in page.text, told
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a"] == ["./web-01/report.html"]


def test_machines_that_the_same_helps_are_told_together_and_stopped_ones_have_not_failed(tmp_path: Path) -> None:
    def ended(name: str, error: HyperSDKError) -> MachineReport:
        return MachineReport(name, tmp_path / name, None, None, error=error, next_step="Do it.")

    reports = [ended(f"vm-{number}", Refused(f"'vm-{number}' is too old")) for number in (10, 9)]
    reports += [ended("vm-11", Cancelled("stopped: interrupted"))]
    page = Page(run_page(reports, began=datetime(2026, 1, 2, tzinfo=UTC), elapsed_s=1))
    assert "vm-9, vm-10" in page.text
    assert page.text.count("Do it.") == 2
    cards = page.text.partition("To do")[0].split()
    assert cards[cards.index("Failed") + 1] == "2"
    assert cards[cards.index("Stopped") + 1] == "1"


def test_a_narrow_screen_has_a_title_for_each_cell_and_no_column_is_empty(folder: Path, tmp_path: Path) -> None:
    page = Page(run_page([read_report(folder)], began=datetime(2026, 1, 2, tzinfo=UTC), elapsed_s=1, place=tmp_path))
    titles = [attributes["data-title"] for tag, attributes in page.tags if tag == "td"]
    assert titles[:2] == ["Machine", "Status"]
    assert "Time" not in titles, "it is not known"
