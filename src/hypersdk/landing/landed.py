"""What a landing did with the images of an export, from its record alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hypersdk.errors import Refused, register
from hypersdk.landing.changes import DOMAIN_CHANGE, IMAGE_CHANGE
from hypersdk.landing.record import LandingRecord, read_landing
from hypersdk.remedies import ChooseFolder
from hypersdk.text import clean
from hypersdk.transfer.files import shown_path

IMAGES_LANDED: Final = register(
    "images_landed",
    "The machine was landed, and its domain uses the images in the folder: what the guest wrote would be lost.",
    ChooseFolder(),
    "If that domain does not exist any more, remove .hypersdk-landing.json from the folder.",
)


def landed_images(record: LandingRecord) -> dict[str, Path]:
    """Images of the export that belong to a domain now, with the path at which it has them: those that were renamed
    into a pool, or that it uses in the folder of the export."""
    moved = {
        change.data["image"]: Path(change.data["path"])
        for change in record.open_changes
        if change.kind == IMAGE_CHANGE and change.data["moved"] and change.made
    }
    return moved | {file.name: file for file in _in_place(record)}


def check_not_landed(folder: Path) -> None:
    """For those who replace what is in ``folder``. Raises Refused ``images_landed`` where the domain of a landing uses
    images in it, IntegrityError ``landing_unreadable`` where that cannot be known."""
    record = read_landing(folder)
    if record is not None and (used := list(_in_place(record))):
        raise Refused(
            f"'{clean(record.machine, 200)}' was landed at {clean(record.target, 200)}, and uses {used[0].name} in"
            f" {shown_path(folder)}",
            code=IMAGES_LANDED,
            files=[str(file) for file in used],
        )


def _in_place(record: LandingRecord) -> Iterator[Path]:
    """Images that the landed domain uses where they lie."""
    for change in record.open_changes:
        if change.kind == DOMAIN_CHANGE:
            yield from map(Path, change.data["in_place"])
