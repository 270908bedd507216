"""`hyper2kvm convert`: converts local images and packages."""

from __future__ import annotations

from pathlib import Path

import click

from hypersdk.cli.options import (
    COMPRESS_MODES,
    CompressingCommand,
    compression,
    file_hash_fields,
    file_hash_options,
    output_options,
    unchecked_option,
)
from hypersdk.cli.state import Cli, pass_cli
from hypersdk.migration.spec import ExportSpec, OutputFormat


@click.command("convert", cls=CompressingCommand)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Output folder.",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice([item.value for item in OutputFormat]),
    default="qcow2",
    show_default=True,
    help="Output format.",
)
@click.option(
    "--compress",
    type=click.Choice(COMPRESS_MODES),
    default="none",
    metavar="[=checked|unchecked|repack|none]",
    help="Compressed qcow2; see `hyper2kvm export --help`.",
)
@unchecked_option
@click.option("--force", is_flag=True, help="Replace another export in the output folder.")
@file_hash_options
@output_options
@pass_cli
def command(
    cli: Cli,
    file: Path,
    output: Path,
    output_format: str,
    compress: str,
    unchecked: bool,
    force: bool,
    file_hash: str | None,
    no_file_hash: bool,
) -> None:
    """Convert a local VMDK, OVA, OVF, qcow2 or raw image into another image format.

    The guest system is not changed. The files of a package are compared with its own .mf. The result is verified and
    described as after an export.
    """
    from hypersdk.cli.exporting import refuse_landed, show_result
    from hypersdk.cli.progress import watching
    from hypersdk.migration.convert import convert_file
    from hypersdk.migration.settings import RunSettings

    spec = ExportSpec(
        machine=file.stem,
        output_dir=output,
        format=OutputFormat(output_format),
        compress=compression({"compress": compress, "unchecked": unchecked}),
        force=force,
        **file_hash_fields({"file_hash": file_hash, "no_file_hash": no_file_hash}),
    )
    refuse_landed(spec)
    settings = RunSettings(state=cli.state_dir)
    cli.output.keep_going()
    with watching(cli.output) as observer:
        result = convert_file(
            file, spec, cancel=cli.cancel, observer=lambda progress: observer([progress]), settings=settings
        )
    show_result(cli, result, local=True)
