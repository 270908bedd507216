"""Kinds of changes at the target, and the data that the undo of each needs. Records are read from folders where others
may write, so these are checked before anything is done by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, TypeAlias

from pydantic import ConfigDict, StrictBool, StrictInt, StringConstraints

from hypersdk.migration.checked import validated

IMAGE_CHANGE: Final = "image"
VOLUME_CHANGE: Final = "volume"
DOMAIN_CHANGE: Final = "domain"
STARTED_CHANGE: Final = "started"
"""A file got its place in a pool, a volume was uploaded, a domain was defined, it was started."""

Text: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=4096)]
"""What becomes part of a path or of a call to libvirt."""
_KNOWN_ONLY: Final = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    __pydantic_config__: ClassVar = _KNOWN_ONLY
    uri: Text
    landing: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class _Volume(_Made):
    name: Text
    pool: Text
    path: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image(_Volume):
    image: Text
    moved: StrictBool
    inode: StrictInt | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Started(_Made):
    uuid: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class _Domain(_Started):
    in_place: list[Text]
    definition: Text = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Landed:
    __pydantic_config__: ClassVar = _KNOWN_ONLY
    uuid: Text
    name: Text
    uri: Text
    disks: list[Text]
    owner: Text


_DATA: Final[Mapping[str, Any]] = {
    IMAGE_CHANGE: _Image,
    VOLUME_CHANGE: _Volume,
    DOMAIN_CHANGE: _Domain,
    STARTED_CHANGE: _Started,
}


def check_change(kind: str, data: Mapping[str, Any]) -> None:
    """Raises ValueError unless the data of a change is as its undo needs it; a kind that is not known is undone by
    nobody."""
    if (shape := _DATA.get(kind)) is not None:
        validated(shape, dict(data))


def check_landed(result: Mapping[str, Any]) -> None:
    """The same for the result of the step ``land``."""
    validated(_Landed, dict(result))
