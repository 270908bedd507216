"""Landing an export, or a local package that becomes one: no vSphere is asked.

::

    DIR with artifact-manifest.json ───────────────────────────┐
    FILE.ovf .ova .vmdk ── image conversion ─> DIR, its folder ┴─> steps in the folder (landing.steps)

A package that was converted into the folder before is not converted again: its manifest has the file's path, size and
time of change.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from hypersdk.errors import HyperSDKError, Refused, register
from hypersdk.guest.tools import GuestTools
from hypersdk.kvm.preflight import TargetInventory
from hypersdk.landing.disks import StoragePlan
from hypersdk.landing.fence import needs_fence
from hypersdk.landing.guests import described_guest, guest_of, open_manifest
from hypersdk.landing.land import check_target
from hypersdk.landing.moves import LandingOutcome, MachineMove, MovesContext, run_moves
from hypersdk.landing.planning import assumed_drivers, left_out, plan_guest
from hypersdk.landing.record import read_landing
from hypersdk.landing.request import LandingRequest
from hypersdk.landing.steps import GuestTurn, Source
from hypersdk.landing.target import Target
from hypersdk.migration.convert import convert_file, planned_disks
from hypersdk.migration.export import Observer
from hypersdk.migration.local import open_local
from hypersdk.migration.naming import MANIFEST_NAME, stem_of
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import ExportSpec
from hypersdk.model import ExportProgress
from hypersdk.model.guestplan import GuestPlan, SourceGuest
from hypersdk.remedies import First, Notice, SetOption
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import exists

SOURCE_NOT_CHECKED: Final = register(
    "source_not_checked",
    "The landed machine would be started with the MAC addresses of its source, and whether that is off the network"
    " cannot be seen without a login.",
    First("make sure that the source is off or disconnected"),
    SetOption("source_off", True),
    SetOption("new_macs", True),
)
_FILE, _STAMP = "source_file", "source_stamp"
"""Tags of the manifest."""


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A folder, package or image. ``named`` is its path for users. Without ``follow`` it is a file, and no link."""

    path: Path
    named: Path
    follow: bool = True


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Where images are made of a package: in ``folder``, or in one below it that is named after the machine; by default
    below the current folder."""

    folder: Path | None = None
    own: bool = False

    def of(self, machine: str) -> Path:
        """The folder for the images of this machine."""
        own = Path(stem_of(machine))
        if self.folder is None:
            return own
        return self.folder / own if self.own else self.folder


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What will be landed. ``package`` is the file that is still to be converted into ``spec.output_dir``; None for the
    folder of an export, or of a package that was converted before."""

    spec: ExportSpec
    package: LocalSource | None
    guest: SourceGuest
    domain: GuestPlan
    storage: StoragePlan
    source: str

    @property
    def name(self) -> str:
        """The machine's name."""
        return self.guest.name

    def warnings(self) -> Iterator[Notice]:
        """What a user should know before it begins."""
        return left_out(self.guest, self.domain)


def plan_import(
    origin: LocalSource,
    images: ImageFolder | ExportSpec,
    request: LandingRequest,
    target: Target,
    *,
    inventory: TargetInventory,
    source_off: bool,
    taken: Collection[str] = (),
    tools: GuestTools,
    cancel: CancelToken,
) -> ImportPlan:
    """Looks at the export or package; nothing is changed. ``images`` says where images are made of a package, or also
    how. ``inventory`` is what ``target`` has. ``source_off``: the user says that the source is off the network.
    ``taken`` are names of domains that other machines of this run get.

    Raises the errors of ``open_guest`` and ``open_local``, Refused with the reasons of ``plan_guest`` and of
    ``check_target``, and ``source_not_checked``."""
    if origin.follow and origin.path.is_dir():
        spec, package = ExportSpec(machine="", output_dir=origin.path, display_dir=origin.named), None
        guest, source = _exported(spec), _source_text(origin.path)
    else:
        spec, package, guest = _package(origin, images, cancel)
        source = str(origin.named)
    if not source_off:
        _check_source(guest, request)
    domain = plan_guest(guest, assumed_drivers(guest), request.options, target.facts, taken=taken)
    if request.conversion is not None:
        request.conversion.check_guest(guest, tools)
    landing = read_landing(spec.output_dir) if package is None else None
    storage = check_target(target.connection, domain, target.facts, request.options, inventory, landing)
    return ImportPlan(spec, package, guest, domain, storage, source)


def _exported(spec: ExportSpec) -> SourceGuest:
    return guest_of(open_manifest(spec.output_dir), spec.shown_dir.absolute())


def _source_text(folder: Path) -> str:
    source = open_manifest(folder).source
    return f"{source.vm_name} ({source.vm_id or source.provider})"


def _package(
    origin: LocalSource, images: ImageFolder | ExportSpec, cancel: CancelToken
) -> tuple[ExportSpec, LocalSource | None, SourceGuest]:
    with open_local(origin.path, cancel, follow=origin.follow) as machine:
        name = machine.machine.name
        spec = images if isinstance(images, ExportSpec) else ExportSpec(machine=name, output_dir=images.of(name))
        spec = replace(spec, machine=name, metadata={**spec.metadata, **_tags(origin)})
        if not spec.force and _is_converted(spec):
            return spec, None, _exported(spec)
        return spec, origin, described_guest(machine.machine, planned_disks(machine, spec), spec)


def _tags(origin: LocalSource) -> dict[str, str]:
    found = origin.path.stat()
    return {_FILE: str(origin.named), _STAMP: f"{found.st_size}:{found.st_mtime_ns}"}


def _is_converted(spec: ExportSpec) -> bool:
    if not exists(spec.output_dir / MANIFEST_NAME):
        return False
    try:
        tags = open_manifest(spec.output_dir).metadata.tags
    except HyperSDKError:  # whatever it is, the conversion refuses to replace it
        return False
    return dict(spec.metadata).items() <= tags.items()


def _check_source(guest: SourceGuest, request: LandingRequest) -> None:
    """Raises Refused ``source_not_checked`` unless the source cannot be disturbed. The record of a migration in the
    folder, which says that it holds the source, proves nothing: the folder may be a copy, and the source is looked at
    by nobody since."""
    if needs_fence(request.options) and not request.options.new_macs and any(nic.mac for nic in guest.nics):
        raise Refused(f"whether the source of '{guest.name}' is off is not known", code=SOURCE_NOT_CHECKED)


def make_images(
    plan: ImportPlan,
    *,
    settings: RunSettings,
    cancel: CancelToken,
    observer: Callable[[ExportProgress], None],
) -> None:
    """Converts the package into ``plan.spec.output_dir``, if there is one. ``observer`` gets the progress. Raises what
    ``convert_file`` does."""
    if plan.package is not None:
        package = plan.package
        convert_file(
            package.path, plan.spec, cancel=cancel, observer=observer, settings=settings, follow=package.follow
        )


def import_machines(
    plans: Sequence[ImportPlan],
    request: LandingRequest,
    target: Target,
    *,
    tools: GuestTools,
    max_conversions: int,
    cancel: CancelToken,
    observer: Observer,
    settings: RunSettings,
) -> list[LandingOutcome[ImportPlan]]:
    """Imports several machines: at most ``max_conversions`` packages are converted at a time, and as many guests. See
    ``run_moves``."""
    context = MovesContext(request, target.facts, GuestTurn(tools, max_conversions), settings, cancel)
    return run_moves(
        [_MachineImport(plan, context) for plan in plans],
        copies=max_conversions,
        landings=max_conversions,
        observer=observer,
        interval_s=settings.progress_interval_s,
    )


class _MachineImport(MachineMove[ImportPlan]):
    """A machine of whose package images are made, unless they were before. Nothing is changed at its source."""

    def __init__(self, plan: ImportPlan, context: MovesContext) -> None:
        self._converting = ExportProgress(machine=plan.name)
        super().__init__(plan, Source(plan.source), context, lambda: self._converting)

    @property
    def needs_copy(self) -> bool:
        return self.plan.package is not None

    def _copy(self) -> None:
        make_images(self.plan, settings=self._context.settings, cancel=self._cancel, observer=self._observe)

    def _observe(self, now: ExportProgress) -> None:
        self._converting = now
