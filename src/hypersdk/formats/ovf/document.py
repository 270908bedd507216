"""Parses untrusted XML: bounded, without entities, without DTD, without network."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Final

from lxml import etree

from hypersdk.errors import BAD_FORMAT, IntegrityError, register
from hypersdk.formats.ovf.layout import ENVELOPES, MAX_DEPTH, MAX_ELEMENTS, MAX_OVF_BYTES
from hypersdk.formats.ovf.oldversion import as_version_1, is_old
from hypersdk.formats.ovf.values import Warnings

OVF_UNSAFE = register(
    "ovf_unsafe",
    "The OVF descriptor has content that is only found in attacks: a document type, a path outside its folder, or"
    " nesting or a size beyond the limit.",
    "Do not use this file. Ask its author for one written by ovftool, vSphere or HyperSDK.",
)

_MARKS: Final = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
"""Byte order marks, longest first (XML 1.0, appendix F.1)."""
_BEGINNINGS: Final = (
    ("<\0?\0".encode("latin-1"), "utf-16-le"),
    ("\0<\0?".encode("latin-1"), "utf-16-be"),
    ("<\0\0\0".encode("latin-1"), "utf-32-le"),
    ("\0\0\0<".encode("latin-1"), "utf-32-be"),
)
"""The bytes of ``<?`` without a mark (the same appendix)."""
_DECLARATION: Final = re.compile(r"\A\s{0,200}<\?xml\s[^>]{0,400}\?>")
_DECLARED: Final = re.compile(rb"\s{0,200}<\?xml\s[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})[\"']")
_DOCTYPE: Final = re.compile(r"(?:\s+|<\?.*?\?>|<!--.*?-->)*+<!", re.DOTALL)
_READABLE: Final = re.compile(
    r"ascii|utf-8|iso8859-\d+|cp\d{3,4}|gb2312|gbk|gb18030|big5|euc_(?:jp|kr)|shift_jis|koi8-[ru]|mac-roman"
)
"""Python's names of the accepted codecs: tables and multibyte sets that include ASCII, nothing with states."""


def parse_document(data: bytes, warnings: Warnings | None = None) -> etree._Element:
    """Returns the root ``Envelope`` of a descriptor, converted to OVF 1 or 2. Raises IntegrityError ``ovf_unsafe`` or
    ``bad_format``."""
    text = descriptor_text(data, warnings)
    if _DOCTYPE.match(text):
        raise unsafe("the descriptor has its own document type (DOCTYPE)")
    root = _parse(text, warnings)
    _check_shape(root)
    name = etree.QName(root)
    if name.localname != "Envelope" or name.namespace not in ENVELOPES:
        raise malformed(f"the root element is '{name.localname[:60]}', not an OVF Envelope")
    try:
        return as_version_1(root) if is_old(root) else root
    except ValueError as error:
        raise malformed(f"the descriptor has names that XML does not allow: {error}") from error


def descriptor_text(data: bytes, warnings: Warnings | None = None) -> str:
    """Returns the descriptor without its XML declaration, decoded according to its byte order mark or declaration.

    Only this text is searched for ``<!DOCTYPE`` and only this text is parsed, so an encoding cannot hide anything from
    the check. Bytes that are not valid in the encoding become U+FFFD: that may damage a note, but not the disks. Raises
    IntegrityError ``ovf_unsafe`` or ``bad_format``.
    """
    if len(data) > MAX_OVF_BYTES:
        raise unsafe(f"the descriptor has {len(data)} bytes, more than {MAX_OVF_BYTES}")
    mark, encoding = next((found for found in _MARKS if data.startswith(found[0])), (b"", ""))
    encoding = encoding or next((name for start, name in _BEGINNINGS if data.startswith(start)), "") or _declared(data)
    text = data[len(mark) :].decode(encoding, errors="replace")
    if "\0" in text:
        raise malformed("the descriptor holds NUL characters: it is not text")
    if "\ufffd" in text and warnings is not None and text.encode(encoding, errors="replace") != data[len(mark) :]:
        warnings.add(f"the descriptor has bytes that are not valid {encoding}; they are shown as U+FFFD")
    return _DECLARATION.sub("", text, count=1)


def _declared(data: bytes) -> str:
    """Returns the codec in the declaration of 8-bit text. A declaration of UTF-16 is wrong there: UTF-8 is used."""
    match = _DECLARED.match(data)
    name = match[1].decode() if match else "utf-8"
    if name.lower().startswith(("utf-16", "utf-32", "ucs-")):
        return "utf-8"
    try:
        codec = codecs.lookup(name).name
    except LookupError:
        codec = ""
    if not _READABLE.fullmatch(codec):
        raise malformed(f"the descriptor declares the encoding {name}, which is not supported; save it as UTF-8")
    return "utf-8" if codec == "ascii" else codec


def _parse(text: str, warnings: Warnings | None) -> etree._Element:
    data = text.encode(errors="replace")
    try:
        return etree.fromstring(data, parser := _parser(recover=False))
    except etree.XMLSyntaxError as error:
        if {entry.type for entry in parser.error_log} != {etree.ErrorTypes.WAR_NS_URI}:
            raise malformed(f"the descriptor is not well-formed XML: {str(error)[:200]}") from error
    # The only problem is a namespace with a blank in its name, a warning of libxml2 that lxml raises as an error.
    if warnings is not None:
        warnings.add("a namespace of the descriptor is not a valid URI")
    return etree.fromstring(data, _parser(recover=True))


def _parser(*, recover: bool) -> etree.XMLParser:
    return etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        recover=recover,
        remove_comments=True,
        remove_pis=True,
        strip_cdata=True,
    )


def _check_shape(root: etree._Element) -> None:
    depth = count = 0
    for event, _ in etree.iterwalk(root, events=("start", "end")):
        depth += 1 if event == "start" else -1
        count += event == "start"
        if depth > MAX_DEPTH or count > MAX_ELEMENTS:
            raise unsafe(f"the descriptor nests deeper than {MAX_DEPTH} or holds more than {MAX_ELEMENTS} elements")


# --- looking things up by local name: prefixes and versions of the namespaces differ between the tools
# -------------------


def children(element: etree._Element, *names: str) -> Iterator[etree._Element]:
    """Yields the direct children whose local name is one of ``names``."""
    return (child for child in element.iterchildren(tag=etree.Element) if etree.QName(child).localname in names)


def within(root: etree._Element, section: str, name: str) -> Iterator[etree._Element]:
    """The children ``name`` of the direct children ``section`` of ``root``."""
    return (found for parent in children(root, section) for found in children(parent, name))


def child(element: etree._Element, name: str) -> etree._Element | None:
    """Returns the first direct child of that local name."""
    return next(children(element, name), None)


def child_text(element: etree._Element, name: str) -> str | None:
    """Returns the text of the first direct child of that name; None where there is none or it is blank."""
    found = child(element, name)
    text = (found.text or "").strip() if found is not None else ""
    return text or None


def child_texts(element: etree._Element, name: str) -> list[str]:
    """Returns the texts of all direct children of that name that are not blank."""
    return [text for found in children(element, name) if (text := (found.text or "").strip())]


def attribute(element: etree._Element, name: str) -> str | None:
    """Returns the attribute of that local name, in any namespace; None where it is missing or blank."""
    for key, value in element.attrib.items():
        if str(key).rpartition("}")[2] == name:  # its namespace may be one that lxml.etree.QName refuses
            return str(value).strip() or None
    return None


def unsafe(message: str) -> IntegrityError:
    """Returns the error for a descriptor that must not be used."""
    return IntegrityError(message, code=OVF_UNSAFE)


def malformed(message: str) -> IntegrityError:
    """Returns the error for a descriptor that is not a usable OVF."""
    return IntegrityError(message, code=BAD_FORMAT)
