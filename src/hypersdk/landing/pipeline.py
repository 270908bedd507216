"""Options of a job file that ask for steps after the export: what they mean as a migration.

::

    enable_pipeline ── pipeline_inspect, _fix, _convert   the guest conversion, which is one step
                    ├─ pipeline_validate                  the images are verified; a landed machine is proved
                    └─ pipeline_compress                  compressed images
    libvirt_integration ── libvirt_uri, _pool, _bridge, _autostart   the machine is landed
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hypersdk.landing.jobfile import MigrationDefinition
from hypersdk.landing.options import ALL_OTHERS
from hypersdk.migration.jobfile import JobDefinition, JobOptions, MachineJob, invalid_field, parse_as
from hypersdk.migration.spec import OutputFormat

_CONVERSION: Final = ("pipeline_inspect", "pipeline_fix", "pipeline_convert")
_PIPELINE: Final = (*_CONVERSION, "pipeline_validate", "pipeline_compress")
_LIBVIRT: Final = ("libvirt_uri", "libvirt_autostart", "libvirt_bridge", "libvirt_pool")


def parse_pipeline(
    job: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[JobDefinition, MigrationDefinition | None]:
    """The definition of a job without a kind, and the migration that its options ask for; None for an export alone.
    Raises UsageError that names the field."""
    definition = parse_as(JobDefinition, job, environ)
    return definition, pipeline_of(definition)


def pipeline_of(definition: JobDefinition) -> MigrationDefinition | None:
    """The migration that the options ask for; None where they ask for an export alone. Raises UsageError that names the
    field."""
    options = definition.options
    asked = set(options.switched_on())
    if not asked:
        return None
    _check_switches(options, asked)
    convert, validate = _converts(options), _stage(options, "pipeline_validate")
    lands = options.libvirt_integration
    if not (convert or validate or lands or options.pipeline_compress):
        raise invalid_field("options.enable_pipeline", "is true, and all of its steps are false")
    if "format" in definition.model_fields_set and definition.format is not OutputFormat.QCOW2:
        raise invalid_field("format", "should be qcow2 where steps follow the export")
    given = {name: getattr(definition, name) for name in MachineJob.model_fields}
    given |= {
        "format": OutputFormat.QCOW2,
        "compress": definition.compress or options.pipeline_compress,
        "convert": convert,
        "verify": validate,
    }
    if lands:
        given |= _landing(options, prove=validate)
    migration = MigrationDefinition.model_construct(**given)
    if conflict := migration.conflict():
        raise invalid_field(*conflict)
    migration.options_at_target()
    return migration


def _landing(options: JobOptions, *, prove: bool) -> dict[str, Any]:
    return {
        "to": options.libvirt_uri,
        "pool": options.libvirt_pool,
        "networks": {ALL_OTHERS: options.libvirt_bridge},
        "autostart": options.libvirt_autostart,
        "prove": prove,
    }


def _check_switches(options: JobOptions, asked: set[str]) -> None:
    """An option without the switch that it belongs to asks for nothing."""
    for switch, names in (("enable_pipeline", _PIPELINE), ("libvirt_integration", _LIBVIRT)):
        for name in names:
            if name in asked and not getattr(options, switch):
                raise invalid_field(f"options.{name}", f"has no effect without {switch}")
    if "compress_level" in asked:
        raise invalid_field(
            "options.compress_level", "has no effect: blocks are stored compressed as vSphere sends them"
        )


def _converts(options: JobOptions) -> bool:
    wanted = {name: _stage(options, name) for name in _CONVERSION}
    if len(set(wanted.values())) > 1:
        off = next(name for name, on in wanted.items() if not on)
        others = " and ".join(name for name in _CONVERSION if name != off)
        raise invalid_field(f"options.{off}", f"is one step with {others}: set all of them, or none")
    return wanted["pipeline_convert"]


def _stage(options: JobOptions, name: str) -> bool:
    """Whether the stage is on; one that is not given follows ``enable_pipeline``."""
    given: bool | None = getattr(options, name)
    return options.enable_pipeline if given is None else given
