"""Base of all managed objects: properties by the schema, operations by their wire names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, TypeVar

from hypersdk.simulator.encode import property_value
from hypersdk.simulator.schema import Field, Kind, ManagedType, data_types, in_wsdl, managed_types
from hypersdk.simulator.session import SessionRecord
from hypersdk.simulator.values import Data, MethodFault, Ref
from hypersdk.simulator.world import World

F = TypeVar("F", bound=Callable[..., Any])

_STEP: Final = re.compile(r'(\w+)(?:\[(\w[\w-]*|"[^"<>&]*")\])?')
_KEYED_PATH: Final = re.compile(rf"{_STEP.pattern}(?:\.{_STEP.pattern})*")

EMPTY_LISTS: Final = frozenset(
    {"customValue", "value", "availableField", "tag", "declaredAlarmState", "triggeredAlarmState"}
)
"""Lists that a vCenter sends for every entity even when they are empty: inventory tools iterate over them without
checking whether they are set."""


@dataclass(slots=True)
class Call:
    """One call in progress. For calls that block, ``peer_gone`` says whether the client hung up."""

    method: str
    args: Data
    session: SessionRecord | None
    peer_gone: Callable[[], bool]

    @property
    def caller(self) -> SessionRecord:
        """The calling session. The dispatcher lets no call without one through, but for ``OPEN_METHODS``."""
        assert self.session is not None
        return self.session


@dataclass(frozen=True, slots=True)
class MethodImplementation:
    """The Python function that implements a method of the API, and the privilege it needs on the object."""

    function: Callable[..., Any]
    privilege: str | None


Getter = Callable[[Any], Any]
"""Computes a property of the object."""


def operation(name: str, privilege: str | None = None) -> Callable[[F], F]:
    """Marks a method ``(self, call) -> value`` as the implementation of the API method ``name``."""

    def mark(function: F) -> F:
        function.__dict__.setdefault("_operations", {})[name] = MethodImplementation(function, privilege)
        return function

    return mark


def prop(name: str) -> Callable[[F], F]:
    """Marks a method ``(self) -> value`` as the property ``name``, computed when it is read."""

    def mark(function: F) -> F:
        function.__dict__["_property"] = name
        return function

    return mark


class Managed:
    """A managed object. Stored properties lie in ``values``; computed ones are methods marked with ``prop``."""

    api_type: ClassVar[str]
    cached: ClassVar[bool] = False
    """Whether the XML of properties may be cached until ``touch``: only for classes whose every change ends in
    ``touch``."""
    owner: SessionRecord | None = None
    """The session that alone sees the object."""
    operations: ClassVar[dict[str, MethodImplementation]] = {}
    getters: ClassVar[dict[str, Getter]] = {}

    def __init_subclass__(
        cls,
        *,
        api_type: str | None = None,
        references: Mapping[str, str] | None = None,
        computed: Mapping[str, Getter] | None = None,
    ) -> None:
        """``api_type`` is the type's name in the API. ``references`` are properties that refer to the object, or the
        list of objects, in a Python attribute; ``computed`` are properties with their functions."""
        super().__init_subclass__()
        if api_type is not None:
            cls.api_type = api_type
        refer = {name: _reference_getter(attribute) for name, attribute in (references or {}).items()}
        cls.operations, cls.getters = dict(cls.operations), {**cls.getters, **refer, **(computed or {})}
        for member in vars(cls).values():
            marks = getattr(member, "__dict__", {})
            cls.operations.update(marks.get("_operations", {}))
            if "_property" in marks:
                cls.getters[marks["_property"]] = member

    def __init__(self, world: World, moref: str, **values: Any) -> None:
        self.world = world
        self.ref = Ref(self.api_type, moref)
        self.values = values
        self._xml: dict[str, str] = {}
        world.add(self)

    @property
    def schema(self) -> ManagedType:
        """The API's view of this type."""
        return managed_types()[self.api_type]

    def is_a(self, type_: str) -> bool:
        """Whether the object is of that API type or a subtype."""
        return type_ in self.schema.lineage or type_ == "ManagedObjectReference"

    def touch(self) -> None:
        """Call it after every change of the object."""
        self.world.touch(self)

    def forget_cached(self) -> None:
        """Drops the cached XML of properties."""
        self._xml.clear()

    def volatile(self) -> bool:
        """Whether the object is changing by itself, so that nothing may be cached."""
        return False

    def get(self, name: str) -> Any:
        """A property's value; ``None`` when unset."""
        getter = self.getters.get(name)
        value = getter(self) if getter is not None else self.values.get(name)
        return [] if value is None and name in EMPTY_LISTS else value

    def property_xml(self, path: str, read: dict[str, Any]) -> str:
        """``<val>`` of a property path, empty when unset or not modelled. ``read`` caches what several paths of one
        response have in common.

        Raises MethodFault (InvalidProperty) for a path that does not exist.
        """
        cacheable = self.cached and not self.volatile() and "[" not in path  # the number of keys is unlimited
        if cacheable and path in self._xml:
            return self._xml[path]
        value, field = self.resolve(path, read)
        text = "" if value is None or field is None else property_value("val", value, field)
        if cacheable:
            self._xml[path] = text
        return text

    def resolve(self, path: str, read: dict[str, Any] | None = None) -> tuple[Any, Field | None]:
        """Value and field of a property path such as ``config.hardware.device``, or ``config.hardware.device[2000]``
        for the item of that key; a path may only end at a list, not go through it. A path that the API knows and
        the simulator does not model is unset: no value, no field.
        """
        known = {} if read is None else read
        (first, key), *rest = _steps(path)
        field = self.schema.properties.get(first)
        if field is not None and first not in known:
            known[first] = self.get(first)
        value, field = _item(known[first] if field is not None else None, field, key)
        for name, key in rest:
            field = _member(value, field, name)
            value, field = _item(value.fields.get(name) if isinstance(value, Data) else None, field, key)
        if field is None and not in_wsdl(self.schema, path):
            raise invalid_property(self.api_type, path)
        return value, field

    def property_names(self) -> Iterator[str]:
        """All properties that have a value, for ``all=true``."""
        return (name for name in self.schema.properties if self.get(name) is not None)


class SessionObject(Managed):
    """A managed object that only the calling session sees, and that ends with it."""

    def __init__(self, world: World, call: Call, kind: str, **values: Any) -> None:
        super().__init__(world, f"session[{call.caller.key}]{world.number(kind)}", **values)
        self.owner = call.caller
        call.caller.belongings.append(self)

    def destroy(self, call: Call) -> None:
        """Removes the object."""
        call.caller.belongings.remove(self)
        self.world.remove(self)


def visible_object(world: World, ref: Ref, session: SessionRecord | None) -> Managed | None:
    """The object, if the session may see it: not one that belongs to another session."""
    managed = world.find(ref, Managed)
    return managed if managed is not None and managed.owner in (None, session) else None


def _reference_getter(attribute: str) -> Getter:
    def read(managed: Managed) -> Any:
        value = getattr(managed, attribute)
        return [item.ref for item in value] if isinstance(value, list) else value and value.ref

    return read


def _steps(path: str) -> list[tuple[str, str]]:
    """The names of a path, each with the key in brackets behind it or ""; a text that is not a path counts as one
    unknown name."""
    if "[" not in path:
        return [(name, "") for name in path.split(".")]
    if not _KEYED_PATH.fullmatch(path):
        return [(path, "")]
    return [(step[1], step[2] or "") for step in _STEP.finditer(path)]


def _item(value: Any, field: Field | None, key: str) -> tuple[Any, Field | None]:
    """The item of a list that has ``key``, unset if there is none; with an empty key ``value`` itself."""
    if not key or field is None:
        return value, field
    if not field.many or field.kind is not Kind.DATA or "key" not in data_types()[field.type].by_name:
        return None, None
    wanted = key.strip('"')
    found = (item for item in value or [] if (item.key.moref if isinstance(item.key, Ref) else str(item.key)) == wanted)
    return next(found, None), replace(field, many=False)


def _member(value: Any, field: Field | None, name: str) -> Field | None:
    """The field ``name`` of a data object; ``None`` where it is not modelled, or no data object can be there."""
    if field is None or field.many or field.kind is not Kind.DATA:
        return None
    known = data_types().get(value.type if isinstance(value, Data) else field.type)
    return known.by_name.get(name) if known is not None else None


def invalid_property(owner: str, path: str) -> MethodFault:
    """The type has no such property."""
    return MethodFault.of("InvalidProperty", f"The property '{path}' does not exist on {owner}.", name=path)
