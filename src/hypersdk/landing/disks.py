"""Where the disks of a landed machine lie, and how they get there.

::

    no pool                                    in place: the domain uses the images of the export's folder
    pool on this machine, same file system     cloned where the file system shares blocks, else renamed
    pool on this machine, another one          copied without holes
    any other pool                             uploaded through libvirt without holes

Only a clone, a copy and an upload leave the export complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from hypersdk.errors import HyperSDKError, IntegrityError, Refused, TargetError, register
from hypersdk.kvm.access import account_of, check_reachable
from hypersdk.kvm.capabilities import HypervisorFacts
from hypersdk.kvm.connection import Connection
from hypersdk.kvm.imagefile import (
    allocated_bytes,
    clone,
    copy,
    drop_name,
    give_name,
    inode_of,
    is_same_file_system,
    may_write,
)
from hypersdk.kvm.preflight import check_unused, read_domains
from hypersdk.kvm.storage import (
    POOL_UNSUITABLE,
    PoolFacts,
    create_volume,
    delete_volume,
    pool_refusals,
    read_pool,
    upload,
    volume_path,
)
from hypersdk.kvm.trust import check_trusted
from hypersdk.landing.changes import IMAGE_CHANGE, VOLUME_CHANGE
from hypersdk.landing.reading import check_alone
from hypersdk.landing.record import LandingFile, TargetChange
from hypersdk.model.guestplan import GuestDisk, GuestPlan
from hypersdk.remedies import First, Retry, SetOption
from hypersdk.text import clean
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import exists, target_errors

REMOTE_NEEDS_POOL: Final = register(
    "remote_needs_pool",
    "The target is another machine, which does not see the images: exports and guest conversions are where HyperSDK"
    " runs.",
    SetOption("pool", "NAME"),
)
POOL_ELSEWHERE: Final = register(
    "pool_elsewhere",
    "libvirt does not see the file that was put into the folder of its storage pool: its folders are not those of this"
    " machine, as with a libvirt in a container.",
    "Use an address of libvirt with a host (qemu+ssh://, qemu+tls://): the disks are uploaded then.",
)
UNUSABLE_PATH: Final = register(
    "unusable_path",
    "The path of an image has characters that cannot stand in a domain's definition.",
    First("rename the folder"),
    Retry(),
)
IMAGE_MISSING: Final = register(
    "image_missing",
    "An image of the export is not in its folder.",
    "Put it back, or export the machine again.",
)

Report = Callable[[str, int, int], None]
"""Called with what is done now (``uploading web-01-disk1.qcow2``), bytes done and bytes of it."""


class Placing(StrEnum):
    """How a disk gets its place."""

    IN_PLACE = "in-place"
    MOVE = "move"  # cloned, else renamed
    COPY = "copy"
    UPLOAD = "upload"


@dataclass(frozen=True, slots=True)
class DiskPlace:
    """Where one disk goes. ``name`` is its file's in the pool; ``extra_bytes`` what is written once more."""

    disk: GuestDisk
    placing: Placing
    name: str
    extra_bytes: int


@dataclass(frozen=True, slots=True)
class StoragePlan:
    """Where all disks go, in their order. ``pool`` is None for disks that stay where they are."""

    pool: PoolFacts | None
    places: tuple[DiskPlace, ...]

    @property
    def extra_bytes(self) -> int:
        """Bytes that are written once more, beside the export's own."""
        return sum(place.extra_bytes for place in self.places)

    @property
    def placings(self) -> tuple[Placing, ...]:
        """How the disks get their places, each way once."""
        return tuple(dict.fromkeys(place.placing for place in self.places))

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        pool = None if self.pool is None else self.pool.name
        return {"pool": pool, "placing": list(self.placings), "extra_bytes": self.extra_bytes}


def plan_storage(connection: Connection, plan: GuestPlan, pool_name: str | None) -> StoragePlan:
    """Where the disks of ``plan`` will lie. Images that do not exist yet count with their capacity.

    Raises LookupFailed ``no_such_pool``, Refused ``remote_needs_pool``, TargetError.
    """
    if pool_name is None:
        if not connection.address.is_local:
            raise Refused(f"{connection.address} is another machine", code=REMOTE_NEEDS_POOL)
        return StoragePlan(None, tuple(DiskPlace(disk, Placing.IN_PLACE, disk.file.name, 0) for disk in plan.disks))
    pool = read_pool(connection, pool_name)
    places = []
    for number, disk in enumerate(plan.disks, start=1):
        placing = _placing(connection, pool, disk.file)
        size = allocated_bytes(disk.file) if exists(disk.file) else disk.capacity_bytes
        name = f"{plan.name}-disk{number}.{disk.image_format}"
        places.append(DiskPlace(disk, placing, name, 0 if placing is Placing.MOVE else size))
    return StoragePlan(pool, tuple(places))


def _placing(connection: Connection, pool: PoolFacts, image: Path) -> Placing:
    if not connection.address.is_here or pool.folder is None or not may_write(pool.folder):
        return Placing.UPLOAD
    with target_errors(f"looking at {pool.folder}"):
        known = next(path for path in (image.absolute(), *image.absolute().parents) if exists(path))
        same = is_same_file_system(known, pool.folder)
    return Placing.MOVE if same else Placing.COPY


def storage_refusals(
    connection: Connection, storage: StoragePlan, facts: HypervisorFacts, *, placed: Sequence[str] = ()
) -> list[HyperSDKError]:
    """Why the disks cannot get their places. ``placed`` are names in the pool that an earlier attempt made."""
    found: list[HyperSDKError] = [
        Refused(f"{place.disk.file.name!r} is no usable name", code=UNUSABLE_PATH)
        for place in storage.places
        if not str(place.disk.file).isprintable()
    ]
    found += [*_foreign_images(storage, placed), *_untrusted_folders(storage)]
    if storage.pool is not None:
        names = frozenset(place.name for place in storage.places) - set(placed)
        needed = sum(place.extra_bytes for place in storage.places if place.name in names)
        return found + pool_refusals(storage.pool, names=names, needed_bytes=needed)
    if facts.runs_as is None or connection.address.is_session:
        return found
    account = account_of(*facts.runs_as)
    for folder in dict.fromkeys(place.disk.file.parent for place in storage.places):
        try:
            with target_errors(f"looking at {folder}"):
                if exists(folder):
                    check_reachable(folder, account)
        except (Refused, TargetError) as error:
            found.append(error)
    return found


def _untrusted_folders(storage: StoragePlan) -> Iterator[HyperSDKError]:
    """Where others could replace the images that are looked at here."""
    for folder in dict.fromkeys(place.disk.file.parent for place in storage.places):
        try:
            with target_errors(f"looking at {folder}"):
                check_trusted(folder)
        except (Refused, TargetError) as error:
            yield error


def _foreign_images(storage: StoragePlan, placed: Sequence[str]) -> Iterator[HyperSDKError]:
    """Images that are there and lead to other files."""
    for place in storage.places:
        if place.name in placed or not exists(place.disk.file):
            continue
        try:
            check_alone(place.disk.file, place.disk.image_format)
        except (IntegrityError, TargetError) as error:
            yield error


def change_data(connection: Connection, landing: LandingFile, **fields: Any) -> dict[str, Any]:
    """Data of a change: where it is made, and for which landing."""
    return {"uri": str(connection.address), "landing": landing.record.landing_id, **fields}


class DiskPlacer:
    """Gives disks their places, each change recorded before it is made, and undoes that."""

    def __init__(self, connection: Connection, landing: LandingFile) -> None:
        self._connection = connection
        self._landing = landing

    def placed(self) -> dict[str, Path]:
        """Names of volumes that earlier attempts of this landing finished, with their paths."""
        return {change.data["name"]: path for change, path in self._placed()}

    def copies(self) -> list[Path]:
        """Those that are no renamed images."""
        return [path for change, path in self._placed() if not change.data.get("moved")]

    def _placed(self) -> Iterator[tuple[TargetChange, Path]]:
        for change in self._landing.record.open_changes:
            if change.kind not in (IMAGE_CHANGE, VOLUME_CHANGE) or not change.made:
                continue
            path = volume_path(self._connection, change.data["pool"], change.data["name"])
            if path is not None:
                yield change, path

    def place(self, place: DiskPlace, pool: PoolFacts | None, *, report: Report, cancel: CancelToken) -> Path:
        """Returns the path of the disk at the hypervisor. Raises TargetError, Refused, Cancelled."""
        if pool is None:
            with target_errors(f"looking at {place.disk.file.name}"):
                return self._existing(place).resolve(strict=True)
        if place.placing is Placing.UPLOAD:
            return self._upload(place, pool, report, cancel)
        assert pool.folder is not None, "checked before"
        path = self._put(place, pool.name, pool.folder / place.name, report, cancel)
        if volume_path(self._connection, pool.name, place.name) != path:
            raise TargetError(f"libvirt does not see {path} in its pool '{pool.name}'", code=POOL_ELSEWHERE)
        return path

    def _existing(self, place: DiskPlace) -> Path:
        if not exists(place.disk.file):
            raise IntegrityError(f"{place.disk.file} is missing", code=IMAGE_MISSING)
        check_alone(place.disk.file, place.disk.image_format)
        return place.disk.file

    def _upload(self, place: DiskPlace, pool: PoolFacts, report: Report, cancel: CancelToken) -> Path:
        image, name = self._existing(place), place.name
        size = image.stat().st_size
        data = self._data(name=name, pool=pool.name, path="")
        with self._landing.change(VOLUME_CHANGE, data) as change:
            try:
                path = create_volume(self._connection, pool.name, name, size)
            except Refused:  # somebody else made a volume of that name meanwhile: it is not for us to delete
                self._landing.note_undone(change)
                raise
            change.data["path"] = str(path)
            upload(
                self._connection,
                pool.name,
                name,
                image,
                report=lambda sent: report(f"uploading {name}", sent, place.extra_bytes),
                cancel=cancel,
            )
        return path

    def _put(self, place: DiskPlace, pool: str, path: Path, report: Report, cancel: CancelToken) -> Path:
        image = self._existing(place)
        partial = _partial(path, self._landing.record.landing_id)
        data = self._data(name=path.name, pool=pool, path=str(path), image=image.name, moved=False, inode=None)
        with self._landing.change(IMAGE_CHANGE, data) as change:
            if place.placing is Placing.MOVE and not clone(image, partial):
                self._rename(image, path, change)
                return path
            if place.placing is Placing.COPY:
                copy(
                    image,
                    partial,
                    report=lambda done: report(f"copying {path.name}", done, place.extra_bytes),
                    cancel=cancel,
                )
            self._name(partial, path, change)
            drop_name(partial)
        return path

    def _rename(self, image: Path, path: Path, change: TargetChange) -> None:
        change.data["moved"] = True
        self._name(image, path, change)
        drop_name(image)

    def _name(self, existing: Path, path: Path, change: TargetChange) -> None:
        """The inode number is recorded first: by it an undo tells our file from one that came before us."""
        change.data["inode"] = inode_of(existing)
        self._landing.save()
        give_name(existing, path)

    def _data(self, **fields: Any) -> dict[str, Any]:
        return change_data(self._connection, self._landing, **fields)

    def undo(self, change: TargetChange) -> None:
        """Undoes a change of this class; for one that was never made, or is undone already, it does nothing.

        Others may write in the folder of the export, so only names are taken from the record: where they lie is asked
        of libvirt. Raises Refused ``image_of_domain`` for an image that a domain uses.
        """
        pool, name = change.data["pool"], change.data["name"]
        folder = read_pool(self._connection, pool).folder
        if folder is None:
            raise Refused(f"the storage pool '{clean(pool, 80)}' holds no files", code=POOL_UNSUITABLE, pool=pool)
        path = folder / name
        check_unused(read_domains(self._connection), {str(path)}, here=self._connection.address.is_here)
        if change.kind == VOLUME_CHANGE:
            delete_volume(self._connection, pool, name)
        else:
            self._put_back(path, change)

    def _put_back(self, path: Path, change: TargetChange) -> None:
        image = self._landing.folder.named.absolute() / change.data["image"]
        drop_name(_partial(path, change.data["landing"]))
        if change.data["inode"] is None or inode_of(path) != change.data["inode"]:
            return
        if change.data["moved"] and inode_of(image) != change.data["inode"]:
            give_name(path, image)
        drop_name(path)


def _partial(path: Path, landing: str) -> Path:
    """The file that becomes ``path``; nobody else uses its name."""
    return path.with_name(f".{path.name}.{landing}.partial")
