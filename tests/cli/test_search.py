"""The fuzzy search of the picker and of `list --filter`."""

from __future__ import annotations

import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.cli.picker.search import FALLING, SORT_KEYS, Index, sort_machines, words_of
from hypersdk.text import natural_key
from tests.support.inventories import inventory, machine

NAMES = st.lists(st.text(string.ascii_lowercase[:4] + "-1", min_size=1, max_size=8), min_size=1, max_size=30)
QUERIES = st.text(string.ascii_lowercase[:4] + "-1 ", max_size=5)


def found(names: list[str], query: str) -> list[str]:
    machines = [machine(number, name=name) for number, name in enumerate(names)]
    return [machines[at].name for at in Index(machines).search(query)]


def test_letters_may_stand_apart() -> None:
    assert found(["prod-eu-web-02", "prod-eu-db-01"], "pweb2") == ["prod-eu-web-02"]


def test_every_word_must_be_found_somewhere() -> None:
    machines = [machine(1, name="web1", host="esx7.example.com"), machine(2, name="web2", host="esx8.example.com")]
    assert Index(machines).search("web esx8") == [1]
    assert Index(machines).search("web esx9") == []


@pytest.mark.parametrize("query", ["Debian", "esx17", "/dc1/vm/fold", "vm-17"])
def test_guest_host_path_and_moref_are_searched(query: str) -> None:
    wanted = machine(17, name="x", guest="Debian GNU/Linux 12", host="esx17.example.com", path="/DC1/vm/folder/x")
    assert Index([machine(1, name="y", guest="Windows", host="a", path="/B/y"), wanted]).search(query) == [1]


def test_the_better_match_comes_first() -> None:
    assert found(["a-web", "xweb", "w-e-b", "web"], "web") == ["web", "a-web", "xweb", "w-e-b"]


@given(NAMES, QUERIES, QUERIES)
def test_narrowing_finds_what_a_fresh_search_finds(names: list[str], before: str, more: str) -> None:
    machines = [machine(number, name=name) for number, name in enumerate(names)]
    typed, fresh = Index(machines), Index(machines)
    for end in range(len(before + more) + 1):
        typed.search((before + more)[:end])
    assert typed.search(before + more) == fresh.search(before + more)
    assert typed.search(before) == Index(machines).search(before)  # backspace


@given(NAMES, QUERIES)
def test_a_machine_is_found_if_its_letters_are_there_in_order(names: list[str], query: str) -> None:
    def holds(name: str, word: str) -> bool:
        rest = iter(name)
        return all(char in rest for char in word)

    machines = [
        machine(number, name=name, path="", guest=None, host=None, moref="") for number, name in enumerate(names)
    ]
    wanted = [at for at, name in enumerate(names) if all(holds(name, word) for word in query.split())]
    assert sorted(Index(machines).search(query)) == wanted


@given(st.text(min_size=1, max_size=20), st.text(max_size=10))
def test_any_text_can_be_searched_and_highlighted(name: str, query: str) -> None:
    assert set(found([name], query)) <= {name}
    for word in words_of(query):
        for at in word.positions(name.lower()):
            assert name.lower()[at] in word.text


def test_no_name_makes_it_slow() -> None:
    machines = [machine(number, name="a" * 80, path="", guest="a" * 80, host=None) for number in range(2000)]
    index = Index(machines)
    started = time.process_time()
    assert index.search("a" * 40 + "b") == []
    assert time.process_time() - started < 30, "letters are looked for again and again"


def test_numbers_in_names_sort_as_numbers() -> None:
    assert sorted(["web10", "Web9", "web1"], key=natural_key) == ["web1", "Web9", "web10"]


@pytest.mark.parametrize("column", SORT_KEYS)
def test_every_column_sorts_both_ways(column: str) -> None:
    machines = inventory(200)
    keys = [SORT_KEYS[column](one) for one in sort_machines(machines, column)]
    assert keys == sorted(keys, reverse=column in FALLING)
    turned = [SORT_KEYS[column](one) for one in sort_machines(machines, column, reverse=True)]
    assert turned == sorted(keys, reverse=column not in FALLING)
