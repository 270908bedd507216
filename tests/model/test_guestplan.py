"""Vocabulary of a machine on its way to KVM."""

from __future__ import annotations

from hypersdk.model.guestplan import disk_letters


def test_letters_of_disks() -> None:
    numbers = (0, 25, 26, 27, 51, 52, 701, 702)
    assert [disk_letters(number) for number in numbers] == ["a", "z", "aa", "ab", "az", "ba", "zz", "aaa"]
