"""Lines of plain text from what guests and firmware really send, in any pieces."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hypersdk.kvm.consoletext import MAX_KEPT, MAX_LINE, ConsoleText

SHELL = (
    b"\x1b[07;01HPress \x1b[1m\x1b[37m\x1b[40mESC\x1b[0m\x1b[37m\x1b[40m in 1 seconds to skip "
    b"\x1b[1m\x1b[33m\x1b[40mstartup.nsh\x1b[0m\x1b[37m\x1b[40m or any other key to continue.\r\n"
    b"\x1b[08;01H\x1b[1m\x1b[33m\x1b[40mShell> \x1b[0m\x1b[37m\x1b[40m"
)
"""What OVMF sends when it starts its shell."""
SHELL_TEXT = "Press ESC in 1 seconds to skip startup.nsh or any other key to continue.\nShell>"


def text_of(*pieces: bytes) -> str:
    console = ConsoleText()
    for piece in pieces:
        console.feed(piece)
    return console.text


def test_escape_sequences_are_left_out_and_a_jump_ends_a_line() -> None:
    assert text_of(SHELL) == SHELL_TEXT


@given(st.lists(st.integers(0, len(SHELL)), max_size=12))
def test_the_pieces_do_not_matter(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(SHELL)]
    assert text_of(*(SHELL[start:end] for start, end in itertools.pairwise(ends))) == SHELL_TEXT


def test_a_prompt_without_an_end_of_line_is_given_as_the_last_line() -> None:
    console = ConsoleText()
    assert console.feed(b"one\r\ntwo\r\nserver lo") == ["one", "two", "server lo"]
    assert console.feed(b"gin: ") == ["server login:"]
    assert console.feed(b"\r\n") == ["server login:", ""]


def test_characters_are_joined_and_damaged_ones_replaced() -> None:
    name = "Grüße".encode()
    assert text_of(*(bytes([byte]) for byte in name)) == "Grüße"
    assert text_of(b"a\xffb") == "a\N{REPLACEMENT CHARACTER}b"


def test_controls_that_could_act_on_a_terminal_are_escaped() -> None:
    assert text_of(b"\x1b]0;title\x07a\x07b\x9b31mc\xe2\x80\xaed") == "a\\x07b\N{REPLACEMENT CHARACTER}31mc\\u202ed"
    assert text_of(b"Passwort\b\b\brd") == "Passwrd"


def test_output_without_end_is_bounded() -> None:
    console = ConsoleText()
    for _ in range(20):
        console.feed(b"x" * 100_000)
    assert len(console.feed(b"")[-1]) <= MAX_LINE
    for number in range(40_000):
        console.feed(b"line %d of many\n" % number)
    text = console.text
    assert len(text) < MAX_KEPT + 100_000
    assert text.endswith("line 39999 of many")
    assert "earlier lines are not kept" in text.splitlines()[0]


def test_a_sequence_that_never_ends_swallows_no_text() -> None:
    assert text_of(b"\x1b[", b"1;" * 4000, b"\n(initramfs) ").splitlines()[-1] == "(initramfs)"
    assert text_of(b"\x1b]0;", b"a" * 4000, b"\n(initramfs) ").splitlines()[-1] == "(initramfs)"


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_any_bytes_give_plain_text(pieces: list[bytes]) -> None:
    assert all(line.isprintable() for line in text_of(*pieces).splitlines())
