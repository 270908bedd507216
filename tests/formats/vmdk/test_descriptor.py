"""Descriptors as tools and people leave them: the extents are found, whatever the letters, the blanks and the line
ends."""

from __future__ import annotations

import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.errors import IntegrityError
from hypersdk.formats.vmdk.descriptor import Descriptor, is_descriptor, parse_descriptor

TEXT = """\
# Disk DescriptorFile
version=1
CID=7f3b2f2d
parentCID=ffffffff
createType="twoGbMaxExtentFlat"

# Extent description
RW 2048 FLAT "m-f001.vmdk" 0
RW 63 FLAT "m f=2.vmdk" 128

# The Disk Data Base
ddb.adapterType = "lsilogic"
"""


def found(text: str | bytes) -> list[tuple[int, str, str, int]]:
    """Sectors, kind, first name and offset of each extent."""
    data = text if isinstance(text, bytes) else text.encode()
    return [(line.sectors, line.kind, (line.names or ("",))[0], line.offset) for line in parse_descriptor(data).extents]


EXTENTS = [(2048, "FLAT", "m-f001.vmdk", 0), (63, "FLAT", "m f=2.vmdk", 128)]


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("\n", "\r"),
        TEXT.replace("=", " = ", 4),
        "\ufeff" + TEXT,
        TEXT + "\0" * 999,
        TEXT.replace("RW ", "  RW\t"),
        TEXT.replace("RW", "rw").replace("FLAT", "flat"),
        TEXT.replace("RW", "RDONLY"),
        TEXT.replace("version=1\n", ""),
        TEXT.replace("CID=7f3b2f2d\nparentCID=ffffffff\n", ""),
        TEXT.replace("ffffffff", "FFFFFFFF"),
        TEXT.replace('"twoGbMaxExtentFlat"', "custom"),
        TEXT.replace('.vmdk" 0\n', '.vmdk"\n'),
        TEXT.replace(" 128\n", " 128 partitionUUID 77  \n"),
        TEXT + "RWX\nRW.key = 1\nnonsense\nbar=\n\x01\n",
        TEXT.replace("parentCID=ffffffff", 'parentCID=ffffffff\nparentCID="12345678"'),
        TEXT.replace("ffffffff", "11111111"),
    ],
)
def test_what_does_not_touch_the_extents_does_not_matter(text: str) -> None:
    assert found(text) == EXTENTS


@pytest.mark.parametrize(
    "line",
    [
        'RW 8 FLAT "a" x',
        'RW 8 FLAT "a" -1',
        "RW",
        'RW eight FLAT "a" 0',
        'RW 8 FLAT "a',
        'NOACCESS 8 FLAT "a" 0',
        "RW 8 FLAT a.vmdk 0",
        "RW\t-8 ZERO",
    ],
)
def test_an_extent_that_cannot_be_read_is_never_left_out(line: str) -> None:
    """Leaving it out would move all that comes behind it."""
    with pytest.raises(IntegrityError, match="extent"):
        parse_descriptor(f"{TEXT}{line}\n".encode())


def test_a_range_that_nobody_may_read_and_nothing_is_in_is_zeros() -> None:
    assert found(TEXT + "NOACCESS 8 ZERO\n")[-1] == (8, "ZERO", "", 0)


@pytest.mark.parametrize("kind", ["SPARSE", "VMFSSPARSE"])
def test_a_delta_is_refused_where_the_parent_could_be_seen(kind: str) -> None:
    with pytest.raises(IntegrityError, match="delta"):
        parse_descriptor(TEXT.replace("ffffffff", "11111111").replace("63 FLAT", f"63 {kind}").encode())


@pytest.mark.parametrize(
    ("encoding", "codec", "name"),
    [
        ("GBK", "gbk", "虚拟机"),
        ("GB18030", "gb18030", "虚拟€机"),
        ("gb2312", "gb2312", "虚拟机"),
        ("windows-936", "gbk", "虚拟机"),
        ("Big5", "big5", "虛擬機"),
        ("Shift_JIS", "cp932", "仮想①表"),
        ("windows-932", "cp932", "仮想表"),
        ("EUC-KR", "euc_kr", "가상"),
        ("windows-949", "cp949", "가상똠"),
        ("windows-1252", "cp1252", "wéb–1"),
        ("windows-1251", "cp1251", "виртуал"),
        ("ISO-8859-1", "latin-1", "wéb"),
        ("ISO-8859-15", "iso8859-15", "w€b"),
        ("KOI8-R", "koi8-r", "виртуал"),
        ("UTF-8", "utf-8", "虚拟机"),
        ("utf8", "utf-8", "wéb"),
        ("windows-1254", "cp1254", "ağ"),
    ],
)
def test_a_name_is_read_in_the_encoding_that_the_descriptor_names(encoding: str, codec: str, name: str) -> None:
    raw = TEXT.replace("version=1", f'version=1\nencoding="{encoding}"').replace("m-f001", name).encode(codec)
    first = parse_descriptor(raw).extents[0]
    assert first.names[0] == f"{name}.vmdk"
    assert f"{name}.vmdk".encode(codec) in map(os.fsencode, first.names)  # the file may have kept its bytes


@pytest.mark.parametrize(
    "encoding",
    ["", "windows-1252", "GBK", "punycode", "unicode_escape", "rot13", "zip", "utf-7", "cp99999"],
)
def test_a_name_in_utf_8_is_found_whatever_the_descriptor_says(encoding: str) -> None:
    raw = TEXT.replace("version=1", f'version=1\nencoding="{encoding}"').replace("m-f001", "wéb–1").encode()
    assert "wéb–1.vmdk" in parse_descriptor(raw).extents[0].names


def test_a_file_is_a_descriptor_by_its_first_words() -> None:
    assert is_descriptor(TEXT.encode())
    assert is_descriptor(b"\xef\xbb\xbf# disk descriptor file\r\n")
    assert is_descriptor(b"# anything\n\n  version = 1\n")
    assert not is_descriptor(b"# anything\nconversion=1\n")
    assert not is_descriptor(b"")
    assert not is_descriptor(bytes(512))


def check(found: Descriptor) -> None:
    assert 0 <= found.capacity < 2**63
    assert all(line.offset >= 0 for line in found.extents)


@given(st.binary(max_size=300))
def test_any_bytes_make_sense_or_are_refused(data: bytes) -> None:
    is_descriptor(data)
    with contextlib.suppress(IntegrityError):
        check(parse_descriptor(data))


@given(st.integers(0, len(TEXT)), st.text(max_size=3), st.integers(0, 3))
def test_damage_makes_sense_or_is_refused(position: int, inserted: str, removed: int) -> None:
    with contextlib.suppress(IntegrityError):
        check(parse_descriptor((TEXT[:position] + inserted + TEXT[position + removed :]).encode()))
