"""Named daemons, in ``$XDG_CONFIG_HOME/hypersdk/contexts.toml``: readable by its owner only, because it holds tokens.

::

    current = "site-a"

    [contexts.site-a]
    url = "https://hypervisord.example.com:8443"
    token = "hst_..."
    thumbprint = "AA:BB:..."
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from hypersdk.config.folders import config_folder
from hypersdk.config.toml import TomlFile, quoted
from hypersdk.errors import TARGET_DENIED, LookupFailed, TargetError, UsageError, register
from hypersdk.remedies import Look
from hypersdk.secret import Secret
from hypersdk.units import KiB

CONTEXTS_BAD: Final = register(
    "contexts_invalid",
    "The file of known daemons holds something invalid.",
    "Correct it, or remove it and log in again.",
)
CONTEXTS_EXPOSED: Final = register(
    "contexts_exposed",
    "The file holds tokens and other users of this host can read it.",
    "Run `chmod 600` on it; if others may have read it, revoke its tokens with `hyperctl tokens revoke`.",
)
CONTEXT_UNKNOWN: Final = register("context_unknown", "No daemon is known by that name.", Look("contexts"))

MAX_BYTES: Final = 256 * KiB
NAME: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")


@dataclass(frozen=True, slots=True)
class Context:
    """One daemon: its address, and how its certificate is verified. ``token`` is sent there and nowhere else.

    ``token_id`` is known of a token that ``hyperctl login`` made: logging out revokes it.
    """

    url: str
    token: Secret | None = None
    token_id: str | None = None
    ca_bundle: str | None = None
    thumbprint: str | None = None
    insecure: bool = False


_KEYS: Final = tuple(field.name for field in fields(Context))


@dataclass(frozen=True, slots=True)
class Contexts:
    """All contexts by name. ``current`` is a name in ``known``, or None."""

    known: Mapping[str, Context]
    current: str | None = None

    def get(self, name: str) -> Context:
        """The context of that name. Raises LookupFailed ``context_unknown``."""
        if name not in self.known:
            raise LookupFailed(f"there is no context '{name[:60]}'", code=CONTEXT_UNKNOWN, known=sorted(self.known))
        return self.known[name]

    def with_context(self, name: str, context: Context) -> Contexts:
        """Adds or replaces a context; the first one becomes the current one. Raises UsageError for an invalid name."""
        if not NAME.match(name):
            raise UsageError(
                f"'{name[:60]}' cannot name a context", next_step="Use letters, digits and . _ -, up to 63 of them."
            )
        return Contexts({**self.known, name: context}, self.current or name)

    def without(self, name: str) -> Contexts:
        """Removes a context. Raises LookupFailed."""
        self.get(name)
        return Contexts(
            {key: context for key, context in self.known.items() if key != name},
            None if self.current == name else self.current,
        )

    def used(self, name: str) -> Contexts:
        """Makes a context the current one. Raises LookupFailed."""
        self.get(name)
        return replace(self, current=name)


def contexts_path(environ: Mapping[str, str]) -> Path:
    """The path of the file."""
    return config_folder(environ) / "contexts.toml"


def load_contexts(path: Path) -> Contexts:
    """Reads the file; no contexts if it does not exist. Raises UsageError if it is invalid, or readable by others."""
    file = TomlFile(path, CONTEXTS_BAD, MAX_BYTES, secret=True)
    content = file.read()
    if content is None:
        return Contexts({})
    if content.exposed:
        raise UsageError(f"{path} holds tokens and has mode {content.mode:04o}", code=CONTEXTS_EXPOSED)
    return _contexts(file, content.document)


def _contexts(file: TomlFile, document: Mapping[str, Any]) -> Contexts:
    tables = document.get("contexts", {})
    if set(document) - {"current", "contexts"} or not isinstance(tables, dict):
        raise file.error("may hold `current` and tables [contexts.NAME] only")
    known = {name: _context(file, name, table) for name, table in tables.items()}
    current = document.get("current")
    if current is not None and current not in known:
        raise file.error("names a current context that it does not hold")
    return Contexts(known, current)


def _context(file: TomlFile, name: str, table: object) -> Context:
    """Checked without pydantic, whose import takes a third of the time of a ``hyperctl`` command."""
    if not isinstance(table, dict) or not isinstance(table.get("url"), str):
        raise file.error(f"has no url in [contexts.{name[:60]}]")
    for key, value in table.items():
        if key not in _KEYS:
            raise file.error(f"has an unknown key in [contexts.{name[:60]}]: {key[:60]}")
        if not isinstance(value, bool if key == "insecure" else str):
            raise file.error(f"has a wrong value for {key} in [contexts.{name[:60]}]")
    token = table.get("token")
    return Context(**{**table, "token": Secret(token) if token else None})


def save_contexts(path: Path, contexts: Contexts) -> None:
    """Writes the file atomically, with mode 0600. Raises TargetError."""
    lines = [] if contexts.current is None else [f"current = {quoted(contexts.current)}"]
    for name, context in contexts.known.items():
        lines += ["", f"[contexts.{quoted(name)}]", *_entries(context)]
    from hypersdk.access.files import write_private  # most commands of hyperctl only read

    try:
        write_private(path, "\n".join(lines).lstrip("\n") + "\n")
    except OSError as error:
        raise TargetError(
            f"{path} cannot be written: {error.strerror}",
            code=TARGET_DENIED,
            cause=f"{error.strerror}.",
            next_step=f"Make {path.parent} a folder that your user can write, or name another one in $XDG_CONFIG_HOME.",
        ) from error


def _entries(context: Context) -> list[str]:
    values = {
        "url": context.url,
        "token": context.token and context.token.reveal(),
        "token_id": context.token_id,
        "ca_bundle": context.ca_bundle,
        "thumbprint": context.thumbprint,
    }
    lines = [f"{key} = {quoted(value)}" for key, value in values.items() if value]
    return [*lines, "insecure = true"] if context.insecure else lines
