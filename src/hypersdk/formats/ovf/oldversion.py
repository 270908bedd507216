"""OVF 0.9, as VMware and VirtualBox wrote it before the standard: converted to OVF 1, so one reader is enough.

::

    <Section xsi:type="ovf:DiskSection_Type">      <DiskSection>
    <Content xsi:type="ovf:VirtualSystem_Type">    <VirtualSystem>
    rasd:Caption  rasd:InstanceId  rasd:BusNumber  rasd:ElementName  rasd:InstanceID  rasd:Address
    MegaBytes                                      byte * 2^20
"""

from __future__ import annotations

from typing import Final, cast

from lxml import etree

from hypersdk.formats.ovf.layout import ENVELOPES, OVF, OVF_09, RASD, VSSD, XSI
from hypersdk.formats.ovf.values import unit_bytes

_TYPED: Final = ("Section", "Content")
_TYPE: Final = f"{{{XSI}}}type"
_RENAMED: Final = {"Caption": "ElementName", "InstanceId": "InstanceID", "BusNumber": "Address"}
"""Children of ``Item`` and ``System``; the name of OVF 1 wins where an element has both."""


def is_old(root: etree._Element) -> bool:
    """Whether ``root`` needs ``as_version_1``: some tools write sections or items of 0.9 in the namespace of 1.0."""
    if etree.QName(root).namespace == OVF_09 or next(root.iter(f"{{{RASD}}}InstanceId"), None) is not None:
        return True
    return any(
        etree.QName(child).localname in _TYPED and child.get(_TYPE) for child in root.iterchildren(tag=etree.Element)
    )


def as_version_1(root: etree._Element) -> etree._Element:
    """Converts ``root`` from OVF 0.9 to 1. The new tree has the same depth."""
    namespaces: dict[str | None, str] = {None: OVF, "ovf": OVF}
    namespaces |= {
        prefix: uri for prefix, uri in root.nsmap.items() if prefix not in namespaces and uri not in ENVELOPES
    }
    envelope = etree.Element(f"{{{OVF}}}Envelope", nsmap=cast("dict[str, str]", namespaces))
    _fill(envelope, root)
    envelope.set(f"{{{OVF}}}version", "1.0")
    return envelope


def _fill(new: etree._Element, old: etree._Element) -> None:
    new.text, new.tail = old.text, old.tail
    for name, value in old.attrib.items():
        if str(name) != _TYPE or etree.QName(old).localname not in _TYPED:
            new.set(_attribute_name(str(name)), str(value))
    present = {etree.QName(child).localname for child in old.iterchildren(tag=etree.Element)}
    for child in old.iterchildren(tag=etree.Element):
        _fill(etree.SubElement(new, _tag(child, present)), child)
    if etree.QName(new).localname == "AllocationUnits" and (factor := unit_bytes(new.text or "")):
        new.text = f"byte * 2^{factor.bit_length() - 1}" if factor.bit_count() == 1 else new.text


def _tag(element: etree._Element, siblings: set[str]) -> str:
    name = etree.QName(element)
    local = name.localname
    if name.namespace in (RASD, VSSD):
        renamed = _RENAMED.get(local, local)
        return f"{{{name.namespace}}}{local if renamed in siblings else renamed}"
    if (name.namespace or OVF) not in ENVELOPES:
        return str(element.tag)
    kind = (element.get(_TYPE) or "").strip().rpartition(":")[2].removesuffix("_Type")
    return f"{{{OVF}}}{kind if local in _TYPED and kind.isascii() and kind.isidentifier() else local}"


def _attribute_name(name: str) -> str:
    parsed = etree.QName(name)
    local = "value" if parsed.localname == "defaultValue" else parsed.localname
    return f"{{{OVF}}}{local}" if parsed.namespace in ENVELOPES else name
