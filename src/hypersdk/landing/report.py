"""Reports of migrations: a page for each machine, beside its manifest, and one for a run.

::

    DIR/report.html        one machine: what moved, the proof, the steps, what was changed where and undone
    FILE.html              a run: totals, what failed, all machines with links to their pages

All facts come from the manifest, the record of the landing and the evidence in the folder; what is missing or damaged
there is left out, so that a failed migration has its page, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

from hypersdk import __version__
from hypersdk.errors import CODES, Cancelled, HyperSDKError
from hypersdk.htmlpage import Column, bullets, cards, facts, page, png, preformatted, table, text
from hypersdk.landing.changes import DOMAIN_CHANGE, IMAGE_CHANGE, STARTED_CHANGE, VOLUME_CHANGE
from hypersdk.landing.guests import open_manifest
from hypersdk.landing.prove import verdict_text
from hypersdk.landing.record import LAND, PROVE, LandingRecord, StepRecord, StepState, TargetChange, read_landing
from hypersdk.migration.manifest import ArtifactManifest, ConvertPart, DiskPart, ValidatePart
from hypersdk.migration.naming import REPORT_NAME, SCREENSHOT, SERIAL_LOG
from hypersdk.migration.readback import read_small
from hypersdk.migration.runfile import Change, ChangeKind
from hypersdk.text import count, natural_key
from hypersdk.transfer.files import NotRegularError, write_atomic
from hypersdk.units import GiB, MiB, format_duration, format_size

MAX_PICTURE_BYTES: Final = 1 * MiB
"""A larger screenshot is not put into the page."""
MAX_REASONS: Final = 5
"""Machines that failed with the same code: so many of their messages are shown."""
SERIAL_LINES: Final = 16
"""The end of the serial log is in the page."""
_MAX_SERIAL_BYTES: Final = 4 * MiB

_SOURCE: Final = {
    ChangeKind.POWER: "powered off",
    ChangeKind.CDROM: "ISO images taken out of the CD-ROM drives",
    ChangeKind.SNAPSHOT: "a temporary snapshot",
    ChangeKind.LEASE: "an export lease",
    ChangeKind.NETWORK: "network cards disconnected",
}
_TARGET: Final = {
    IMAGE_CHANGE: "the image {name} moved into place",
    VOLUME_CHANGE: "the volume {name} uploaded",
    DOMAIN_CHANGE: "the domain {uuid} defined",
    STARTED_CHANGE: "the domain {uuid} started",
}
_STATES: Final = {StepState.DONE: "good", StepState.FAILED: "bad", StepState.RUNNING: "warn", StepState.UNDONE: "warn"}


@dataclass(frozen=True, slots=True)
class MachineReport:
    """One machine. ``source`` are the changes to it, ``error`` is why its migration failed, ``next_step`` what helps in
    the words of the program. ``manifest`` and ``landing`` are None where there are none, or none that can be read."""

    machine: str
    folder: Path
    manifest: ArtifactManifest | None
    landing: LandingRecord | None
    source: tuple[Change, ...] = ()
    error: HyperSDKError | None = None
    next_step: str = ""
    elapsed_s: float | None = None
    screenshot: bytes | None = None
    serial: str = ""

    @property
    def proof(self) -> ValidatePart | None:
        """The boot proof; None where none was made."""
        part = self.manifest.pipeline.validate_ if self.manifest else None
        return part if part and part.enabled else None

    @property
    def stopped(self) -> bool:
        """Whether the user stopped it."""
        return isinstance(self.error, Cancelled)

    @property
    def landed(self) -> bool:
        """Whether its domain stands."""
        return self.step(LAND).state is StepState.DONE

    def step(self, name: str) -> StepRecord:
        """The record of a step; that of a waiting one where there is none."""
        return (self.landing.steps.get(name) if self.landing else None) or StepRecord()

    @property
    def outcome(self) -> tuple[str, str]:
        """In a few words, and the class of their colour."""
        if self.error is not None:
            return ("stopped", "warn") if self.stopped else ("failed", "bad")
        if not self.landed:
            return ("exported", "good") if self.manifest else ("not started", "")
        if self.proof is None:
            return "landed, not booted", ""
        return "landed and proved", "good"


def read_report(
    folder: Path,
    *,
    machine: str = "",
    source: Sequence[Change] = (),
    error: HyperSDKError | None = None,
    next_step: str = "",
    elapsed_s: float | None = None,
) -> MachineReport:
    """Collects what is known of the machine in ``folder``. ``machine`` is its name where the folder does not tell."""
    manifest, landing = _manifest(folder), _landing(folder)
    name = manifest.source.vm_name if manifest else landing.machine if landing else machine
    picture = _evidence(folder / SCREENSHOT, MAX_PICTURE_BYTES)
    serial = _evidence(folder / SERIAL_LOG, _MAX_SERIAL_BYTES) or b""
    return MachineReport(
        machine=name or machine or folder.name,
        folder=folder,
        manifest=manifest,
        landing=landing,
        source=tuple(source),
        error=error,
        next_step=next_step or (error.next_step if error else ""),
        elapsed_s=elapsed_s,
        screenshot=picture if picture and picture.startswith(b"\x89PNG\r\n\x1a\n") else None,
        serial="\n".join(serial.decode(errors="replace").splitlines()[-SERIAL_LINES:]),
    )


def write_machine_report(report: MachineReport) -> Path:
    """Writes the machine's page into its folder and returns its path. Raises TargetError."""
    path = report.folder / REPORT_NAME
    write_atomic(path, machine_page(report).encode("utf-8", "backslashreplace"))
    return path


def _manifest(folder: Path) -> ArtifactManifest | None:
    try:
        return open_manifest(folder)
    except HyperSDKError:  # the migration failed before, or verify tells
        return None


def _landing(folder: Path) -> LandingRecord | None:
    try:
        return read_landing(folder)
    except HyperSDKError:
        return None


def _evidence(path: Path, limit_bytes: int) -> bytes | None:
    try:
        data = read_small(path, limit_bytes)
    except (OSError, NotRegularError):
        return None
    return data if len(data) <= limit_bytes else None


# --- a machine -------------------------------------------------------------------------------------------------------


def machine_page(report: MachineReport) -> str:
    """The page of one machine."""
    manifest = report.manifest
    return page(
        f"{report.machine}: {report.outcome[0]}",
        _subtitle(report),
        [
            cards(_cards(report)),
            _failure(report),
            *_proof(report),
            table("Disks", _DISKS, manifest.disks) if manifest else "",
            facts("Machine", _machine_facts(manifest)) if manifest else "",
            table("Steps", _STEPS, list(report.landing.steps.items()) if report.landing else []),
            facts("Guest conversion", _conversion(manifest.pipeline.convert)) if manifest else "",
            facts("Landed machine", _landed_facts(report.step(LAND))) if report.landed else "",
            table("Changes at the source", _SOURCE_CHANGES, _shown(report.source)),
            table("Changes at the target", _TARGET_CHANGES, report.landing.changes if report.landing else []),
            bullets("Warnings", _warnings(report)),
        ],
        __version__,
    )


def _subtitle(report: MachineReport) -> str:
    if report.manifest is None:
        return str(report.folder)
    source = report.manifest.source
    where = f"{source.vm_id} in {source.datacenter or 'an unknown datacenter'}"
    return f"From {where}, exported {_time(source.export_timestamp)}"


def _cards(report: MachineReport) -> Iterator[tuple[str, str]]:
    if report.manifest:
        disks = report.manifest.disks
        yield "Disks", str(len(disks))
        yield "Provisioned", format_size(_capacity(disks))
        yield "Data", format_size(_data(disks))
    if report.elapsed_s is not None:
        yield "Time", format_duration(report.elapsed_s)
    if report.proof:
        yield "Booted in", format_duration(report.proof.seconds)
        yield "Proof", report.proof.verdict


def _capacity(disks: Iterable[DiskPart]) -> int:
    return sum(disk.hypersdk.capacity_bytes if disk.hypersdk else disk.bytes for disk in disks)


def _data(disks: Iterable[DiskPart]) -> int:
    return sum(disk.hypersdk.data_bytes if disk.hypersdk else disk.bytes for disk in disks)


def _failure(report: MachineReport) -> str:
    error = report.error
    if error is None:
        return ""
    return facts(
        "What went wrong",
        (("Reason", error.message), ("Code", error.code), ("Cause", error.cause), ("Next step", report.next_step)),
    )


def _proof(report: MachineReport) -> Iterator[str]:
    """Also of a boot that failed: then the screen and the serial port say most."""
    failed = report.step(PROVE).error
    if report.proof is None and failed is None:
        return
    if report.proof is not None:
        rows = [
            ("Verdict", verdict_text(report.proof.verdict, report.proof.line)),
            ("After", format_duration(report.proof.seconds)),
            ("Hypervisor", "KVM" if report.proof.accelerated else "emulation: the times of KVM are much shorter"),
            ("Proved at", _time(report.proof.ended_at)),
        ]
    else:
        assert failed is not None
        info = CODES.get(failed.get("code", ""))
        rows = [("Failed", failed.get("message", "")), ("Cause", info.cause if info else "")]
    yield facts("Boot proof", rows)
    yield png(report.screenshot, "The screen of the guest at the end of the proof") if report.screenshot else ""
    yield preformatted(report.serial)


def _digest(disk: DiskPart) -> str:
    tree = disk.hypersdk.tree if disk.hypersdk else None
    if disk.checksum:
        return disk.checksum
    return f"{tree.algorithm}:{tree.digest}" if tree else "none"


def _machine_facts(manifest: ArtifactManifest) -> Iterator[tuple[str, str]]:
    vm, known = manifest.vm, manifest.metadata.hypersdk
    memory = known.memory_bytes if known and known.memory_bytes else vm.mem_gb * GiB
    yield "CPUs, memory", f"{vm.cpu}, {format_size(memory)}"
    yield "Firmware", f"{vm.firmware}{', secure boot' if vm.secureboot else ''}"
    yield "Guest", vm.os_version or vm.os_hint
    yield "Networks", "; ".join(f"{nic.network} ({nic.mac})" for nic in manifest.nics)
    yield "Copied by", manifest.source.export_method
    yield "Point in time", known.point_in_time if known else ""
    yield "Proof of the copy", known.proof if known else ""
    yield "Folder", manifest.output.directory


def _conversion(part: ConvertPart) -> Iterator[tuple[str, str]]:
    if not part.enabled:
        return
    yield "Guest", part.guest.product or part.guest.distro or part.guest.type
    yield "Tool", f"{part.tool} {part.version}"
    yield "Took", _took(part.started_at, part.ended_at)
    if part.drivers:
        yield "Drivers", f"disks on {part.drivers.disk_bus}, network cards {part.drivers.nic_model}"
    yield "Boot loader added", part.fallback_loader or ""
    yield "Changed files", ", ".join(file.name for file in part.received)


def _landed_facts(step: StepRecord) -> Iterator[tuple[str, str]]:
    for label, key in (("Domain", "name"), ("UUID", "uuid"), ("At", "uri"), ("Images", "disks"), ("Owner", "owner")):
        value = step.result.get(key, "")
        yield label, ", ".join(_listed(value)) if isinstance(value, list) else str(value)


def _listed(value: object) -> list[str]:
    """Texts of a record, which others may have written."""
    return [str(part) for part in value] if isinstance(value, list) else []


def _shown(changes: Sequence[Change]) -> list[Change]:
    """A lease changes nothing that a user sees."""
    return [change for change in changes if change.kind is not ChangeKind.LEASE]


def _warnings(report: MachineReport) -> Iterator[str]:
    if report.manifest:
        yield from (f"{warning.message} ({warning.stage})" for warning in report.manifest.warnings)
    yield from (f"{warning} (prove)" for warning in _listed(report.step(PROVE).result.get("warnings")))


def _time(written: str) -> str:
    """A time as the manifest has it, for people; what is none is left as it is."""
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        return written
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if moment.tzinfo else written


def _took(started: str | None, ended: str | None) -> str:
    try:
        return format_duration(
            (datetime.fromisoformat(ended or "") - datetime.fromisoformat(started or "")).total_seconds()
        )
    except (ValueError, TypeError):  # not ended, or times of another program
        return ""


def _source_state(change: Change) -> str:
    if change.undone:
        return '<span class="good">undone</span>'
    if change.kept:
        return "kept: the landed machine runs in its place"
    return '<span class="warn">not undone</span>' if change.made else '<span class="warn">begun</span>'


def _target_state(change: TargetChange) -> str:
    return '<span class="good">undone</span>' if change.undone else "made" if change.made else "begun"


def _target_text(change: TargetChange) -> str:
    known = _TARGET.get(change.kind)
    told = {"name": change.data.get("name", ""), "uuid": change.data.get("uuid", "")}
    return text(known.format(**told) if known else change.kind)


def _step_state(state: StepState) -> str:
    return f'<span class="{_STATES.get(state, "")}">{state}</span>'


_DISKS: Final[tuple[Column[DiskPart], ...]] = (
    ("Disk", "name", lambda disk: text(disk.label)),
    ("File", "text", lambda disk: text(disk.local_path)),
    ("Size", "number", lambda disk: format_size(disk.hypersdk.capacity_bytes if disk.hypersdk else disk.bytes)),
    ("Data", "number", lambda disk: format_size(disk.hypersdk.data_bytes) if disk.hypersdk else ""),
    ("File size", "number", lambda disk: format_size(disk.bytes)),
    ("Proof of the copy", "text", lambda disk: text(disk.hypersdk.verdict) if disk.hypersdk else ""),
    ("Digest", "text", lambda disk: f"<code>{text(_digest(disk))}</code>"),
)
_STEPS: Final[tuple[Column[tuple[str, StepRecord]], ...]] = (
    ("Step", "name", lambda step: text(step[0])),
    ("State", "status", lambda step: _step_state(step[1].state)),
    ("Started", "", lambda step: text(_time(step[1].started_at or ""))),
    ("Took", "number", lambda step: _took(step[1].started_at, step[1].ended_at)),
    ("Error", "text", lambda step: text((step[1].error or {}).get("message", ""))),
)
_SOURCE_CHANGES: Final[tuple[Column[Change], ...]] = (
    ("Change", "text", lambda change: _SOURCE[change.kind]),
    ("State", "text", _source_state),
)
_TARGET_CHANGES: Final[tuple[Column[TargetChange], ...]] = (
    ("Change", "text", _target_text),
    ("State", "text", _target_state),
)


# --- a run -----------------------------------------------------------------------------------------------------------


def run_page(reports: Sequence[MachineReport], *, began: datetime, elapsed_s: float, place: Path | None = None) -> str:
    """The page of a run. ``place`` is the folder in which it will lie: links lead from there to the machines' pages."""
    landed = sum(report.landed and report.error is None for report in reports)
    return page(
        f"{landed:,} of {count(len(reports), 'machine')} landed on KVM",
        f"Started {began:%Y-%m-%d %H:%M:%S} UTC, took {format_duration(elapsed_s)}",
        [
            cards(_totals(reports)),
            table("To do", _TO_DO, _failures(reports)),
            table("Machines", (_linked(place), *_MACHINES), sorted(reports, key=_order)),
        ],
        __version__,
    )


def _order(report: MachineReport) -> tuple[bool, str]:
    """What failed first, then by name."""
    return report.error is None, natural_key(report.machine)


def _failures(reports: Sequence[MachineReport]) -> list[list[MachineReport]]:
    """Those that failed, together where the same helps."""
    found: dict[tuple[str, str], list[MachineReport]] = {}
    for report in sorted(reports, key=_order):
        if report.error is not None:
            found.setdefault((report.error.code, report.next_step), []).append(report)
    return list(found.values())


def _totals(reports: Sequence[MachineReport]) -> Iterator[tuple[str, str]]:
    disks = [disk for report in reports if report.manifest for disk in report.manifest.disks]
    yield "Landed", f"{sum(report.landed and report.error is None for report in reports):,}"
    yield "Proved", f"{sum(report.proof is not None for report in reports):,}"
    stopped = sum(report.stopped for report in reports)
    if failed := sum(report.error is not None for report in reports) - stopped:
        yield "Failed", f"{failed:,}"
    if stopped:
        yield "Stopped", f"{stopped:,}"
    yield "Provisioned", format_size(_capacity(disks))
    yield "Data", format_size(_data(disks))


def _linked(place: Path | None) -> Column[MachineReport]:
    """The machine's name; with a link to its page where there is one."""

    def show(report: MachineReport) -> str:
        target = report.folder.absolute() / REPORT_NAME
        if place is None or not target.is_file():
            return text(report.machine)
        link = quote(os.path.relpath(target, place.absolute()).encode(errors="surrogateescape"))
        return f'<a href="./{link}">{text(report.machine)}</a>'

    return "Machine", "name", show


def _outcome(report: MachineReport) -> str:
    words, kind = report.outcome
    return f'<span class="{kind}">{words}</span>'


_TO_DO: Final[tuple[Column[list[MachineReport]], ...]] = (
    ("Machine", "name", lambda failed: text(", ".join(report.machine for report in failed))),
    ("Reason", "text", lambda failed: _reasons(failed)),
    ("Next step", "text", lambda failed: text(failed[0].next_step)),
)


def _reasons(failed: Sequence[MachineReport]) -> str:
    """What they failed for; of many, the first few."""
    errors = [report.error for report in failed if report.error is not None]
    told = list(dict.fromkeys(text(error.message) for error in errors))
    lines = [*told[:MAX_REASONS], *([f"and {len(told) - MAX_REASONS} more"] if len(told) > MAX_REASONS else [])]
    return "<br>".join([*lines, f"<code>{text(errors[0].code)}</code>"])


_MACHINES: Final[tuple[Column[MachineReport], ...]] = (
    ("Status", "status", _outcome),
    ("Disks", "number", lambda report: str(len(report.manifest.disks)) if report.manifest else ""),
    ("Provisioned", "number", lambda report: format_size(_capacity(report.manifest.disks)) if report.manifest else ""),
    ("Data", "number", lambda report: format_size(_data(report.manifest.disks)) if report.manifest else ""),
    ("Time", "number", lambda report: "" if report.elapsed_s is None else format_duration(report.elapsed_s)),
    (
        "Boot proof",
        "text",
        lambda report: text(verdict_text(report.proof.verdict, report.proof.line)) if report.proof else "",
    ),
    ("Domain", "text", lambda report: text(str(report.step(LAND).result.get("name", "")))),
    ("Folder", "text", lambda report: text(str(report.folder))),
)
