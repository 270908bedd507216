"""Landing an export, or a local package that becomes one: no vSphere is asked.

::

    DIR with artifact-manifest.json ───────────────────────────┐
    FILE.ovf .ova .vmdk ── image conversion ─> DIR, its folder ┴─> steps in the folder (landing.steps)

A package that was converted into the folder before is not converted again: its manifest has the file's path, size and
time of change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from hypersdk.errors import HyperSDKError, Refused, register
from hypersdk.guest.tools import GuestTools
from hypersdk.landing.disks import StoragePlan
from hypersdk.landing.fence import needs_fence
from hypersdk.landing.guests import described_guest, open_guest, open_manifest
from hypersdk.landing.land import check_target
from hypersdk.landing.planning import assumed_drivers, left_out, plan_guest
from hypersdk.landing.record import read_landing
from hypersdk.landing.request import LandingRequest
from hypersdk.landing.steps import GuestTurn, Migrated, Notify, Source, land_folder
from hypersdk.landing.target import Target
from hypersdk.migration.convert import convert_file, planned_disks
from hypersdk.migration.local import open_local
from hypersdk.migration.naming import MANIFEST_NAME, stem_of
from hypersdk.migration.runfile import RunFile, RunStore
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
class ImportPlan:
    """What will be landed. ``package`` is the file that is still to be converted into ``spec.output_dir``; None for the
    folder of an export, or of a package that was converted before."""

    spec: ExportSpec
    package: Path | None
    guest: SourceGuest
    domain: GuestPlan
    storage: StoragePlan
    source: str

    def warnings(self) -> Iterator[Notice]:
        """What a user should know before it begins."""
        return left_out(self.guest, self.domain)


def plan_import(
    path: Path,
    output: Path | None,
    request: LandingRequest,
    target: Target,
    *,
    source_off: bool,
    tools: GuestTools,
    runs: RunStore,
    cancel: CancelToken,
) -> ImportPlan:
    """Looks at the export or package; nothing is changed. ``source_off``: the user says that the source is off the
    network. Raises the errors of ``open_guest`` and ``open_local``, Refused with the reasons of ``plan_guest`` and of
    ``check_target``, and ``source_not_checked``."""
    if path.is_dir():
        spec, package, guest = ExportSpec(machine="", output_dir=path), None, open_guest(path.absolute())
        source = _origin(path)
    else:
        spec, package, guest = _package(path, output, cancel)
        source = str(path.absolute())
    if not source_off:
        _check_source(spec, guest, request, runs)
    domain = plan_guest(guest, assumed_drivers(guest), request.options, target.facts)
    if request.conversion is not None:
        request.conversion.check_guest(guest, tools)
    landing = read_landing(spec.output_dir) if package is None else None
    storage = check_target(target.connection, domain, target.facts, request.options, landing)
    return ImportPlan(spec, package, guest, domain, storage, source)


def _origin(folder: Path) -> str:
    source = open_manifest(folder).source
    return f"{source.vm_name} ({source.vm_id or source.provider})"


def _package(path: Path, output: Path | None, cancel: CancelToken) -> tuple[ExportSpec, Path | None, SourceGuest]:
    with open_local(path, cancel) as machine:
        name = machine.machine.name
        spec = ExportSpec(machine=name, output_dir=output or Path(stem_of(name)), metadata=_tags(path))
        if _is_converted(spec):
            return spec, None, open_guest(spec.output_dir.absolute())
        return spec, path, described_guest(machine.machine, planned_disks(machine, spec), spec)


def _tags(path: Path) -> dict[str, str]:
    found = path.stat()
    return {_FILE: str(path.absolute()), _STAMP: f"{found.st_size}:{found.st_mtime_ns}"}


def _is_converted(spec: ExportSpec) -> bool:
    if not exists(spec.output_dir / MANIFEST_NAME):
        return False
    try:
        tags = open_manifest(spec.output_dir).metadata.tags
    except HyperSDKError:  # whatever it is, the conversion refuses to replace it
        return False
    return dict(spec.metadata).items() <= tags.items()


def _check_source(spec: ExportSpec, guest: SourceGuest, request: LandingRequest, runs: RunStore) -> None:
    """Raises Refused ``source_not_checked`` unless the source is held by an export, or cannot be disturbed."""
    if not needs_fence(request.options) or request.options.new_macs or not any(nic.mac for nic in guest.nics):
        return
    run = RunFile.load(spec.output_dir.absolute(), runs)
    if run is None or not (run.record.published and run.record.hold):
        raise Refused(f"whether the source of '{guest.name}' is off is not known", code=SOURCE_NOT_CHECKED)


def run_import(
    plan: ImportPlan,
    request: LandingRequest,
    target: Target,
    *,
    turn: GuestTurn,
    settings: RunSettings,
    cancel: CancelToken,
    observer: Callable[[ExportProgress], None],
    notify: Notify,
) -> Migrated:
    """Converts the package, if there is one, and does the steps that are not done. ``observer`` gets the progress of
    the conversion. Raises what ``convert_file`` and ``land_folder`` do."""
    if plan.package is not None:
        convert_file(plan.package, plan.spec, cancel=cancel, observer=observer, settings=settings)
    return land_folder(
        plan.spec.output_dir.absolute(),
        replace(request, options=replace(request.options, name=plan.domain.name), exported=plan.package is not None),
        target.facts,
        Source(plan.source),
        turn=turn,
        settings=settings,
        cancel=cancel,
        notify=notify,
    )
