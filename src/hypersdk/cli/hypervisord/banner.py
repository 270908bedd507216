"""The banner at a terminal when the daemon is ready: its address, how to log in, and its routes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from hypersdk import __version__
from hypersdk.cli.output import Output
from hypersdk.text import clean

if TYPE_CHECKING:
    from rich.text import Text

    from hypersdk.jobs.settings import DaemonSettings

ADMIN_TOKEN: Final = "admin.token"  # noqa: S105 - the name of a file
STYLES: Final = {"open": "green", "viewer": "", "operator": "cyan", "admin": "yellow", "metrics": "dim"}


def show_banner(output: Output, settings: DaemonSettings) -> None:
    """On standard error, beside the log."""
    from rich.text import Text

    notes = output.notes
    notes.print()
    notes.print(Text.assemble(("HyperSDK ", "bold cyan"), (f"hypervisord {__version__}", "bold")))
    for label, value, style in _facts(settings):
        notes.print(Text.assemble((f"  {label:<10}", "dim"), (clean(value, 400), style)), soft_wrap=True)
    if "api" in settings.roles:
        notes.print()
        notes.print(routes_table(notes.width), soft_wrap=True)
    notes.print()


def address_of(settings: DaemonSettings) -> str:
    """The URL of the API."""
    tls = settings.tls_self_signed or settings.tls_cert is not None
    return f"{'https' if tls else 'http'}://{settings.addr}"


def _facts(settings: DaemonSettings) -> Iterator[tuple[str, str, str]]:
    shown: Mapping[str, object] = settings.shown()
    if "api" in settings.roles:
        yield "API", address_of(settings), "bold"
        yield "Docs", f"{address_of(settings)}/docs", ""
    if "worker" in settings.roles:
        yield "Workers", f"{settings.workers}, {settings.jobs_per_worker} jobs each", ""
    yield "Database", str(shown["database_url"]), ""
    yield "Exports", ", ".join(str(root) for root in settings.roots), ""
    if not settings.auth:
        yield "Access", "NO AUTHENTICATION: every local user is administrator", "bold red"
    elif (path := settings.state_dir / ADMIN_TOKEN).exists():
        yield "Token", f"{path} (hyperctl on this machine finds it)", ""
    if settings.tls_self_signed:
        yield "TLS", "self-signed; its fingerprint is in the log above", ""


def routes_table(width: int) -> Text:
    """One line per path: its methods, each with the role that it requires."""
    from hypersdk.cli.columns import Column, lay_out

    rows = [[(path, ""), *cells] for path, cells in _routes()]
    return lay_out((Column("Route"), Column("Read", optional=True), Column("Write")), rows, width)


def _routes() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    found: dict[str, dict[str, str]] = {}
    for path, method, who in all_routes():
        found.setdefault(path, {})[method] = who
    for path, methods in found.items():
        read = methods.get("GET", "")
        writes = [f"{method} {who}" for method, who in methods.items() if method != "GET"]
        style = STYLES.get(next((who for method, who in methods.items() if method != "GET"), ""), "")
        yield path, [(f"GET {read}" if read else "", STYLES.get(read, "")), (", ".join(writes), style)]


def all_routes() -> Iterator[tuple[str, str, str]]:
    """Path, method and who may call it: ``open``, a role, or ``metrics``."""
    from fastapi import FastAPI

    from hypersdk.api.app import ROUTERS, guarded_routes

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    for router in ROUTERS:
        app.include_router(router)
    for route in guarded_routes(app):
        who = "open" if route.open else "metrics" if route.role is None else route.role.value
        for method in sorted(route.methods - {"HEAD"}):
            yield route.path, method, who
