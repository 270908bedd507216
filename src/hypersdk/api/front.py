"""What the daemon says at its address: a page for a browser, the same facts as JSON for programs.

Open to everyone, so it names nothing of this installation: no version, path, user or count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from hypersdk.text import shell_word

NAME: Final = "HyperSDK daemon"
ABOUT: Final = (
    "This daemon takes virtual machines out of VMware vSphere and lands them on KVM. It runs exports as jobs, which"
    " survive restarts and crashes. hyperctl on the command line, or any HTTP client, controls it."
)


@dataclass(frozen=True, slots=True)
class Place:
    """A path of the daemon, and whether it can be read without a token."""

    path: str
    what: str
    open: bool = False


PLACES: Final = {
    "docs": Place("/docs", "The API: every call with its fields, to read"),
    "openapi": Place("/openapi.json", "The same for programs (OpenAPI)"),
    "jobs": Place("/api/v1/jobs", "Jobs"),
    "health": Place("/health", "Is the process alive?", open=True),
    "ready": Place("/ready", "Can it do its work, and if not, why?", open=True),
    "metrics": Place("/metrics", "Metrics for Prometheus"),
}


def facts(base: str) -> dict[str, Any]:
    """For programs. ``base`` is the address under which the caller reached the daemon."""
    return {
        "name": NAME,
        "about": ABOUT,
        "links": {name: f"{base}{place.path}" for name, place in PLACES.items()},
        "open": [name for name, place in PLACES.items() if place.open],
        "authentication": "Authorization: Bearer TOKEN",
        "token": f"hyperctl login --url {shell_word(base)}",
    }


def front_page(base: str) -> str:
    """For people, without scripts; the style sheet is that of the API's page."""
    return "".join(_page(base))


def _page(base: str) -> Iterator[str]:
    url = shell_word(base)
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{NAME}</title>'
    yield '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/docs/style.css"></head>'
    yield f'<body class="front"><main><h1>{NAME}</h1><p>{escape(ABOUT)}</p>'
    yield "<h2>Get a token</h2>"
    yield "<p>On the daemon's own host, hyperctl finds the first administrator's token by itself:</p>"
    yield _commands(f"hyperctl status --url {url}")
    yield "<p>Elsewhere, log in with your account; hyperctl saves a token for this daemon:</p>"
    yield _commands(f"hyperctl login --url {url}")
    yield "<p>An administrator makes accounts, and tokens for programs:</p>"
    yield _commands("hyperctl users add NAME --role operator", 'hyperctl tokens create "what it is for"')
    yield "<h2>Run an export</h2>"
    yield _commands("hyperctl submit -file job.yaml", "hyperctl watch")
    yield "<h2>Where things are</h2>"
    yield "<p>A browser opens what is marked open. The rest needs the header <code>Authorization: Bearer TOKEN</code>."
    yield " To read the API in a browser, with a file that holds your token:</p>"
    yield _commands(
        "(umask 077; printf 'Authorization: Bearer ' | cat - TOKEN-FILE > header)",
        f"curl -H @header -o hypersdk-api.html {url}/docs",
    )
    yield "<table><tr><th>Path</th><th>What it is</th><th>Token</th></tr>"
    for place in PLACES.values():
        path = f"<code>{place.path}</code>"
        shown, who = (f'<a href="{place.path}">{path}</a>', "open") if place.open else (path, "needed")
        yield f"<tr><td>{shown}</td><td>{escape(place.what)}</td><td>{who}</td></tr>"
    yield "</table><h2>Read on</h2>"
    yield "<p>The pages <code>docs/daemon.md</code>, <code>docs/hyperctl.md</code> and <code>docs/api.md</code> lie in"
    yield " the source tree; the packages install them below <code>/usr/share/doc/hypersdk</code>. <code>hyperctl"
    yield " --help</code> and <code>man hyperctl</code> know every command.</p></main></body></html>"


def _commands(*lines: str) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>"
