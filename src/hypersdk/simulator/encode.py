"""Values to XML, by the schema. The rules here are those that govc, pyVmomi and libvirt all accept:

``val`` and everything else that stands for ``anyType`` carries ``xsi:type``, ``xsd:`` for primitives and the bare name
for types of the API; each item of an ``ArrayOfX`` is typed; a reference carries ``type``; what is unset is absent.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from xml.sax.saxutils import escape

from hypersdk.simulator.schema import Field, Kind, data_types
from hypersdk.simulator.values import Data, Ref

_INT32 = range(-(2**31), 2**31)
_ANY = Field("", "anyType", Kind.ANY, many=False, required=False)


def scalar(value: Any) -> str:
    """Text of a primitive."""
    if isinstance(value, str):
        return escape(_printable(value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def _printable(text: str) -> str:
    """XML 1.0 has no way to write most control characters."""
    if text.isprintable():
        return text
    return "".join(c if c in "\t\n\r" or c >= " " else "?" for c in text)


def xsd_type(value: Any) -> str:
    """The XSD type of a Python value that stands for ``anyType``."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "int" if value in _INT32 else "long"
    for python, name in ((float, "double"), (datetime, "dateTime"), (bytes, "base64Binary")):
        if isinstance(value, python):
            return name
    return "string"


def element(name: str, value: Any, field: Field, *, typed: bool = False) -> str:
    """``value`` as the element ``name``; a list becomes one element per item. ``typed`` writes ``xsi:type`` even where
    it is known."""
    if value is None:
        return ""
    if field.many:
        return "".join(_one(name, item, field, typed) for item in value)
    return _one(name, value, field, typed)


def _one(name: str, value: Any, field: Field, typed: bool) -> str:
    if isinstance(value, Data):
        xsi = f' xsi:type="{value.type}"' if typed or value.type != field.type else ""
        return f"<{name}{xsi}>{members(value)}</{name}>"
    if isinstance(value, Ref):
        return reference(name, value, typed=typed or field.kind is Kind.ANY)
    if field.kind is Kind.ANY:
        if isinstance(value, list | tuple):
            return _any_list(name, value)
        return f'<{name} xsi:type="xsd:{xsd_type(value)}">{scalar(value)}</{name}>'
    type_name = field.type if field.kind is Kind.ENUM else f"xsd:{field.type}"
    xsi = f' xsi:type="{type_name}"' if typed else ""
    return f"<{name}{xsi}>{scalar(value)}</{name}>"


def reference(name: str, ref: Ref, *, typed: bool = False) -> str:
    """A managed object reference as the element ``name``."""
    xsi = ' xsi:type="ManagedObjectReference"' if typed else ""
    return f'<{name} type="{ref.type}"{xsi}>{escape(ref.moref)}</{name}>'


def members(value: Data) -> str:
    """The fields of a data object, in the schema's order."""
    fields = value.fields
    known = data_types()[value.type].fields
    return "".join(element(field.name, fields[field.name], field) for field in known if field.name in fields)


def _any_list(name: str, items: Sequence[Any]) -> str:
    first = items[0] if items else ""
    item_name = (
        "ManagedObjectReference"
        if isinstance(first, Ref)
        else first.type
        if isinstance(first, Data)
        else xsd_type(first)
    )
    return _array(name, item_name, "".join(_one(item_name, item, _ANY, typed=True) for item in items))


def _array(name: str, item_name: str, items: str) -> str:
    return f'<{name} xsi:type="ArrayOf{item_name[0].upper()}{item_name[1:]}">{items}</{name}>'


def property_value(name: str, value: Any, field: Field) -> str:
    """A property in ``val``: typed throughout; a list as one typed ``ArrayOfX``."""
    if field.many:
        item_name = field.item_name
        return _array(name, item_name, "".join(_one(item_name, item, field, typed=True) for item in value))
    return _one(name, value, field, typed=True)
