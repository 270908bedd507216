"""The types of ``schema_table`` as objects: fields in wire order, ancestors, methods. Also the property paths that the
API has at all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Final

from hypersdk.simulator.schema_paths import PATHS
from hypersdk.simulator.schema_table import DATA_TYPES, MANAGED_TYPES

PRIMITIVES: Final[Mapping[str, str]] = {
    # name in the table -> XSD type; PropertyPath and its kin are strings with a special meaning
    "string": "string", "boolean": "boolean", "byte": "byte", "short": "short", "int": "int", "long": "long",
    "float": "float", "double": "double", "dateTime": "dateTime", "base64Binary": "base64Binary", "anyURI": "anyURI",
    "PropertyPath": "string", "TypeName": "string", "MethodName": "string",
}  # fmt: skip


class Kind(Enum):
    """How a value of a field is written."""

    PRIMITIVE = "primitive"
    ENUM = "enum"
    REFERENCE = "reference"
    DATA = "data"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Field:
    """One member: ``type`` is the XSD name of a primitive, else the API's type name."""

    name: str
    type: str
    kind: Kind
    many: bool
    required: bool

    @property
    def item_name(self) -> str:
        """Element name of one item inside ``ArrayOfX``."""
        if self.kind is Kind.REFERENCE:
            return "ManagedObjectReference"
        if self.kind is Kind.ANY:
            return "anyType"
        return self.type


@dataclass(frozen=True, slots=True)
class ApiMethod:
    """One call: its parameters in wire order and what it returns."""

    parameters: tuple[Field, ...]
    result: Field | None


@dataclass(frozen=True, slots=True)
class DataType:
    """A data object type; ``fields`` starts with the inherited ones. ``lineage`` is the type and all its ancestors."""

    name: str
    lineage: frozenset[str]
    fields: tuple[Field, ...]
    by_name: Mapping[str, Field]


@dataclass(frozen=True, slots=True)
class ManagedType:
    """A managed object type with its inherited properties and methods."""

    name: str
    lineage: frozenset[str]
    properties: Mapping[str, Field]
    methods: Mapping[str, ApiMethod]


_HEAD = re.compile(r"^(\w+)(?:\((\w+)\))?:\s*(.*)$")
_CALL = re.compile(r"^\s+\.(\w+)\(([^)]*)\)(?:\s*->\s*(\S+))?$")


def _field(text: str) -> Field:
    name, _, spelled = text.partition("=")
    bare = spelled.rstrip("?*+")
    suffix = spelled[len(bare) :]
    kind, type_name = _kind(bare)
    return Field(name, type_name, kind, many=suffix in ("*", "+"), required=suffix in ("", "+"))


def _kind(bare: str) -> tuple[Kind, str]:
    if bare.startswith("&"):
        return Kind.REFERENCE, bare[1:]
    if bare.startswith("%"):
        return Kind.ENUM, bare[1:]
    if bare == "anyType":
        return Kind.ANY, bare
    if bare in PRIMITIVES:
        return Kind.PRIMITIVE, PRIMITIVES[bare]
    return Kind.DATA, bare


def _logical_lines(table: str) -> Iterator[str]:
    """Joins continuation lines (deeper indented, not a method) to the line they continue."""
    current = ""
    for line in table.strip("\n").splitlines():
        if line.startswith("    "):
            current += " " + line.strip()
            continue
        if current:
            yield current
        current = line
    if current:
        yield current


@cache
def data_types() -> Mapping[str, DataType]:
    """All data types by name."""
    heads = {m[1]: (m[2], m[3]) for m in map(_HEAD.match, _logical_lines(DATA_TYPES)) if m}
    done: dict[str, DataType] = {}

    def build(name: str) -> DataType:
        if name not in done:
            base_name, body = heads[name]
            base = build(base_name) if base_name else None
            fields = (base.fields if base else ()) + tuple(_field(text) for text in body.split())
            lineage = frozenset({name}) | (base.lineage if base else frozenset())
            done[name] = DataType(name, lineage, fields, {field.name: field for field in fields})
        return done[name]

    for name in heads:
        build(name)
    return done


@cache
def managed_types() -> Mapping[str, ManagedType]:
    """All managed types by name. The table lists a base type before its subtypes."""
    done: dict[str, ManagedType] = {}
    methods: dict[str, ApiMethod] = {}
    for line in _logical_lines(MANAGED_TYPES):
        if (head := _HEAD.match(line)) is not None:
            base = done[head[2]] if head[2] else None
            own = {field.name: field for field in map(_field, head[3].split())}
            methods = dict(base.methods) if base else {}
            lineage = frozenset({head[1]}) | (base.lineage if base else frozenset())
            properties = {**base.properties, **own} if base else own
            done[head[1]] = ManagedType(head[1], lineage, properties, methods)
        elif (call := _CALL.match(line)) is not None:
            result = _field(f"returnval={call[3]}") if call[3] else None
            methods[call[1]] = ApiMethod(tuple(_field(text) for text in call[2].split()), result)
    return done


MAX_PATH_NAMES: Final = 32
"""Some types hold themselves, so that a path could go on for ever; clients ask for half a dozen names."""


@cache
def _known_names() -> Mapping[str, Mapping[str, frozenset[str]]]:
    """Type -> name -> the types at which a path goes on."""
    known: dict[str, Mapping[str, frozenset[str]]] = {}
    for line in _logical_lines(PATHS):
        owner, _, names = line.partition(":")
        split = (name.partition("=") for name in names.split())
        members = {name: frozenset(types.split("|") if types else ()) for name, _, types in split}
        if owner not in managed_types():  # these two every data object has
            members |= {"dynamicType": frozenset(), "dynamicProperty": frozenset()}
        known[owner] = members
    return known


def in_wsdl(owner: ManagedType, path: str) -> bool:
    """Whether the API has the property path on objects of that type, modelled here or not."""
    known = _known_names()
    types = set(owner.lineage)
    names = path.split(".")
    for name in names[:MAX_PATH_NAMES]:
        places = [known[type_][name] for type_ in types if name in known.get(type_, {})]
        if not places:
            return False
        types = set().union(*places)
    return len(names) <= MAX_PATH_NAMES
