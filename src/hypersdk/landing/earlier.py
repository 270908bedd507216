"""What earlier runs left in the folder of a machine: where its migration goes on.

::

    nothing of ours                                         export
    an unfinished export                                    resume it
    one of which all is copied, but the source was given    export again, as below
    back
    a finished export, its source is held                   use it
    a finished export, the source has to be off the         use it if the source is off and provably unchanged since,
    network from then on                                    else export again: what was written later would be missing
    a finished export otherwise                             use it
    every step is done                                      nothing is left to do
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from enum import StrEnum

from hypersdk.errors import HyperSDKError
from hypersdk.landing.guests import open_manifest
from hypersdk.landing.record import LandingRecord, read_landing
from hypersdk.migration.manifest import ArtifactManifest
from hypersdk.migration.point import PointInTime, PointKind
from hypersdk.migration.runfile import RunFile, RunRecord, RunStore
from hypersdk.migration.spec import ExportSpec, ResumeMode
from hypersdk.model import Machine


class Earlier(StrEnum):
    """What the folder holds of this machine."""

    NOTHING = "nothing"
    UNFINISHED = "unfinished"
    OUTDATED = "outdated"  # an export that the source may have left behind since
    EXPORTED = "exported"
    MIGRATED = "migrated"


def earlier_work(
    spec: ExportSpec,
    machine: Machine,
    steps: Collection[str],
    store: RunStore,
    is_landed: Callable[[LandingRecord], bool],
) -> Earlier:
    """``machine`` is the source as it is now; ``steps`` are those that a finished migration has. ``is_landed`` tells
    whether the domain of a landing is at the target now. Raises IntegrityError for records that cannot be read,
    TargetError, and what ``is_landed`` does."""
    folder = spec.output_dir.absolute()
    run = RunFile.load(folder, store)
    if run is not None and not (run.record.published and run.record.hold and run.record.moref == machine.moref):
        return Earlier.OUTDATED if spec.hold and _left_behind(run.record, machine) else Earlier.UNFINISHED
    manifest = _manifest_of(spec, machine)
    if manifest is None:
        return Earlier.NOTHING
    if run is None and _is_migrated(spec, steps, is_landed):
        return Earlier.MIGRATED
    held = run is not None and run.record.holds_source
    current = held or not spec.hold or is_current(manifest, machine)
    return Earlier.EXPORTED if current else Earlier.OUTDATED


def spec_after(spec: ExportSpec, earlier: Earlier) -> ExportSpec:
    """The export that is still to be done: resumed, or in place of an outdated one."""
    if earlier is Earlier.UNFINISHED:
        return replace(spec, resume=ResumeMode.RESUME)
    # The run of the export that is replaced may be there yet: its source was given back, and something was left.
    return replace(spec, force=True, resume=ResumeMode.DISCARD) if earlier is Earlier.OUTDATED else spec


def _manifest_of(spec: ExportSpec, machine: Machine) -> ArtifactManifest | None:
    """The manifest in the folder, if it is that of an export of this very machine."""
    try:
        manifest = open_manifest(spec.output_dir)
    except HyperSDKError:  # whatever it is, the export refuses to replace it
        return None
    return manifest if manifest.source.vm_id == machine.moref else None


def _left_behind(run: RunRecord, machine: Machine) -> bool:
    """Whether all is copied, and the source may have run since: it was given back, or was never off."""
    if not run.copied or run.holds_source or run.moref != machine.moref:
        return False
    return not _is_at(run.point, machine)


def _is_at(point: PointInTime | None, machine: Machine) -> bool:
    return point is not None and point.kind is PointKind.OFF and point.holds_of(machine)


def is_current(manifest: ArtifactManifest, machine: Machine) -> bool:
    """Whether the source was off for its export, and is off and unchanged since."""
    facts = manifest.metadata.hypersdk
    return _is_at(facts.point if facts else None, machine)


def _is_migrated(spec: ExportSpec, steps: Collection[str], is_landed: Callable[[LandingRecord], bool]) -> bool:
    record = read_landing(spec.output_dir)
    if record is None:
        return False
    return record.done_steps.issuperset(steps) and is_landed(record)
