"""XML to values, by the schema. Input is untrusted: no entities, no DTD, bounded size and depth, unknown members
rejected by name."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from lxml import etree

from hypersdk.simulator.schema import PRIMITIVES, DataType, Field, Kind, data_types
from hypersdk.simulator.values import Data, MethodFault, Ref, invalid_request
from hypersdk.units import MiB

VIM: Final = "urn:vim25"
SOAP: Final = "http://schemas.xmlsoap.org/soap/envelope/"
XSI_TYPE: Final = "{http://www.w3.org/2001/XMLSchema-instance}type"
MAX_REQUEST_BYTES: Final = 16 * MiB
"""No client here sends more than a few hundred KiB; a list view of 10,000 objects is 1 MiB."""

MAX_DEPTH: Final = 64
"""Clients nest about ten deep."""


def parse_request(body: bytes) -> etree._Element:
    """The one element inside the SOAP body. Raises MethodFault (InvalidRequest) for anything else."""
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(body, parser)
    except etree.XMLSyntaxError as error:
        raise invalid_request(f"the request is not XML: {error.msg}") from error
    if root.getroottree().docinfo.internalDTD is not None:
        raise invalid_request("a document type is not allowed")
    _check_depth(root)
    soap_body = root.find(f"{{{SOAP}}}Body")
    calls: list[etree._Element] = list(soap_body) if soap_body is not None else []
    if len(calls) != 1:
        raise invalid_request("the SOAP body must hold one element")
    return calls[0]


def _check_depth(root: etree._Element) -> None:
    depth = 0
    for event, _ in etree.iterwalk(root, events=("start", "end")):
        depth += 1 if event == "start" else -1
        if depth > MAX_DEPTH:
            raise invalid_request(f"the request is nested deeper than {MAX_DEPTH} elements")


def local(node: etree._Element) -> str:
    """Tag without its namespace."""
    return etree.QName(node).localname


def parameters(call: etree._Element, fields: tuple[Field, ...]) -> Data:
    """The arguments of a method call, without ``_this``."""
    known = {field.name: field for field in fields}
    args = _members([node for node in call if local(node) != "_this"], known, local(call))
    for field in fields:
        if field.required and field.name not in args:
            if not field.many:
                raise invalid_request(f"{local(call)}: required parameter '{field.name}' is missing")
            args[field.name] = []
    return Data(local(call), **args)


def this(call: etree._Element) -> Ref:
    """The object that the method is called on."""
    node = next((node for node in call if local(node) == "_this"), None)
    if node is None:
        raise invalid_request(f"{local(call)}: _this is missing")
    return _reference(node)


def _members(nodes: list[etree._Element], known: Mapping[str, Field], owner: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for node in nodes:
        field = known.get(local(node))
        if field is None:
            raise invalid_request(f"{owner}: '{local(node)}' is not simulated")
        value = _value(node, field)
        if field.many:
            values.setdefault(field.name, []).append(value)
        elif field.name in values:
            raise invalid_request(f"{owner}: '{field.name}' is given twice")
        else:
            values[field.name] = value
    return values


def _value(node: etree._Element, field: Field) -> Any:
    if field.kind is Kind.REFERENCE:
        return _reference(node)
    if field.kind is Kind.DATA:
        return _data(node, _actual_type(node, field.type))
    if field.kind is Kind.ANY:
        return _any(node)
    return _scalar((node.text or ""), field.type)


def _reference(node: etree._Element) -> Ref:
    return Ref(node.get("type", ""), (node.text or "").strip())


def _bare(type_name: str) -> str:
    return type_name.rpartition(":")[2]


def _actual_type(node: etree._Element, declared: str) -> DataType:
    name = _bare(node.get(XSI_TYPE, declared))
    actual = data_types().get(name)
    if actual is None or declared not in actual.lineage:
        raise invalid_request(f"'{local(node)}': type '{name}' is not simulated here (expected {declared})")
    return actual


def _data(node: etree._Element, actual: DataType) -> Data:
    return Data(actual.name, **_members(list(node), actual.by_name, actual.name))


def _any(node: etree._Element) -> Any:
    name = _bare(node.get(XSI_TYPE, "string"))
    if name == "ManagedObjectReference":
        return _reference(node)
    if name.startswith("ArrayOf"):
        return [_any(item) for item in node]
    if name in data_types():
        return _data(node, data_types()[name])
    return _scalar(node.text or "", PRIMITIVES.get(name, "string"))


def _scalar(text: str, xsd: str) -> Any:
    try:
        return _parse_scalar(text, xsd)
    except (ValueError, KeyError, binascii.Error) as error:
        raise MethodFault.of("InvalidArgument", f"'{text[:60]}' is not of type {xsd}") from error


def _parse_scalar(text: str, xsd: str) -> Any:
    if xsd in ("byte", "short", "int", "long"):
        if len(text) > 24:
            raise ValueError(text)
        return int(text)
    if xsd == "boolean":
        return {"true": True, "1": True, "false": False, "0": False}[text.strip().lower()] if text.strip() else False
    if xsd in ("float", "double"):
        return float(text[:64])
    if xsd == "dateTime":
        moment = datetime.fromisoformat(text.strip())
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return base64.b64decode(text, validate=False) if xsd == "base64Binary" else text
