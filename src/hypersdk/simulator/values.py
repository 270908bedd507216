"""Values as the simulator holds them: a reference to a managed object, and a data object with named fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Ref:
    """A managed object reference: ``Ref("VirtualMachine", "vm-101")``."""

    type: str
    moref: str


class Data:
    """A data object. Fields are read as attributes; one that is unset reads as ``None``, as it is absent on the
    wire."""

    __slots__ = ("fields", "type")

    def __init__(self, type_: str, /, **fields: Any) -> None:
        self.type = type_
        self.fields = fields

    def __getattr__(self, name: str) -> Any:
        return self.fields.get(name)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Data) and (self.type, self.fields) == (other.type, other.fields)

    __hash__ = None  # type: ignore[assignment] # mutable

    def __repr__(self) -> str:
        return f"{self.type}({', '.join(f'{k}={v!r}' for k, v in self.fields.items())})"

    def replace(self, **fields: Any) -> Data:
        """A copy with some fields set anew."""
        return Data(self.type, **{**self.fields, **fields})

    def plain(self) -> dict[str, Any]:
        """As dicts and lists, for dumps and comparisons."""
        return {"type": self.type, **{k: _plain(v) for k, v in self.fields.items() if v is not None}}


def _plain(value: Any) -> Any:
    if isinstance(value, Data):
        return value.plain()
    if isinstance(value, Ref):
        return value.moref
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
