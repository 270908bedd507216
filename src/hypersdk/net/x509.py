"""The few facts of an X.509 certificate that people compare: who, by whom, from when to when.

A reader of just that path through the DER of RFC 5280, section 4.1, so that showing a certificate which is *not*
trusted needs no cryptography library. It decides nothing: trust is decided by ``ssl`` or by the fingerprint of the
whole certificate::

    Certificate ::= SEQUENCE { TBSCertificate ::= SEQUENCE {
        [0] version, INTEGER serial, SEQUENCE algorithm, SEQUENCE issuer, SEQUENCE { notBefore, notAfter }, SEQUENCE subject, ... } ... }
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

MAX_CERTIFICATE_BYTES: Final = 64 * 1024

_SEQUENCE: Final = 0x30
_SET: Final = 0x31
_OID: Final = 0x06
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18
_VERSION: Final = 0xA0
_BMP_STRING: Final = 0x1E
_STRING_TAGS: Final = {0x0C: "utf-8", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", _BMP_STRING: "utf-16-be"}

_NAMES: Final = {  # attribute types of RFC 4519 and RFC 2985, by the content of their OID
    b"\x55\x04\x03": "CN",
    b"\x55\x04\x06": "C",
    b"\x55\x04\x07": "L",
    b"\x55\x04\x08": "ST",
    b"\x55\x04\x0a": "O",
    b"\x55\x04\x0b": "OU",
    b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x01": "emailAddress",
    b"\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x19": "DC",
}


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """``subject`` and ``issuer`` as ``CN=vc.example.com, O=Example``; times in UTC."""

    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime


def decode_certificate(der: bytes) -> CertificateFacts:
    """The facts of one DER certificate. Raises ValueError when it is none, or longer than ``MAX_CERTIFICATE_BYTES``."""
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise ValueError("certificate is absurdly long")
    fields = [field for field in _children(_only(_only(memoryview(der), _SEQUENCE), _SEQUENCE)) if field[0] != _VERSION]
    if len(fields) < 5:
        raise ValueError("certificate lacks fields")
    (_, issuer), (_, validity), (_, subject) = fields[2:5]
    times = [_time(tag, body) for tag, body in _children(validity)]
    if len(times) != 2:
        raise ValueError("certificate has no validity")
    return CertificateFacts(_name(subject), _name(issuer), times[0], times[1])


def _element(data: memoryview) -> tuple[int, memoryview, memoryview]:
    """Tag, content and what follows of the first element in ``data``."""
    if len(data) < 2:
        raise ValueError("DER element is cut short")
    tag, first = data[0], data[1]
    if first < 0x80:
        start, length = 2, first
    else:
        count = first & 0x7F
        if not 1 <= count <= 4 or len(data) < 2 + count:
            raise ValueError("DER length is not valid")
        start, length = 2 + count, int.from_bytes(data[2 : 2 + count], "big")
    if len(data) - start < length:
        raise ValueError("DER element is cut short")
    return tag, data[start : start + length], data[start + length :]


def _only(data: memoryview, tag: int) -> memoryview:
    """Content of the first element, which must be a ``tag``."""
    found, body, _ = _element(data)
    if found != tag:
        raise ValueError(f"DER tag {found:#x} where {tag:#x} belongs")
    return body


def _children(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    while data:
        tag, body, data = _element(data)
        yield tag, body


def _name(body: memoryview) -> str:
    """A distinguished name for people, most specific part first."""
    parts = [
        _attribute(attribute) for tag, group in _children(body) if tag == _SET for _, attribute in _children(group)
    ]
    return ", ".join(reversed(parts)) or "(no name)"


def _attribute(body: memoryview) -> str:
    pair = list(_children(body))
    if len(pair) != 2 or pair[0][0] != _OID:
        raise ValueError("certificate name is not valid")
    label = _NAMES.get(bytes(pair[0][1]), bytes(pair[0][1]).hex())
    encoding = _STRING_TAGS.get(pair[1][0], "latin-1")
    text = bytes(pair[1][1]).decode(encoding, "replace")
    return f"{label}={''.join(char if char.isprintable() else '?' for char in text)}"


def _time(tag: int, body: memoryview) -> datetime:
    text = bytes(body).decode("ascii", "replace")
    if tag == _UTC_TIME:  # two-digit years: 50 to 99 are 19xx (RFC 5280, 4.1.2.5.1)
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("certificate time is not valid")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
