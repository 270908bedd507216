"""XML from strangers: bounded, without entities, without DTD, without network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from lxml import etree

from hypersdk.errors import BAD_FORMAT, IntegrityError, register
from hypersdk.formats.ovf.layout import ENVELOPES, MAX_DEPTH, MAX_ELEMENTS, MAX_OVF_BYTES

OVF_UNSAFE = register(
    "ovf_unsafe",
    "The OVF descriptor holds what only an attack needs: a document type, a path out of its folder, absurd nesting or size.",
    "Do not use this file. Ask whoever made it for one written by ovftool, vSphere or HyperSDK.",
)

_BOM: Final = b"\xef\xbb\xbf"
_DECLARED: Final = re.compile(r"<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})[\"']")
_PROLOG: Final = re.compile(r"(?:\s+|<\?.*?\?>|<!--.*?-->)*", re.DOTALL)
_UTF8_NAMES: Final = ("utf-8", "utf8", "us-ascii", "ascii")


def parse_document(data: bytes) -> etree._Element:
    """The root ``Envelope`` of a descriptor.

    UTF-8 only: it is what OVF tools write, and an encoding that hides ``<!DOCTYPE`` from one reader and shows it to another is
    how filters are passed. Raises IntegrityError ``ovf_unsafe`` or ``bad_format``.
    """
    if len(data) > MAX_OVF_BYTES:
        raise unsafe(f"the descriptor has {len(data)} bytes, more than {MAX_OVF_BYTES}")
    text = _decode(data)
    if text.startswith("<!", _prolog_end(text)):
        raise unsafe("the descriptor brings its own document type (DOCTYPE)")
    root = _parse(text)
    _check_shape(root)
    name = etree.QName(root)
    if name.localname != "Envelope" or name.namespace not in ENVELOPES:
        raise malformed(f"the root element is '{name.localname[:60]}', not an OVF Envelope")
    return root


def _decode(data: bytes) -> str:
    try:
        text = data.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        raise malformed(f"the descriptor is not UTF-8 text ({error.reason} at byte {error.start})") from error
    if "\0" in text:
        raise malformed("the descriptor holds NUL characters: it is not UTF-8 text")
    declared = _DECLARED.match(text)
    if declared and declared[1].lower() not in _UTF8_NAMES:
        raise malformed(f"the descriptor declares the encoding {declared[1]}; only UTF-8 is read")
    return text


def _prolog_end(text: str) -> int:
    match = _PROLOG.match(text)
    return match.end() if match else 0


def _parse(text: str) -> etree._Element:
    parser = etree.XMLParser(
        encoding="utf-8", resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False,
        remove_comments=True, remove_pis=True, strip_cdata=True,
    )  # fmt: skip
    try:
        return etree.fromstring(text.encode(), parser)
    except etree.XMLSyntaxError as error:
        raise malformed(f"the descriptor is not well-formed XML: {str(error)[:200]}") from error


def _check_shape(root: etree._Element) -> None:
    depth = count = 0
    for event, _ in etree.iterwalk(root, events=("start", "end")):
        depth += 1 if event == "start" else -1
        count += event == "start"
        if depth > MAX_DEPTH or count > MAX_ELEMENTS:
            raise unsafe(f"the descriptor nests deeper than {MAX_DEPTH} or holds more than {MAX_ELEMENTS} elements")


# --- looking things up by local name: prefixes and versions of the namespaces differ between the tools -------------------


def children(element: etree._Element, *names: str) -> Iterator[etree._Element]:
    """The direct children whose local name is one of ``names``."""
    return (child for child in element.iterchildren(tag=etree.Element) if etree.QName(child).localname in names)


def child(element: etree._Element, name: str) -> etree._Element | None:
    """The first direct child of that local name."""
    return next(children(element, name), None)


def child_text(element: etree._Element, name: str) -> str | None:
    """The text of the first direct child of that name; ``None`` where there is none or it is blank."""
    found = child(element, name)
    text = (found.text or "").strip() if found is not None else ""
    return text or None


def attribute(element: etree._Element, name: str) -> str | None:
    """The attribute of that local name, in whatever namespace; ``None`` where it is missing or blank."""
    for key, value in element.attrib.items():
        if etree.QName(str(key)).localname == name:
            return str(value).strip() or None
    return None


def unsafe(message: str) -> IntegrityError:
    """The descriptor must not be used."""
    return IntegrityError(message, code=OVF_UNSAFE)


def malformed(message: str) -> IntegrityError:
    """The descriptor says something that is not OVF, or not an OVF that can be used."""
    return IntegrityError(message, code=BAD_FORMAT)
