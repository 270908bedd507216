"""`hyper2kvm man`: writes the manual pages, for packaging and for those who install from source."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from hypersdk.cli.options import Command
from hypersdk.cli.state import Cli, pass_cli
from hypersdk.errors import TARGET_DENIED, TargetError


@click.command("man", cls=Command)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for the pages, like ~/.local/share/man/man1.",
)
@pass_cli
def command(cli: Cli, output: Path) -> None:
    """Write the manual pages into a folder.

    SOURCE_DATE_EPOCH, where it is set, is the date on them.
    """
    from hypersdk.cli.manpage import all_pages

    epoch = cli.environ.get("SOURCE_DATE_EPOCH", "")
    when = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdecimal() else datetime.now(UTC)
    pages = all_pages(when.date())
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, text in pages.items():
            (output / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise TargetError(f"{output} cannot be written: {error.strerror}", code=TARGET_DENIED) from error
    cli.output.line(f"{len(pages)} pages written to {output}")
