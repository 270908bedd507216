"""Inventory names and paths.

vSphere writes ``/``, ``\\`` and ``%`` inside a name as ``%2f``, ``%5c``, ``%25`` (the ``name`` property of
ManagedEntity); nothing else is escaped. Names are shown decoded; a path keeps its names encoded, in lower-case hex, so
that it can be taken apart again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_ESCAPES: Final = {"%2f": "/", "%5c": "\\", "%25": "%"}
_ESCAPE: Final = re.compile("%(?:2f|5c|25)", re.IGNORECASE)
_SPECIAL: Final = re.compile(r"[/\\%]")
_MAX_DEPTH: Final = 64


def decode_name(raw: str) -> str:
    """A name without its escapes, for display."""
    return _ESCAPE.sub(lambda match: _ESCAPES[match[0].lower()], raw)


def encode_name(name: str) -> str:
    """A decoded name as part of a path."""
    return _SPECIAL.sub(lambda match: f"%{ord(match[0]):02x}", name)


@dataclass(frozen=True, slots=True)
class Place:
    """A folder, datacenter or vApp on the path to a machine: name as the server returns it, parent's moref, wire
    type."""

    name: str
    parent: str | None
    kind: str


def inventory_path(places: Mapping[str, Place], parent: str | None, name: str) -> str:
    """``/DC0/vm/folder/name`` for a (raw) name below ``parent``. The root folder, and what cannot be seen, has no part
    in it."""
    above = [place.name for place in ancestors(places, parent) if place.parent is not None]
    return "/" + "/".join(encode_name(decode_name(part)) for part in reversed([name, *above]))


def datacenter_of(places: Mapping[str, Place], parent: str | None) -> str | None:
    """Decoded name of the datacenter above ``parent``."""
    return next((decode_name(place.name) for place in ancestors(places, parent) if place.kind == "Datacenter"), None)


def ancestors(places: Mapping[str, Place], parent: str | None) -> list[Place]:
    """The places from ``parent`` upwards, as far as visible; at most 64, also when the server returns a cycle."""
    found: list[Place] = []
    while parent is not None and parent in places and len(found) < _MAX_DEPTH:
        found.append(places[parent])
        parent = places[parent].parent
    return found
