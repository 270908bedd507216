"""The .mf: the exact form on writing, nothing but that form (and its two known variants) on reading ours; every dialect
of others."""

from __future__ import annotations

import contextlib
import hashlib
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.errors import IntegrityError
from hypersdk.formats.mf import HEX_DIGITS, MAX_MF_BYTES, MfLine, format_mf, parse_mf, read_mf
from hypersdk.formats.names import is_bare_name
from tests.support.tools import run_tool

SHA = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"

names = st.text(min_size=1, max_size=60).filter(is_bare_name)


def test_the_line_has_the_form_that_ovftool_and_virt_v2v_take() -> None:
    assert format_mf([("SHA256", "web 01 (copy).ovf", SHA.upper())]) == f"SHA256(web 01 (copy).ovf)= {SHA}\n".encode()


@given(st.lists(st.tuples(st.sampled_from(sorted(HEX_DIGITS)), names), max_size=8, unique_by=lambda line: line[1]))
def test_what_is_written_is_read_again(lines: list[tuple[str, str]]) -> None:
    full = [(algorithm, name, hashlib.new(algorithm, name.encode()).hexdigest()) for algorithm, name in lines]
    assert parse_mf(format_mf(full)) == [MfLine(*line) for line in full]


@given(st.binary(max_size=400))
def test_any_bytes_end_in_good_lines_or_in_an_integrity_error(data: bytes) -> None:
    with contextlib.suppress(IntegrityError):
        lines = parse_mf(data)
        assert all(is_bare_name(line.name) and len(line.hexdigest) == HEX_DIGITS[line.algorithm] for line in lines)


@pytest.mark.parametrize(
    "text", [f"SHA256 (a.vmdk) = {SHA}\r\n", f"SHA256(a.vmdk)= {SHA}", f"\nSHA256(a.vmdk)={SHA.upper()}\n\n"]
)
def test_variants_of_other_tools_are_read(text: str) -> None:
    assert parse_mf(text.encode()) == [MfLine("SHA256", "a.vmdk", SHA)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"SHA256(../a)= {SHA}", 1),
        (f"SHA256(/etc/passwd)= {SHA}", 1),
        (f"SHA256(..)= {SHA}", 1),
        (f"SHA256(a\\b)= {SHA}", 1),
        (f"MD5(a)= {SHA[:32]}", 1),
        (f"SHA256(a)= {SHA[:-1]}", 1),
        (f"SHA1(a)= {SHA}", 1),
        (f"SHA256(a)= {SHA} x", 1),
        (f"SHA256(a)= {SHA}\nSHA256(a)= {SHA}", 2),
        (f"SHA256(a)= {SHA}\nrubbish", 2),
        (f"SHA256({'n' * 256})= {SHA}", 1),
    ],
)
def test_other_lines_are_refused_with_their_number(text: str, line: int) -> None:
    with pytest.raises(IntegrityError) as caught:
        parse_mf(text.encode())
    assert (caught.value.code, caught.value.fields["line"]) == ("bad_format", line)


@pytest.mark.parametrize("data", [b"x" * (MAX_MF_BYTES + 1), b"\xff\xfeS\0", b"\x80"])
def test_what_is_no_text_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="manifest"):
        parse_mf(data)


@pytest.mark.parametrize(("name", "digest"), [("a/b", SHA), ("", SHA), ("a\nb", SHA), ("a", SHA[:-2])])
def test_a_line_that_nobody_could_read_is_not_written(name: str, digest: str) -> None:
    with pytest.raises(ValueError, match="not a line"):
        format_mf([("SHA256", name, digest)])


def test_sha256sum_checks_our_files_by_our_lines(tmp_path: Path) -> None:
    """coreutils takes the form that openssl prints, which is this one."""
    (tmp_path / "web 01.ovf").write_bytes(b"descriptor")
    (tmp_path / "web 01-disk1.vmdk").write_bytes(b"disk")
    names = ["web 01.ovf", "web 01-disk1.vmdk"]
    lines = [("SHA256", name, hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()) for name in names]
    (tmp_path / "web 01.mf").write_bytes(format_mf(lines))
    said = run_tool("sh", "-c", 'cd "$1" && sha256sum --strict -c "web 01.mf"', "sh", tmp_path)
    assert said.splitlines() == [f"{name}: OK" for name in names]


def test_the_tagged_lines_of_sha256sum_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.vmdk").write_bytes(b"disk")
    tagged = run_tool("sha256sum", "--tag", str(tmp_path / "a.vmdk")).replace(str(tmp_path) + "/", "")
    assert parse_mf(tagged.encode()) == [MfLine("SHA256", "a.vmdk", hashlib.sha256(b"disk").hexdigest())]


# --- the manifests of others ------------------------------------------------------------------------------------------

ALGORITHMS = ("md5", "sha1", "sha256", "sha384", "sha512")


def hexdigest(algorithm: str) -> str:
    return hashlib.new(algorithm, b"disk", usedforsecurity=False).hexdigest()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "form",
    [
        "{A}({n})= {h}\n",
        "{A} ({n}) = {h}\r\n",
        "{A}({n})={H}",
        "{a}( {n} )  =  {h}\n\n",
        "\ufeff{A}({n})= {h}\n",
        "  {A}({n})= {h}\t\n",
        "# made by hand\n\n{A}({n})= {h}\n",
        "{h}  {n}\n",
        "{h} *{n}\n",
        "{H}\t{n}\r\n",
        "{A}(./{n})= {h}\n",
        "{h}  ./{n}\n",
        "{A}({n})= {h}\r",
        "{A}({n})= {h} checked\n",
        "{A}({n})= {h}\n\0\0",
    ],
)
@pytest.mark.parametrize("name", ["a.vmdk", "web 01 (copy).vmdk", "disks/a.vmdk", "a)= b.vmdk", "wéb.vmdk"])
def test_every_dialect_of_line(algorithm: str, form: str, name: str) -> None:
    digest = hexdigest(algorithm)
    data = form.format(A=algorithm.upper(), a=algorithm, n=name, h=digest, H=digest.upper()).encode()
    found = read_mf(data)
    assert (found.lines, found.unread) == ((MfLine(algorithm.upper(), name, digest),), ())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig"])
def test_encodings_with_a_byte_order_mark(encoding: str) -> None:
    text = f"SHA256(wéb.vmdk)= {SHA}\r\nSHA1(b)= {SHA[:40]}\r\n"
    data = ("\ufeff" * (encoding == "utf-16-be") + text).encode(encoding)
    assert [line.name for line in read_mf(data).lines] == ["wéb.vmdk", "b"]


@pytest.mark.parametrize("word", ["SHA2-256", "SHA-256", "sha256"])
def test_names_of_one_algorithm(word: str) -> None:
    assert read_mf(f"{word}(a)= {SHA}".encode()).lines == (MfLine("SHA256", "a", SHA),)


@pytest.mark.parametrize(
    "line",
    [
        f"SHA256(a)= {SHA[:-1]}",
        f"SHA1(a)= {SHA}",
        f"SHA256(a)= {SHA}x",
        "SHA256(a)=",
        f"SHA256()= {SHA}",
        f"CRC32(a)= {SHA}",
        "rubbish",
        SHA,
        "\x80",
        f"SHA256({'n' * 5000})= {SHA}",
    ],
)
def test_a_line_that_says_nothing_is_told_by_its_number_and_the_others_count(line: str) -> None:
    found = read_mf(f"SHA256(a)= {SHA}\n{line}\nSHA256(b)= {SHA}".encode("latin-1"))
    assert [entry.name for entry in found.lines] == ["a", "b"]
    assert found.unread == ("line 2 cannot be read",)


def test_two_lines_for_one_file_both_count() -> None:
    found = read_mf(f"SHA256(a)= {SHA}\nSHA1(a)= {SHA[:40]}\nSHA256(a)= {SHA[::-1]}".encode())
    assert [line.hexdigest for line in found.lines] == [SHA, SHA[:40], SHA[::-1]]


def test_one_that_is_too_long_says_nothing() -> None:
    assert read_mf(b"\n" * (MAX_MF_BYTES + 1)).unread


@pytest.mark.parametrize(
    "unit",
    [b"x" * 3000 + b"\n", b"SHA256(" + b")" * 4000, b") = " * 900 + b"\n", b"a" * 128 + b" " * 3900 + b"\n", b"\n"],
)
def test_a_hostile_one_is_read_in_a_moment(unit: bytes) -> None:
    began = time.process_time()
    read_mf((unit * (MAX_MF_BYTES // len(unit) + 1))[:MAX_MF_BYTES])
    assert time.process_time() - began < 10


@given(st.binary(max_size=400))
def test_any_bytes_end_in_good_lines_or_are_told(data: bytes) -> None:
    found = read_mf(data)
    assert all(len(line.hexdigest) == len(hexdigest(line.algorithm.lower())) and line.name for line in found.lines)
    assert (
        not data.strip(b" \t\r\n\0")
        or found.lines
        or found.unread
        or data.lstrip()[:1] in (b"#", b"\xff", b"\xfe", b"\xef")
    )


@given(st.integers(0, 200), st.binary(max_size=3), st.integers(0, 3))
def test_a_damaged_line_never_vouches_for_another_digest_of_its_file(
    position: int, inserted: bytes, removed: int
) -> None:
    """Whatever is done to one place of a line: its digest is what it was, or another that contradicts the file, or
    none."""
    text = f"SHA256(a.vmdk)= {SHA}\nSHA1(b.vmdk)= {SHA[:40]}\n".encode()
    found = read_mf(text[:position] + inserted + text[position + removed :])
    assert len(found.lines) <= 2 + inserted.count(b"\n") + inserted.count(b"\r")
    for line in found.lines:
        assert len(line.hexdigest) == len(hexdigest(line.algorithm.lower()))
