"""What the daemon says when it is ready: where it answers, what it uses, and the line that makes a shell its
administrator. At a terminal a table, elsewhere lines of the log."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from hypersdk import __version__
from hypersdk.cli.output import Output
from hypersdk.text import clean, count

if TYPE_CHECKING:
    from hypersdk.jobs.settings import DaemonSettings

LOG: Final = logging.getLogger(__name__)
ADMIN_TOKEN: Final = "admin.token"  # noqa: S105 - the name of a file


def show_banner(output: Output, settings: DaemonSettings) -> None:
    """On standard error, beside the log. The token's line is last: it is the one to copy."""
    if not output.live:
        for label, value, _ in _facts(settings):
            LOG.info("%s: %s", label, value)
        LOG.info("ready%s", f", serving {address_of(settings)}" if "api" in settings.roles else "")
        return
    from rich.text import Text

    notes = output.notes
    notes.print()
    notes.print(Text.assemble(("HyperSDK ", "bold cyan"), (f"hypervisord {__version__} is ready", "bold")))
    for label, value, style in _facts(settings):
        notes.print(Text.assemble((f"  {label:<10}", "dim"), (clean(value, 400), style)), soft_wrap=True)
    notes.print()
    if line := token_line(settings):
        notes.print(Text(line), soft_wrap=True)


def address_of(settings: DaemonSettings) -> str:
    """The URL of the API."""
    tls = settings.tls_self_signed or settings.tls_cert is not None
    return f"{'https' if tls else 'http'}://{settings.addr}"


def token_line(settings: DaemonSettings) -> str | None:
    """For a shell: the administrator's token, by its file's name; None where there is none."""
    path = settings.state_dir / ADMIN_TOKEN
    if not settings.auth or "api" not in settings.roles or not path.exists():
        return None
    return f'export HYPERVISORD_TOKEN="$(cat {shlex.quote(str(path))})"'


def _facts(settings: DaemonSettings) -> Iterator[tuple[str, str, str]]:
    shown: Mapping[str, object] = settings.shown()
    if "api" in settings.roles:
        yield "API", address_of(settings), "bold"
    if "worker" in settings.roles:
        yield "Workers", f"{settings.workers}, {count(settings.jobs_per_worker, 'job')} each", ""
    yield "Database", str(shown["database_url"]), ""
    yield "Exports", ", ".join(str(root) for root in settings.roots), ""
    if not settings.auth:
        yield "Access", "NO AUTHENTICATION: every local user is administrator", "bold red"
    if settings.tls_self_signed:
        yield "TLS", "self-signed; its fingerprint is in the log above", ""
