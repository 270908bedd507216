"""The step ``convert``: drivers, boot loader and initramfs for KVM, written into the images of an export.

::

    record        images                   overlays
    -             as exported              none
    converting    as exported              being converted    any failure: dropped; a kill: dropped by the next run
    committing    being written            complete           any failure or kill: committed again by the next run
    converted     converted, manifest new  dropped

Each state is recorded before it begins. So at every moment either the images are exactly what was exported, or the
overlays hold everything that is still to be written.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from hypersdk.errors import TargetError
from hypersdk.guest.arguments import check_request
from hypersdk.guest.conversion import convert_in_place
from hypersdk.guest.overlay import create_overlay, overlay_bytes, remove_overlay
from hypersdk.guest.report import ConversionEvent, ConversionReport
from hypersdk.guest.request import ConversionRequest
from hypersdk.guest.tools import IN_PLACE, QEMU_IMG, GuestTools
from hypersdk.landing.commit import (
    commit,
    drop_conversion,
    explained,
    finish_conversion,
    full,
    named,
    overlays_of,
)
from hypersdk.landing.fitness import check_digests, check_images, encrypted_volumes
from hypersdk.landing.record import CONVERT, Conversion, ConversionState, LandingFile, overlay_name
from hypersdk.migration.manifest import ConvertPart, timestamp
from hypersdk.migration.readback import opened
from hypersdk.model.guestplan import GuestDrivers
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import sync_folder, target_errors
from hypersdk.transfer.space import SpaceLedger, free_bytes
from hypersdk.transfer.workergroup import WorkerGroup
from hypersdk.units import GiB

LOG: Final = logging.getLogger(__name__)

MOST_CHANGED_BYTES: Final = 1 * GiB
"""What a conversion changes at most: drivers, an initramfs for each kernel, packages that run at the first boot. It is
needed twice, in the overlays and in the images; 11 MiB are typical of Linux."""


class Converter(Protocol):
    """``guest.conversion.convert_in_place``."""

    def __call__(
        self,
        request: ConversionRequest,
        tools: GuestTools,
        *,
        folder: Path,
        cancel: CancelToken,
        on_event: Callable[[ConversionEvent], None],
    ) -> ConversionReport: ...


def convert_guest(
    landing: LandingFile,
    request: ConversionRequest,
    tools: GuestTools,
    *,
    cancel: CancelToken,
    on_event: Callable[[ConversionEvent], None] = lambda _event: None,
    space: SpaceLedger | None = None,
    as_written: bool = False,
    convert: Converter = convert_in_place,
) -> GuestDrivers:
    """Converts the guest of the export in the landing's folder and records the step ``convert``, whose result is the
    ``drivers``. ``request.guest`` is that export's (``open_guest``). Does nothing where the guest is converted;
    finishes a conversion that was interrupted while it was committed.

    While the guest is converted, the images are compared with their digests, which the conversion replaces: a damaged
    image is never committed to. ``as_written`` says that this process has just written them, and leaves that out.
    ``on_event`` is called in a thread of its own.

    When it raises before the commit, the images are unchanged; the record says which it was. Raises Refused and
    UsageError before anything is changed; ConversionError; TargetError, IntegrityError and Cancelled.
    """
    drivers = finish_conversion(landing, tools, cancel=cancel)
    if drivers is None:
        with landing.step(CONVERT) as step:
            work = _Conversion(landing, request, tools, cancel, on_event, as_written, convert)
            drivers = work.run(space or SpaceLedger())
            step.result = {"drivers": asdict(drivers)}
    return drivers


@dataclass(frozen=True, slots=True)
class _Conversion:
    """A conversion. Files are accessed through the folder's descriptor (``place``);
    programs get its name."""

    landing: LandingFile
    request: ConversionRequest
    tools: GuestTools
    cancel: CancelToken
    on_event: Callable[[ConversionEvent], None]
    as_written: bool
    convert: Converter
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def place(self) -> Path:
        return self.landing.folder.path

    def run(self, space: SpaceLedger) -> GuestDrivers:
        """Converts and commits, in the space that is reserved for both. Leaves the folder as it was, or the record at
        ``committing``."""
        drop_conversion(self.landing)
        warnings = self._check()
        with self._reserved(space):
            report = self._converted(warnings)
            self._record(ConversionState.COMMITTING, report.model_dump(mode="json"))
            return commit(self.landing, self.tools, self.cancel)

    def _check(self) -> tuple[str, ...]:
        """Raises where the guest cannot be converted, as far as that is known before; returns warnings."""
        check_request(self.request, self.tools.v2v())
        self.tools.path(QEMU_IMG)
        return check_images(self.place, self.request.guest, [key.device for key in self.request.keys])

    @contextmanager
    def _reserved(self, space: SpaceLedger) -> Iterator[None]:
        capacity = sum(disk.capacity_bytes for disk in self.request.guest.disks)
        with target_errors(f"checking the free space of {self.landing.folder.named}"):
            reservation = space.reserve(self.place, 2 * min(capacity, MOST_CHANGED_BYTES))
        try:
            yield
        finally:
            space.release(reservation)

    # Into the overlays

    def _converted(self, warnings: tuple[str, ...]) -> ConvertPart:
        """Converts into new overlays. Drops them when it fails."""
        overlays = {disk.file.name: overlay_name(disk.file.name) for disk in self.request.guest.disks}
        self._record(ConversionState.CONVERTING, {}, overlays)
        try:
            with explained(self.landing.folder):
                report = self._run(self._on_overlays())
                self._check_room()
                self._sync_overlays()
            self.cancel.check()
        except BaseException:
            self._drop()
            raise
        return self._part(report, warnings)

    def _run(self, request: ConversionRequest) -> ConversionReport:
        """Converts, and reads the images meanwhile. The first failure ends both."""
        reports: list[ConversionReport] = []
        folder, images = named(self.landing), list(overlays_of(self.landing))
        with WorkerGroup(self.cancel, "guest") as group:
            if not self.as_written:
                group.start("verify", lambda: check_digests(self.place, images, group.token))
            group.start(
                "convert",
                lambda: reports.append(
                    self.convert(request, self.tools, folder=folder, cancel=group.token, on_event=self.on_event)
                ),
            )
            group.wait()
        return reports[0]

    def _drop(self) -> None:
        """A failure to write the record is not the reason why the conversion ended: the next run drops the rest."""
        try:
            drop_conversion(self.landing)
        except TargetError as error:
            LOG.info("the overlays could not be dropped: %s", error.message)

    def _on_overlays(self) -> ConversionRequest:
        """The request for the overlays, which are created."""
        disks = []
        for disk in self.request.guest.disks:
            overlay = named(self.landing) / overlays_of(self.landing)[disk.file.name]
            remove_overlay(overlay)  # of a conversion whose record was removed
            create_overlay(self.tools, overlay, named(self.landing) / disk.file.name, disk.image_format, self.cancel)
            disks.append(replace(disk, file=overlay, image_format="qcow2"))
        guest = self.request.guest
        encrypted = encrypted_volumes(self.place, guest) if self.request.keys else ()
        return replace(self.request, encrypted=encrypted, guest=replace(guest, disks=tuple(disks)))

    def _check_room(self) -> None:
        """The images grow by what is in the overlays. Raises TargetError ``no_space`` before they are touched."""
        needed = sum(
            overlay_bytes(self.tools, named(self.landing) / overlay) for overlay in overlays_of(self.landing).values()
        )
        if (free := free_bytes(self.place)) < needed:
            raise full(self.landing.folder, needed, free)

    def _sync_overlays(self) -> None:
        for overlay in overlays_of(self.landing).values():
            with target_errors(f"syncing {overlay}"), opened(self.place / overlay) as descriptor:
                os.fsync(descriptor)
        with target_errors(f"syncing {self.landing.folder.named}"):
            sync_folder(self.place)

    def _part(self, report: ConversionReport, warnings: tuple[str, ...]) -> ConvertPart:
        return ConvertPart.model_validate({
            "enabled": True,
            "tool": IN_PLACE,
            "version": report.version,
            "started_at": timestamp(self.began),
            "guest": asdict(report.system),
            "drivers": asdict(report.drivers),
            "fallback_loader": report.fallback_loader,
            "warnings": (*warnings, *report.warnings),
        })  # fmt: skip

    def _record(
        self, state: ConversionState, report: dict[str, Any], overlays: Mapping[str, str] | None = None
    ) -> None:
        with self.landing.changing() as record:
            record.conversion = Conversion(state, dict(overlays or overlays_of(self.landing)), report)
