"""Which machines an export means: names, patterns, folders, tags, words.

::

    names, patterns ─┐
    --folder ────────┼─ each that is given narrows the selection ─> --exclude takes machines out ─> the machines
    --tag ───────────┤  (several values of one are alternatives)
    --filter ────────┘

A text that names exactly one thing means that: a machine called ``web[1]`` is not a pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from hypersdk.cli.picker.search import Index
from hypersdk.errors import LookupFailed, UsageError, register
from hypersdk.model import MachineSummary
from hypersdk.remedies import Look
from hypersdk.text import count
from hypersdk.vsphere.inventory import find_machine, split_at_vm
from hypersdk.vsphere.paths import decode_name

GLOB: Final = frozenset("*?[")
NOTHING_SELECTED: Final = register(
    "nothing_selected",
    "No machine meets all that was asked for.",
    "Leave out one of the conditions, or correct it.",
    Look("machines"),
)
NAME_MACHINES: Final = "Like `hyper2kvm export web01 -o /srv/images`; see `hyper2kvm export --help`."


@dataclass(frozen=True, slots=True)
class Selection:
    """What was asked for. ``names`` are names, inventory paths, morefs, UUIDs or patterns of names and paths; ``query``
    is what ``list --filter`` takes."""

    names: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    query: str = ""
    exclude: tuple[str, ...] = ()
    everything: bool = False

    @property
    def given(self) -> bool:
        """Whether anything was asked for."""
        return self != Selection()

    @property
    def by_name_only(self) -> bool:
        """Whether each machine is named, so that the inventory need not be read as a whole."""
        return bool(self.names) and self == Selection(names=self.names) and not any(map(is_pattern, self.names))

    def check(self) -> None:
        """Raises UsageError for what cannot be meant."""
        narrowed = self.names or self.folders or self.tags or self.query
        if self.everything and self.names:
            raise UsageError("--all and names of machines exclude each other")
        if not self.everything and not narrowed:
            raise UsageError("--exclude only leaves machines out", next_step="Add --all, or say which machines.")
        for flag, texts in (("--folder", self.folders), ("--tag", self.tags), ("--exclude", self.exclude)):
            if not all(text.strip(" /") for text in texts):
                raise UsageError(f"{flag} is empty", next_step=NAME_MACHINES)
        if self.everything or any(text.strip() for text in self.names or (self.query, *self.folders, *self.tags)):
            return
        raise UsageError("the name of the machine is empty", next_step=NAME_MACHINES)

    def text(self) -> str:
        """The conditions, for messages."""
        parts = [f"'{name}'" for name in self.names] or ["--all"] * self.everything
        parts += [f"--folder '{folder}'" for folder in self.folders] + [f"--tag '{tag}'" for tag in self.tags]
        parts += [f"--filter '{self.query}'"] if self.query else []
        return ", ".join(parts)


def is_pattern(text: str) -> bool:
    """Whether ``text`` may be a pattern; a machine may have that name nevertheless."""
    return not GLOB.isdisjoint(text)


def select(
    machines: Sequence[MachineSummary],
    selection: Selection,
    *,
    tagged: Collection[str] = frozenset(),
    warn: Callable[[str], None],
) -> list[MachineSummary]:
    """The machines that ``selection`` means, each once: in the order of the names, else in that of the inventory.
    ``tagged`` are the morefs of those that carry one of its tags.

    Raises LookupFailed: ``not_found``, ``ambiguous``, ``nothing_selected``.
    """
    found = _named(machines, selection.names) if selection.names else list(machines)
    if selection.folders:
        inside = {machine.moref for folder in selection.folders for machine in _in_folder(machines, folder)}
        found = [machine for machine in found if machine.moref in inside]
    if selection.tags:
        found = [machine for machine in found if machine.moref in tagged]
    if selection.query:
        meant = {machines[at].moref for at in Index(machines).search(selection.query)}
        found = [machine for machine in found if machine.moref in meant]
    out = {machine.moref for pattern in selection.exclude for machine in _excluded(found, pattern, warn)}
    left = [machine for machine in found if machine.moref not in out]
    if not left:
        raise _nothing(selection, len(machines), len(found))
    return left


def _named(machines: Sequence[MachineSummary], names: Iterable[str]) -> list[MachineSummary]:
    found = [machine for name in names for machine in _meant_by(machines, name)]
    return list({machine.moref: machine for machine in found}.values())


def _meant_by(machines: Sequence[MachineSummary], name: str) -> list[MachineSummary]:
    """The machine that is called ``name``; else, if it is a pattern, those that it matches."""
    try:
        return [find_machine(machines, name)]
    except LookupFailed as error:
        if error.code != LookupFailed.default_code or not is_pattern(name):
            raise
    if found := _matched(machines, name):
        return found
    raise LookupFailed(f"no machine matches '{name}'")


def _matched(machines: Iterable[MachineSummary], pattern: str) -> list[MachineSummary]:
    """By name or, where the pattern has a slash, by path; upper and lower case are the same. A ``*`` does not match a
    slash."""
    wanted = pattern.strip().casefold()
    if "/" not in wanted:
        return [machine for machine in machines if fnmatchcase(machine.name.casefold(), wanted)]
    parts = _parts(wanted)
    return [
        machine
        for machine in machines
        if any(len(path) == len(parts) and _begins(path, parts, fnmatchcase) for path in _paths(machine, wanted))
    ]


def _in_folder(machines: Sequence[MachineSummary], folder: str) -> list[MachineSummary]:
    """The machines in a folder and in those below it: by its exact path if there is one, else as a pattern. Raises
    LookupFailed ``not_found``."""
    parts = _parts(folder.casefold())
    for same in (str.__eq__, fnmatchcase):
        found = [
            machine
            for machine in machines
            if any(len(path) > len(parts) and _begins(path, parts, same) for path in _paths(machine, folder))
        ]
        if found:
            return found
    raise LookupFailed(
        f"no machine lies in a folder '{folder}'",
        next_step="Write its path from the datacenter, like /DC0/vm/Production, or from below it, like Production.",
    )


def _excluded(machines: Sequence[MachineSummary], pattern: str, warn: Callable[[str], None]) -> list[MachineSummary]:
    """Those of ``machines`` that ``pattern`` names or matches. Nothing is not an error, but may be a slip."""
    try:
        return [find_machine(machines, pattern)]
    except LookupFailed as error:
        if found := _matched(machines, pattern):
            return found
        if error.code != LookupFailed.default_code:
            raise
    warn(f"--exclude '{pattern}' excludes no machine")
    return []


def _parts(path: str) -> list[str]:
    return [decode_name(part) for part in path.split("/") if part]


def _paths(machine: MachineSummary, wanted: str) -> list[list[str]]:
    """The ways to write the machine's path: from the root and, where ``wanted`` does not begin there, from below the
    ``vm`` folder of its datacenter."""
    whole = _parts(machine.path.casefold())
    below = [decode_name(part.casefold()) for part in split_at_vm(machine)[1]]
    return [whole] if wanted.startswith("/") else [whole, below]


def _begins(path: Sequence[str], parts: Sequence[str], same: Callable[[str, str], bool]) -> bool:
    return all(same(own, part) for own, part in zip(path, parts, strict=False))


def _nothing(selection: Selection, total: int, found: int) -> LookupFailed:
    if found:
        return LookupFailed(
            f"--exclude leaves none of the {count(found, 'machine')} that {selection.text()} selects",
            code=NOTHING_SELECTED,
        )
    if not total:
        return LookupFailed("the server shows no machines to this account", code=NOTHING_SELECTED)
    return LookupFailed(f"none of {count(total, 'machine')} matches {selection.text()}", code=NOTHING_SELECTED)
