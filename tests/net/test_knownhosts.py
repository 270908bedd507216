from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.errors import UsageError
from hypersdk.net.certificate import format_fingerprint, parse_fingerprint
from hypersdk.net.knownhosts import known_fingerprint, remember_host

ONE, TWO = "1a" * 32, "2b" * 20


def test_the_last_word_stands_and_other_hosts_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "new" / "known_hosts"
    remember_host(file, "vc.example.com", 443, ONE)
    remember_host(file, "2001:db8::7", 8443, format_fingerprint(TWO))
    remember_host(file, "VC.example.com", 443, TWO)
    assert known_fingerprint([file], "vc.example.com", 443) == TWO
    assert known_fingerprint([file], "2001:DB8::7", 8443) == TWO
    assert known_fingerprint([file], "vc.example.com", 8443) is None
    assert len(file.read_text().splitlines()) == 2
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["known_hosts"]


def test_lines_that_are_none_are_skipped_and_the_first_file_goes_first(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(
        b"# note\nvc.example.com:443\nvc.example.com xyz\n\xff\xfe\nh.example.com " + ONE.encode() + b"\n"
    )
    second.write_text(f"vc.example.com {format_fingerprint(TWO)}\nh.example.com {TWO}\n")
    assert known_fingerprint([tmp_path / "none", first, second], "vc.example.com", 443) == TWO
    assert known_fingerprint([first, second], "h.example.com", 443) == ONE


def test_a_file_that_cannot_be_read_is_an_error_not_a_missing_entry(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="known-hosts"):
        known_fingerprint([tmp_path], "vc.example.com", 443)


@pytest.mark.parametrize(
    "text",
    [ONE, ONE.upper(), format_fingerprint(ONE), f"SHA256:{ONE}", f"sha-256={format_fingerprint(ONE)}", f" {ONE} "],
)
def test_prints_are_taken_in_every_usual_form(text: str) -> None:
    assert parse_fingerprint(text) == ONE


@given(st.text(max_size=100).filter(lambda text: len(text.strip()) not in (40, 64)))
def test_what_is_no_print_is_refused(text: str) -> None:
    try:
        digits = parse_fingerprint(text)
    except UsageError:
        return
    assert len(digits) in (40, 64)
    assert set(digits) <= set("0123456789abcdef")
