"""Local image conversions."""

from __future__ import annotations

from pathlib import Path

from hypersdk.migration.convert import convert_file
from hypersdk.migration.publish import ExportResult
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import ExportSpec, OutputFormat
from hypersdk.transfer.cancel import CancelToken


def convert(path: Path, out: Path, output: OutputFormat, state: Path, **options: object) -> ExportResult:
    spec = ExportSpec(machine="", output_dir=out, format=output, **options)  # type: ignore[arg-type]
    return convert_file(path, spec, cancel=CancelToken(), observer=lambda _: None, settings=RunSettings(state=state))
