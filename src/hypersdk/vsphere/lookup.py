"""Single machines by name, path, moref or UUID, without reading the inventory.

::

    /DC0/vm/web    SearchIndex.FindByInventoryPath ──┐    (of a vCenter)
    UUID           SearchIndex.FindAllByUuid, twice ─┼─> morefs ─> rows of these machines ─> inventory.find_machine
    anything else  names of all machines ────────────┘

vCenter has no index of names. It sends the names of 10,000 machines in about a second, their rows in ten times that.

A selector means what it means in the whole inventory, with one exception: a path or UUID that the index finds is not
compared with the names of other machines.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, TypeAlias

from hypersdk.errors import HyperSDKError, LookupFailed, Refused, SourceError
from hypersdk.model import MachineSummary
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.inventory import AMBIGUOUS, AROUND, ROW, Inventory, find_machine, lies_in, not_found, to_places
from hypersdk.vsphere.paths import decode_name, encode_name
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.soap import filter_spec, read_inventory, read_list

LOG: Final = logging.getLogger(__name__)

Result: TypeAlias = MachineSummary | LookupFailed

NAMES_PAGE: Final = 5_000
"""Names per call: about a megabyte."""
MAX_PATHS: Final = 4
"""Paths of one lookup that the index is asked for, one by one; more of them are compared with the names."""
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def look_up(
    session: Session, selectors: Sequence[str], *, cancel: CancelToken, only_in: str | None = None
) -> list[Result]:
    """The machine that each selector means, or why there is none: as ``find_machine`` in the whole inventory, or in
    the datacenter ``only_in``. Their ``disks`` are not read.

    For one selector: a path takes two calls, a UUID three, a name four and one more for each further ``NAMES_PAGE``
    machines.
    """
    return _Lookup(session, cancel, only_in, paths=len(selectors) <= MAX_PATHS).find(selectors)


def look_up_one(
    session: Session, selector: str, *, cancel: CancelToken, datacenter: str | None = None
) -> MachineSummary:
    """As ``find_machine`` in the whole inventory. Raises LookupFailed ``not_found``, ``ambiguous``."""
    lookup = _Lookup(session, cancel, None, paths=True, preferred=datacenter)
    (found,) = lookup.find([selector])
    if isinstance(found, LookupFailed):
        raise found
    return found


class _Lookup:
    """Several lookups that share what they read. ``only_in`` is the datacenter outside of which nothing exists,
    ``preferred`` the one that decides between equal names."""

    def __init__(
        self, session: Session, cancel: CancelToken, only_in: str | None, *, paths: bool, preferred: str | None = None
    ) -> None:
        self._session = session
        self._cancel = cancel
        self._only_in = only_in
        self._paths = paths
        self._preferred = preferred
        self._rows: dict[str, MachineSummary] = {}

    def find(self, selectors: Sequence[str]) -> list[Result]:
        """The result for each selector."""
        found = self._chosen({selector: self._by_index(selector) for selector in selectors})
        left = [selector for selector, result in found.items() if _is_missing(result)]
        if left:
            found |= self._chosen({selector: self._by_name(selector) for selector in left})
        for selector in left:
            if _is_missing(found[selector]):
                found[selector] = not_found(selector.strip(), self._names.values())
        return [found[selector] for selector in selectors]

    def _chosen(self, candidates: Mapping[str, Sequence[str]]) -> dict[str, Result]:
        """What each selector means among its candidates, whose rows are read in one call."""
        self._read({moref for morefs in candidates.values() for moref in morefs})
        return {selector: self._choose(selector, morefs) for selector, morefs in candidates.items()}

    def _choose(self, selector: str, morefs: Iterable[str]) -> Result:
        rows = [self._rows[moref] for moref in morefs if moref in self._rows]
        pool = [row for row in rows if self._only_in is None or lies_in(row, self._only_in)]
        try:
            return find_machine(pool, selector, datacenter=self._preferred)
        except LookupFailed as error:
            return error

    def _by_index(self, selector: str) -> list[str]:
        """Morefs that vCenter's index has under a UUID or an absolute path. Blanks at the end of a path may be those of
        the machine's name."""
        wanted = selector.strip()
        search = self._session.content.searchIndex
        if search is None or not wanted.isprintable():
            return []
        if _UUID.fullmatch(wanted):
            found = [
                *self._asked(lambda: search.FindAllByUuid(None, wanted.lower(), True, True)),
                *self._asked(lambda: search.FindAllByUuid(None, wanted.lower(), True, False)),
            ]
        elif self._paths and self._session.about.is_vcenter and wanted.startswith("/"):
            path = "/".join(encode_name(decode_name(part)) for part in selector.lstrip().split("/") if part)
            found = self._asked(lambda: [search.FindByInventoryPath(path)])
        else:
            return []
        return list(dict.fromkeys(ref._moId for ref in found if ref is not None and ref._wsdlName == "VirtualMachine"))

    def _asked(self, ask: Callable[[], Any]) -> list[Any]:
        """The answer of the index; empty where it refuses the request: the names are searched then."""
        try:
            return list(self._session.call(ask))
        except (LookupFailed, Refused, SourceError) as error:
            LOG.info("the index cannot be searched: %s", error.message)
            return []

    def _by_name(self, selector: str) -> list[str]:
        """Morefs of the machines that ``selector`` may mean: all that ``find_machine`` needs to see."""
        wanted = selector.strip()
        names = {selector, wanted}
        names |= {decode_name(text.rstrip("/").rpartition("/")[2]) for text in (selector, wanted) if "/" in wanted}
        folded = wanted.casefold()
        return [
            moref
            for moref, name in self._names.items()
            if name in names or name.casefold() == folded or wanted in (moref, f"VirtualMachine:{moref}")
        ]

    @cached_property
    def _names(self) -> dict[str, str]:
        """Decoded names of all machines and templates, by moref."""

        def read() -> dict[str, str]:
            objects = read_inventory(
                self._session, {"VirtualMachine": ("name",)}, cancel=self._cancel, page_size=NAMES_PAGE
            )
            return {item.moref: decode_name(item.text("name") or item.moref) for item in objects}

        return self._session.call(read)

    def _read(self, morefs: Iterable[str]) -> None:
        new = [moref for moref in morefs if moref not in self._rows]
        if not new:
            return

        def spec() -> Any:
            roots = [self._session.ref("VirtualMachine", moref) for moref in new]
            return filter_spec(roots, {**AROUND, "VirtualMachine": ROW}, select=to_places())

        inventory = Inventory()
        for item in read_list(self._session, spec, cancel=self._cancel):
            inventory.add(item)
        self._rows |= {machine.moref: machine for machine in inventory.machines()}


def _is_missing(result: Result) -> bool:
    return isinstance(result, HyperSDKError) and result.code != AMBIGUOUS
