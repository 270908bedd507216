"""The PropertyCollector: select objects by walking the inventory, read named properties, page, wait for changes."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hypersdk.simulator.encode import reference
from hypersdk.simulator.managed import Call, Managed, SessionObject, operation, prop, visible_object
from hypersdk.simulator.session import SessionRecord
from hypersdk.simulator.values import Data, MethodFault, Ref, invalid_request, not_authenticated, object_not_found
from hypersdk.simulator.world import World

POLL_S: Final = 0.5
"""How often a blocked wait checks whether its client hung up."""
SETTLE_S: Final = 0.01
"""Changes that happen together are reported together."""
MAX_TOKENS: Final = 64
MAX_SELECTIONS: Final = 1000
"""Clients send a dozen; each may visit every object."""


class Raw(str):
    """A method result that is XML already."""

    __slots__ = ()


class Selection:
    """One PropertyFilterSpec of a session, ready to be walked."""

    def __init__(self, world: World, session: SessionRecord, spec: Data) -> None:
        self._world = world
        self._session = session
        self._spec = spec
        self._named: dict[str, Data] = {}
        self._count = 0
        for start in spec.objectSet:
            self._collect_names(start.selectSet or [])
        self._prop_sets: dict[str, list[Data]] = {}  # by type

    def _visible(self, ref: Ref) -> Managed | None:
        return visible_object(self._world, ref, self._session)

    def _collect_names(self, selections: Sequence[Data]) -> None:
        for selection in selections:
            self._count += 1
            if self._count > MAX_SELECTIONS:
                raise invalid_request(f"more than {MAX_SELECTIONS} selections")
            if selection.type == "TraversalSpec":
                if selection.name:
                    self._named[selection.name] = selection
                self._collect_names(selection.selectSet or [])

    def objects(self) -> Iterator[Managed]:
        """The selected objects that some propSet wants, each once."""
        emitted: set[str] = set()
        walked: set[tuple[str, int]] = set()
        for start in self._spec.objectSet:
            managed = self._visible(start.obj)
            if managed is None:
                if self._spec.reportMissingObjectsInResults:
                    continue
                raise object_not_found(start.obj)
            for found in self._walk(managed, bool(start.skip), start.selectSet or [], walked):
                if found.ref.moref not in emitted and self._wanted(found):
                    emitted.add(found.ref.moref)
                    yield found

    def present(self) -> list[Managed]:
        """As ``objects``; none once an object that the walk starts from is gone."""
        gone = any(self._visible(start.obj) is None for start in self._spec.objectSet)
        return [] if gone else list(self.objects())

    def _walk(
        self, start: Managed, skip: bool, selections: Sequence[Data], walked: set[tuple[str, int]]
    ) -> Iterator[Managed]:
        """Depth first without recursion: inventories may be deep, and a selection may name itself."""
        if not skip:
            yield start
        pending = [(start, selection) for selection in reversed(selections)]
        while pending:
            managed, selection = pending.pop()
            traversal = self._traversal(selection)
            mark = (managed.ref.moref, id(traversal))
            if mark in walked or not managed.is_a(traversal["type"]):
                continue
            walked.add(mark)
            children = self._children(managed, traversal.path)
            if not traversal.skip:
                yield from children
            below = traversal.selectSet or []
            pending.extend((child, selection) for child in reversed(children) for selection in reversed(below))

    def _traversal(self, selection: Data) -> Data:
        if selection.type == "TraversalSpec":
            return selection
        named = self._named.get(selection.name or "")
        if named is None:
            raise invalid_request(f"no traversal is named '{selection.name}'")
        return named

    def _children(self, managed: Managed, path: str) -> list[Managed]:
        value, _ = managed.resolve(path)
        refs = value if isinstance(value, list) else [value] if value is not None else []
        return [child for ref in refs if isinstance(ref, Ref) and (child := self._visible(ref)) is not None]

    def _wanted(self, managed: Managed) -> list[Data]:
        """The propSets that name the object's type or a base type of it."""
        if managed.api_type not in self._prop_sets:
            named = [prop_set for prop_set in self._spec.propSet if managed.is_a(prop_set["type"])]
            self._prop_sets[managed.api_type] = named
        return self._prop_sets[managed.api_type]

    def values(self, managed: Managed) -> list[tuple[str, str]]:
        """Path and ``<val>`` of each wanted property that is set."""
        wanted = self._wanted(managed)
        paths = list(managed.property_names()) if any(prop_set.all for prop_set in wanted) else []
        for prop_set in wanted:
            paths += prop_set.pathSet or []
        read: dict[str, Any] = {}
        pairs = ((path, managed.property_xml(path, read)) for path in dict.fromkeys(paths))
        return [(path, val) for path, val in pairs if val]


def object_content(selection: Selection, managed: Managed, name: str) -> str:
    """One ObjectContent."""
    sets = "".join(f"<propSet><name>{path}</name>{val}</propSet>" for path, val in selection.values(managed))
    return f"<{name}>{reference('obj', managed.ref)}{sets}</{name}>"


Page = list[tuple[Selection, Managed]]


@dataclass(slots=True)
class PropertyWatch:
    """What one session watches, the version that it was sent last, and whether it canceled its wait."""

    filters: list[PropertyFilter] = field(default_factory=list)
    version: int = 0
    cancelled: bool = False

    def check_version(self, version: str) -> None:
        """The version that a wait starts from; an empty one starts anew. Raises MethodFault
        (InvalidCollectorVersion)."""
        if version == "":
            self.version = 0
            for watched in self.filters:
                watched.start_over()
        elif version != str(self.version):
            raise MethodFault.of("InvalidCollectorVersion", "The version is not the one sent last.")

    def updates(self, budget: int) -> tuple[str, str]:
        """The XML of at most ``budget`` updates, empty if there are none, and of the mark that there are more."""
        filter_sets: list[str] = []
        truncated = ""
        for watched in self.filters:
            updates, more = watched.updates(budget)
            budget -= len(updates)
            if more:
                truncated = "<truncated>true</truncated>"
            if updates:
                filter_sets.append(f"<filterSet>{reference('filter', watched.ref)}{''.join(updates)}</filterSet>")
        self.version += bool(filter_sets)
        return "".join(filter_sets), truncated


class PropertyCollector(Managed, api_type="PropertyCollector"):
    """The default collector of a session, or a private one made by CreatePropertyCollector."""

    def __init__(self, world: World, moref: str, *, page_objects: int) -> None:
        super().__init__(world, moref)
        self.page_objects = page_objects
        self.watches: defaultdict[SessionRecord, PropertyWatch] = defaultdict(PropertyWatch)
        self._tokens: dict[str, tuple[SessionRecord, Page, int]] = {}  # token -> session, rest, page size
        self._serial = itertools.count(1)

    def drop_session(self, session: SessionRecord) -> None:
        """Forgets the filters and pages of a session that ended."""
        self.watches.pop(session, None)
        self._tokens = {token: rest for token, rest in self._tokens.items() if rest[0] is not session}

    @prop("filter")
    def _filter(self) -> list[Ref]:
        return [made.ref for watch in self.watches.values() for made in watch.filters]

    # Reading

    @operation("RetrieveProperties")
    def _retrieve_all(self, call: Call) -> Raw:
        pairs = self._select(call, call.args.specSet)
        return Raw("".join(object_content(selection, managed, "returnval") for selection, managed in pairs))

    @operation("RetrievePropertiesEx")
    def _retrieve(self, call: Call) -> Raw:
        requested = call.args.options.maxObjects
        if requested is not None and requested <= 0:
            raise MethodFault.of(
                "InvalidArgument", "maxObjects must be above zero.", invalidProperty="options.maxObjects"
            )
        size = min(requested or self.page_objects, self.page_objects)
        return self._page(call, self._select(call, call.args.specSet), size)

    @operation("ContinueRetrievePropertiesEx")
    def _continue(self, call: Call) -> Raw:
        session, rest, size = self._tokens.pop(call.args.token, (None, [], 0))
        if session is not call.session:
            raise MethodFault.of("InvalidArgument", "The token is not known.", invalidProperty="token")
        return self._page(call, rest, size)

    @operation("CancelRetrievePropertiesEx")
    def _cancel_retrieve(self, call: Call) -> None:
        if self._tokens.pop(call.args.token, None) is None:
            raise MethodFault.of("InvalidArgument", "The token is not known.", invalidProperty="token")

    def _select(self, call: Call, specs: Sequence[Data]) -> Page:
        chosen = [Selection(self.world, call.caller, spec) for spec in specs]
        return [(selection, managed) for selection in chosen for managed in selection.objects()]

    def _page(self, call: Call, selected: Page, size: int) -> Raw:
        objects = "".join(object_content(selection, managed, "objects") for selection, managed in selected[:size])
        if len(selected) <= size:
            return Raw(f"<returnval>{objects}</returnval>" if objects else "")
        token = f"{self.ref.moref}-page-{next(self._serial)}"
        if len(self._tokens) >= MAX_TOKENS:
            self._tokens.pop(next(iter(self._tokens)))
        self._tokens[token] = (call.caller, selected[size:], size)
        return Raw(f"<returnval><token>{token}</token>{objects}</returnval>")

    # Waiting

    @operation("CreatePropertyCollector")
    def _create(self, call: Call) -> Ref:
        moref = f"session[{call.caller.key}]{self.world.number('collector-')}"
        private = PropertyCollector(self.world, moref, page_objects=self.page_objects)
        private.owner = call.caller
        call.caller.belongings.append(private)
        return private.ref

    @operation("DestroyPropertyCollector")
    def _destroy(self, call: Call) -> None:
        if self.owner is None:
            raise MethodFault.of("NotSupported", "The default property collector cannot be destroyed.")
        for watched in self.watches[call.caller].filters:
            watched.destroy(call)
        call.caller.belongings.remove(self)
        self.world.remove(self)

    @operation("CreateFilter")
    def _create_filter(self, call: Call) -> Ref:
        selection = Selection(self.world, call.caller, call.args.spec)
        for managed in selection.objects():
            selection.values(managed)  # a path that does not exist fails here, not in the wait
        return PropertyFilter(self.world, call, selection, self.watches[call.caller]).ref

    @operation("WaitForUpdatesEx")
    def _wait_ex(self, call: Call) -> Raw:
        options = call.args.options or Data("WaitOptions")
        return self._wait(call, options.maxWaitSeconds, options.maxObjectUpdates)

    @operation("WaitForUpdates")
    def _wait_plain(self, call: Call) -> Raw:
        return self._wait(call)

    @operation("CheckForUpdates")
    def _check(self, call: Call) -> Raw:
        return self._wait(call, limit_s=0)

    @operation("CancelWaitForUpdates")
    def _cancel_wait(self, call: Call) -> None:
        self.watches[call.caller].cancelled = True
        self.world.changed.notify_all()

    def _wait(self, call: Call, limit_s: float | None = None, most: int | None = None) -> Raw:
        """Blocks under the world's condition until some filter of the session has updates."""
        watch = self.watches[call.caller]
        watch.check_version(call.args.version or "")
        watch.cancelled = False
        deadline = None if limit_s is None else time.monotonic() + limit_s
        seen = -1
        while True:
            if self.world.tick != seen:
                seen = self.world.tick
                updates, truncated = watch.updates(most or 2**31)
                if updates:
                    return Raw(f"<returnval><version>{watch.version}</version>{updates}{truncated}</returnval>")
            if deadline is not None and time.monotonic() >= deadline:
                return Raw("")
            self._sleep(call, deadline)

    def _sleep(self, call: Call, deadline: float | None) -> None:
        span_s = POLL_S if deadline is None else min(POLL_S, max(0.0, deadline - time.monotonic()))
        woken = self.world.changed.wait(span_s)
        if woken:
            self.world.changed.wait(SETTLE_S)
        if call.caller.ended:
            raise not_authenticated()
        if self.world.closing or self.watches[call.caller].cancelled or self.world.find(self.ref, Managed) is None:
            raise MethodFault.of("RequestCanceled", "The request was canceled.")
        if call.peer_gone():
            raise MethodFault.of("RequestCanceled", "The client went away.")


class PropertyFilter(SessionObject, api_type="PropertyFilter"):
    """What a session watches; remembers what it has reported."""

    def __init__(self, world: World, call: Call, selection: Selection, watch: PropertyWatch) -> None:
        args = call.args
        super().__init__(world, call, "filter-", spec=args.spec, partialUpdates=args.partialUpdates)
        self._selection = selection
        self._watch = watch
        watch.filters.append(self)
        self._reported: dict[Ref, dict[str, str]] = {}

    def start_over(self) -> None:
        """The next update reports everything."""
        self._reported = {}

    def updates(self, budget: int) -> tuple[list[str], bool]:
        """ObjectUpdates since the last call, at most ``budget``, and whether there are more."""
        updates: list[str] = []
        present: set[Ref] = set()
        for managed in self._selection.present():
            present.add(managed.ref)
            values = dict(self._selection.values(managed))
            reported = self._reported.get(managed.ref)
            if reported == values:
                continue
            if len(updates) >= budget:
                return updates, True
            updates.append(_object_update(managed.ref, reported, values))
            self._reported[managed.ref] = values
        for ref in [ref for ref in self._reported if ref not in present]:
            del self._reported[ref]
            updates.append(f"<objectSet><kind>leave</kind>{reference('obj', ref)}</objectSet>")
        return updates, False

    @operation("DestroyPropertyFilter")
    def _destroy(self, call: Call) -> None:
        self._watch.filters.remove(self)
        self.destroy(call)


def _object_update(ref: Ref, reported: dict[str, str] | None, values: dict[str, str]) -> str:
    before = reported or {}
    changes = [
        f"<changeSet><name>{path}</name><op>assign</op>{val}</changeSet>"
        for path, val in values.items()
        if before.get(path) != val
    ]
    changes += [f"<changeSet><name>{path}</name><op>remove</op></changeSet>" for path in before if path not in values]
    kind = "enter" if reported is None else "modify"
    return f"<objectSet><kind>{kind}</kind>{reference('obj', ref)}{''.join(changes)}</objectSet>"
