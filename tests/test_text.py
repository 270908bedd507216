"""Text from outside, over all code points: one line, nothing hidden, nothing moved; names that every file system of
Linux takes."""

from __future__ import annotations

import os
import subprocess
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.migration.naming import stem_of
from hypersdk.text import clean, file_name, shell_word

EVERYTHING = [chr(code) for code in range(0x110000)]
UNSAFE_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
NAMED = (
    "\x00\x1b\x7f\x85\x9b\xad\u061c\u115f\u180e\u200b\u200d\u200e\u202e\u2028\u2029"
    "\u2066\u3164\ufe0f\ufeff\ufff9\U000e0041\U000e0100\ud800\ue000"
)
"""One of each kind, and those that were seen to forge or hide."""


def is_safe(text: str) -> bool:
    """By the Unicode data alone, not by our own rule."""
    return not any(unicodedata.category(char) in UNSAFE_CATEGORIES for char in text)


def test_every_code_point_is_shown_in_one_line_that_hides_nothing() -> None:
    for char in EVERYTHING:
        shown = clean(f"a{char}b")
        assert is_safe(shown), f"U+{ord(char):04X}"
        assert len(shown.splitlines()) == 1
        if not is_safe(char):
            assert shown.startswith("a\\"), f"U+{ord(char):04X} is written out, not dropped"
            assert shown[1:-1].encode("ascii").decode("unicode_escape").encode(errors="surrogatepass") == char.encode(
                errors="surrogatepass"
            )
    shown = clean("".join(EVERYTHING), 1 << 24)
    assert is_safe(shown)
    assert clean(shown, 1 << 24) == shown, "what is clean stays"


@pytest.mark.parametrize("char", NAMED)
def test_what_is_invisible_is_written_out(char: str) -> None:
    code = ord(char)
    written = f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    assert clean(f"vm{char}-01") == f"vm{written}-01"


@pytest.mark.parametrize(
    "text", ["web-01", "Müller & Söhne", "名前\u3000一", "база", "שלום", "e\u0301 a\u00a0b", "🐧", "back\\slash"]
)
def test_what_people_write_stays(text: str) -> None:
    assert clean(text) == text
    assert shell_word(text) in (text, f"'{text}'")


def test_what_is_joined_of_several_falls_apart_visibly() -> None:
    assert clean("👩\u200d💻") == "👩\\u200d💻"


def test_the_answer_is_bounded() -> None:
    assert clean("\u202e" * 5000, 100) == "\\u202e" * 16 + "\\u2…"
    assert len(clean("x" * 10**6)) == 4096


def test_every_code_point_in_a_file_name(tmp_path: Path) -> None:
    for char in EVERYTHING:
        name = file_name(f"a{char}b")
        assert is_safe(name), f"U+{ord(char):04X}"
        assert "/" not in name
        assert "\\" not in name
        assert len(name) == 3
        assert file_name(char) not in ("", ".", "..")
    (tmp_path / file_name("".join(EVERYTHING))).write_text("a file system takes it")


@given(st.text(), st.integers(10, 255))
def test_a_file_name_of_any_text(text: str, limit: int) -> None:
    name = file_name(text, limit)
    assert 0 < len(name.encode()) <= limit
    assert name[0] not in "-."
    assert name == name.strip()
    assert file_name(name, limit) == name, "a name of ours stays as it is"
    assert len(stem_of(text).encode()) <= 180


def test_letters_stay_composed_or_decomposed() -> None:
    assert file_name("e\u0301") == "e\u0301"
    assert file_name("\u00e9") == "\u00e9"


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8), min_size=1, max_size=4))
def test_words_for_a_shell_come_back(words: list[str]) -> None:
    command = " ".join(map(shell_word, words))
    assert is_safe(command)
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == words


def test_a_path_that_is_no_utf8_comes_back_from_the_shell() -> None:
    word = os.fsdecode(b"/srv/\xff\xfe x")
    done = subprocess.run(["bash", "-c", f"printf %s {shell_word(word)}"], capture_output=True, check=True)
    assert done.stdout == b"/srv/\xff\xfe x"
