"""`hyper2kvm layout`: a table for each machine, with its obstacles below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.text import Text

from hypersdk.cli.columns import Cell, Column, lay_out
from hypersdk.cli.remedies import next_step
from hypersdk.cli.report import show_error, wrapped
from hypersdk.cli.state import Cli
from hypersdk.cli.verifying import found_in
from hypersdk.errors import HyperSDKError, PartlyFailed, Refused, TargetError, register
from hypersdk.formats.guestdisk import (
    Content,
    ContentKind,
    DiskLayout,
    GuestFinding,
    NtfsState,
    Partition,
    TableKind,
    device_name,
    volumes_of,
)
from hypersdk.formats.guestdisk.records import BIOS_BOOT_GUID, ESP_GUID, ESP_TYPE
from hypersdk.landing.examining import DISK_UNREADABLE, Examined, ExaminedDisk, examine
from hypersdk.migration.preflight import raise_if_any
from hypersdk.model import Firmware
from hypersdk.text import clean, count
from hypersdk.units import format_size

GUESTS_REFUSED: Final = register(
    "guests_refused",
    "A guest conversion would refuse at least one of several machines.",
    "Follow the advice below each of them.",
)

_INDENT: Final = 2
_UNLIMITED: Final = 10_000
_COLUMNS: Final = (
    Column("Volume", least=12),
    Column("Size", right=True),
    Column("Type", least=12, optional=True),
    Column("Content"),
    Column("Details", least=16),
)
_FIRMWARE: Final = {Firmware.BIOS: "BIOS", Firmware.EFI: "UEFI", None: "firmware not known"}
_TABLES: Final = {TableKind.NONE: "no partitions", TableKind.MBR: "MBR", TableKind.GPT: "GPT"}
_STATES: Final = {NtfsState.HIBERNATED: "hibernated", NtfsState.CACHED: "in use", NtfsState.UNKNOWN: "state not known"}
_TYPES: Final = {
    ESP_GUID: "EFI system",
    BIOS_BOOT_GUID: "BIOS boot",
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "Linux root",
    "933ac7e1-2eb4-4f13-b844-0e14e2aef915": "Linux home",
    "bc13c2ff-59e6-4262-a352-b275fd6f7172": "Linux boot",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
    "e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
    "a19d880f-05fc-4d3b-a006-743f0f84911e": "Linux RAID",
    "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "Windows data",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae": "Windows reserved",
    "de94bba4-06d1-4d40-a16a-bfd50179d6ac": "Windows recovery",
    "0x05": "extended",
    "0x07": "NTFS",
    "0x0c": "FAT32",
    "0x0f": "extended",
    "0x27": "Windows recovery",
    "0x82": "Linux swap",
    "0x83": "Linux",
    "0x85": "extended",
    "0x8e": "Linux LVM",
    "0xee": "GPT",
    ESP_TYPE: "EFI system",
    "0xfd": "Linux RAID",
}
"""What users know of the many types; others are shown as they are in the table."""


def show_layouts(cli: Cli, paths: Sequence[Path], keys: Sequence[str]) -> None:
    """Examines and shows all. Raises Refused where a machine would be refused, PartlyFailed where others could not be
    read; what a single one raises where there is only one."""
    machines = list(_machines(cli, paths))
    if len(machines) == 1:
        examined = examine(machines[0], cancel=cli.cancel, keys=keys)
        _show(cli, examined, alone=True)
        refusals = [finding.as_error() for finding in examined.findings if finding.refuses]
        raise_if_any(examined.name, refusals, "converted")
        return
    failed, refused = [], []
    for number, path in enumerate(machines):
        if number:
            cli.output.print(Text(""))
        try:
            examined = examine(path, cancel=cli.cancel, keys=keys)
        except HyperSDKError as error:
            if error.exit_status == 130:
                raise
            failed.append(path)
            _show_failure(cli, path, error)
            continue
        _show(cli, examined)
        refused += [path] if examined.refused else []
    _raise_totals(len(machines), failed, refused)


def _raise_totals(total: int, failed: Sequence[Path], refused: Sequence[Path]) -> None:
    if failed:
        raise PartlyFailed(
            f"{len(failed)} of {count(total, 'machine')} could not be read", failed=list(map(str, failed))
        )
    if refused:
        raise Refused(
            f"{len(refused)} of {count(total, 'machine')} would be refused by a guest conversion",
            code=GUESTS_REFUSED,
            refused=list(map(str, refused)),
        )


def _machines(cli: Cli, paths: Sequence[Path]) -> Iterator[Path]:
    """Image files as they are; folders with the exports in them and below."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for found in found_in(cli, [path]):
            if found.unreadable is not None:
                raise TargetError(f"{found.path} cannot be read: {found.unreadable}", code=DISK_UNREADABLE)
            yield found.path


# --- output ----------------------------------------------------------------------------------------------------------


def _show(cli: Cli, examined: Examined, *, alone: bool = False) -> None:
    """``alone``: what helps against a refusal is told by the error that ends the command."""
    if cli.output.json_lines:
        cli.output.event("layout", _as_object(examined))
        return
    width = cli.output.width
    name = clean(examined.name, 200)
    folder = clean(str(examined.path), 400)
    where = "" if folder == name else f"  {folder}"
    cli.output.print(Text.assemble((name, "bold"), f"  {_FIRMWARE[examined.firmware]}", (where, "dim")))
    shown = {volume.name for volume in volumes_of([disk.layout for disk in examined.disks])}
    rows = [row for number, disk in enumerate(examined.disks, 1) for row in _rows(device_name(number), disk, shown)]
    if rows:
        cli.output.print(lay_out(_COLUMNS, rows, width))
    for finding in examined.findings:
        _show_finding(cli, finding, advice=not (alone and finding.refuses))
    if not examined.findings:
        cli.output.print(Text("✔ nothing that a guest conversion would refuse", style="green"))


def _show_finding(cli: Cli, finding: GuestFinding, *, advice: bool) -> None:
    sign, colour = ("✘", "red") if finding.refuses else ("!", "yellow")
    width = (cli.output.width or _UNLIMITED) - _INDENT
    code = f" ({finding.code})"
    first, *more = wrapped(finding.message + code, width, 0)
    cli.output.print(Text.assemble((f"{sign} ", f"bold {colour}"), first), soft_wrap=True)
    for line in [*more, *(wrapped(next_step(finding), width, 0) if advice else [])]:
        cli.output.print(Text(" " * _INDENT + line, style=colour), soft_wrap=True)


def _show_failure(cli: Cli, path: Path, error: HyperSDKError) -> None:
    if cli.output.json_lines:
        failure = {"code": error.code, "message": error.message, "next_step": next_step(error)}
        cli.output.event("layout", {"path": str(path), "error": failure})
        return
    cli.output.print(Text(clean(str(path), 400), style="bold"))
    show_error(cli.output, error)


def _as_object(examined: Examined) -> dict[str, Any]:
    return {
        "path": str(examined.path),
        "name": examined.name,
        "firmware": examined.firmware,
        "disks": [
            {"file": disk.file, "device": device_name(number), **asdict(disk.layout)}
            for number, disk in enumerate(examined.disks, 1)
        ],
        "findings": [finding.as_dict() | {"next_step": next_step(finding)} for finding in examined.findings],
    }


def _rows(device: str, disk: ExaminedDisk, shown: set[str]) -> Iterator[list[Cell]]:
    """``shown``: the volumes that are seen on some disk, then those that were shown as not seen."""
    layout = disk.layout
    details = ", ".join([clean(disk.file, 200), *_remarks(layout)])
    size = format_size(layout.size_bytes)
    if layout.whole is not None:
        told = ", ".join(filter(None, [_details(layout.whole), details]))
        yield _row(device, size, "disk", _content(layout.whole), told)
        yield from _volumes(layout.whole, shown)
        return
    yield _row(device, size, "disk", _TABLES[layout.table], details)
    for partition in layout.partitions:
        content = partition.content
        told = ", ".join(filter(None, ["active" if partition.active else "", _details(content)]))
        place = f"{device}{partition.number}"
        yield _row(place, format_size(partition.size_bytes), _type(partition), _content(content), told)
        yield from _volumes(content, shown)


def _remarks(layout: DiskLayout) -> Iterator[str]:
    if layout.boot_code:
        yield "boot code"
    if layout.damaged_table:
        yield "one copy of the GPT is missing or damaged"
    if not layout.complete:
        yield "not read to its end"


def _row(volume: str, size: str, kind: str, content: str, details: str) -> list[Cell]:
    return [(volume, ""), (size, ""), (kind, ""), (content, ""), (details, "dim")]


def _type(partition: Partition) -> str:
    return _TYPES.get(partition.type, partition.type)


def _volumes(content: Content, shown: set[str]) -> Iterator[list[Cell]]:
    """The volumes of a group, which each of its physical volumes lists: one that cannot be seen from here is shown only
    where it is seen nowhere."""
    group = content.group
    for volume in group.volumes if group else ():
        name, found = f"/dev/{group.name if group else ''}/{volume.name}", volume.content
        if found is None and name in shown:
            continue
        shown.add(name)
        told = _details(found) if found else "spread over several physical volumes"
        size = format_size(volume.size_bytes)
        yield _row(clean(name, 200), size, "volume", _content(found) if found else "not seen", told)


def _content(content: Content) -> str:
    if content.kind in (ContentKind.EXTENDED, ContentKind.EMPTY):
        return "" if content.kind is ContentKind.EXTENDED else "empty"
    return f"{content.kind.value}{content.version or ''}"


def _details(content: Content) -> str:
    facts = [clean(content.uuid or "", 60)] if content.encrypted else []
    if content.group:
        facts.append(clean(f"group {content.group.name}", 200))
    if content.efi:
        others = [path for path in content.efi.loaders if path not in content.efi.fallback]
        facts.append(clean(" ".join((*content.efi.fallback, *others)), 400) or "no loader")
    if content.kind is ContentKind.NTFS:
        facts += ["Windows" if content.windows else "", _STATES.get(content.ntfs or NtfsState.CLEAN, "")]
    if content.kind is ContentKind.MDRAID:
        facts.append("what is on the array is not seen")
    facts.append(f"'{clean(content.label, 100)}'" if content.label else "")
    return ", ".join(filter(None, facts))
