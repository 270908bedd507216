"""Fuzzy search over an inventory, fast enough to run at every key press: 10,000 machines within a few milliseconds.

A query is one or more words; each must be found in a machine's name, path, guest system or host as it stands, or in its
name letter by letter in order (``pweb2`` finds ``prod-eu-web-02``; in longer texts nearly every word could be found
that way). All texts are lowered once, and a query that continues the one before only looks at what that one found: a
longer query never matches more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

from hypersdk.model import MachineSummary
from hypersdk.text import natural_key

Ranked: TypeAlias = list[int]
"""``rank << RANK_SHIFT | position`` of machines: plain integers sort fast, and the garbage collector never looks at
them."""
RANK_SHIFT: Final = 32
_POSITION: Final = (1 << RANK_SHIFT) - 1

MAX_QUERY: Final = 200
"""Characters of a query that are looked at."""

# Ranks, the best first; the ranks of all words of a query are added up.
_NAME_START: Final = 0
_NAME_WORD: Final = 10
_NAME_INSIDE: Final = 20
_ELSEWHERE: Final = 30
_NAME_LETTERS: Final = 40  # plus how far the letters are spread, up to 50
_MAX_SPREAD: Final = 50


class Word:
    """One word of a query."""

    def __init__(self, text: str) -> None:
        self.text = text
        # `w[^e]*e[^b]*b` finds the letters in order without ever going back: no name can make it slow.
        steps = [f"[^{re.escape(char)}]*{re.escape(char)}" for char in text[1:]]
        self._letters = re.compile(re.escape(text[0]) + "".join(steps))

    def narrow(self, found: Ranked, names: Sequence[str], elsewhere: Sequence[str]) -> Ranked:
        """Of ``found`` those that hold this word, their rank made worse by how well it is found. One tight loop: it
        runs at every key press."""
        text, letters = self.text, self._letters.search
        kept = []
        for ranked in found:
            at = ranked & _POSITION
            name = names[at]
            start = name.find(text)
            if start == 0:
                rank = _NAME_START
            elif start > 0:
                rank = _NAME_INSIDE if name[start - 1].isalnum() else _NAME_WORD
            elif text in elsewhere[at]:
                rank = _ELSEWHERE
            elif match := letters(name):
                rank = _NAME_LETTERS + min(match.end() - match.start() - len(text), _MAX_SPREAD)
            else:
                continue
            kept.append(ranked + (rank << RANK_SHIFT))
        return kept

    def positions(self, name: str) -> Iterable[int]:
        """Which characters of the (lowered) name it was found at, for highlighting; none where it was found
        elsewhere."""
        at = name.find(self.text)
        if at >= 0:
            return range(at, at + len(self.text))
        match = self._letters.search(name)
        return _spread(self.text, name, match.start()) if match else ()


def _spread(text: str, name: str, start: int) -> list[int]:
    found: list[int] = []
    for char in text:
        start = name.index(char, start)
        found.append(start)
        start += 1
    return found


def words_of(query: str) -> list[Word]:
    """The words of ``query``, lowered."""
    return [Word(word) for word in query[:MAX_QUERY].lower().split()]


class Index:
    """An inventory made searchable. Positions in ``machines`` stand for the machines."""

    def __init__(self, machines: Sequence[MachineSummary]) -> None:
        self.machines = machines
        self._names = [machine.name.lower() for machine in machines]
        self._elsewhere = [_other_text(machine) for machine in machines]
        self._steps: list[tuple[str, Ranked]] = [("", list(range(len(machines))))]

    def search(self, query: str) -> list[int]:
        """Positions of the machines that match ``query``, the best first; those of equal rank in the inventory's
        order."""
        query = " ".join(query[:MAX_QUERY].lower().split())
        while not query.startswith(self._steps[-1][0]):
            self._steps.pop()
        if query != self._steps[-1][0]:
            self._steps.append((query, self._narrow(words_of(query), self._steps[-1][1])))
        return [ranked & _POSITION for ranked in self._steps[-1][1]]

    def _narrow(self, words: Sequence[Word], candidates: Ranked) -> Ranked:
        found = [ranked & _POSITION for ranked in candidates]
        for word in words:
            found = word.narrow(found, self._names, self._elsewhere)
        found.sort()
        return found


def _other_text(machine: MachineSummary) -> str:
    """All that is searched besides the name, in one text; the line ends keep words of two fields apart."""
    parts = (machine.path, machine.guest_name, machine.host, machine.moref)
    return "\n".join(part for part in parts if part).lower()


SORT_KEYS: Final[dict[str, Callable[[MachineSummary], Any]]] = {
    "name": lambda machine: natural_key(machine.name),
    "power": lambda machine: machine.power.value != "on",
    "cpus": lambda machine: machine.cpus,
    "memory": lambda machine: machine.memory_bytes,
    "size": lambda machine: machine.provisioned_bytes or 0,
    "used": lambda machine: machine.used_bytes or 0,
    "guest": lambda machine: (machine.guest_name or "").lower(),
    "host": lambda machine: natural_key(machine.host or ""),
    "path": lambda machine: natural_key(machine.path),
}
"""What the inventory can be sorted by. Numbers fall, texts rise."""
FALLING: Final = frozenset({"cpus", "memory", "size", "used"})


def sort_machines(machines: Iterable[MachineSummary], column: str, *, reverse: bool = False) -> list[MachineSummary]:
    """``machines`` sorted by ``column`` of SORT_KEYS."""
    return sorted(machines, key=SORT_KEYS[column], reverse=(column in FALLING) != reverse)
