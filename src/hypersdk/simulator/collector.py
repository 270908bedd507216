"""The PropertyCollector: select objects by walking the inventory, read named properties, page, wait for changes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hypersdk.simulator.encode import reference
from hypersdk.simulator.fault import MethodFault, invalid_request, not_authenticated, object_not_found
from hypersdk.simulator.managed import Call, Managed, operation, prop
from hypersdk.simulator.session import SessionRecord
from hypersdk.simulator.values import Data, Ref
from hypersdk.simulator.world import World

POLL_S: Final = 0.5
"""How often a blocked wait checks whether its client hung up."""
SETTLE_S: Final = 0.01
"""Changes that happen together are reported together."""
MAX_TOKENS: Final = 64
MAX_SELECTIONS: Final = 1000
"""Clients send a dozen; each may visit every object."""

Visible = Callable[[Ref], Managed | None]


class Raw(str):
    """A method result that is XML already."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class RequestedProperties:
    """The properties to read of one object: paths in order, or everything."""

    everything: bool
    paths: tuple[str, ...]


class Selection:
    """One PropertyFilterSpec, ready to be walked."""

    def __init__(self, spec: Data, visible: Visible) -> None:
        self._spec = spec
        self._visible = visible
        self._named: dict[str, Data] = {}
        self._count = 0
        for start in spec.objectSet:
            self._collect_names(start.selectSet or [])
        self._wanted: dict[str, RequestedProperties | None] = {}

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
                if found.ref.moref not in emitted and self.wanted(found) is not None:
                    emitted.add(found.ref.moref)
                    yield found

    def missing(self) -> list[Ref]:
        """Starting objects that do not exist."""
        return [start.obj for start in self._spec.objectSet if self._visible(start.obj) is None]

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

    def wanted(self, managed: Managed) -> RequestedProperties | None:
        """The properties to read of the object: all propSets that name its type or a base type, merged. ``None``
        where none does."""
        if managed.api_type not in self._wanted:
            sets = [propset for propset in self._spec.propSet if managed.is_a(propset["type"])]
            paths = tuple(dict.fromkeys(path for propset in sets for path in propset.pathSet or []))
            self._wanted[managed.api_type] = (
                RequestedProperties(any(propset.all for propset in sets), paths) if sets else None
            )
        return self._wanted[managed.api_type]

    def values(self, managed: Managed) -> list[tuple[str, str]]:
        """Path and ``<val>`` of each wanted property that is set."""
        wanted = self.wanted(managed)
        if wanted is None:
            return []
        paths = itertools.chain(managed.property_names() if wanted.everything else (), wanted.paths)
        read: dict[str, Any] = {}
        pairs = ((path, managed.property_xml(path, read)) for path in dict.fromkeys(paths))
        return [(path, val) for path, val in pairs if val]


def object_content(selection: Selection, managed: Managed, name: str) -> str:
    """One ObjectContent."""
    sets = "".join(f"<propSet><name>{path}</name>{val}</propSet>" for path, val in selection.values(managed))
    return f"<{name}>{reference('obj', managed.ref)}{sets}</{name}>"


Page = Iterator[tuple[Selection, Managed]]


class PropertyCollector(Managed, api_type="PropertyCollector"):
    """The default collector of a session, or a private one made by CreatePropertyCollector."""

    def __init__(self, world: World, moref: str, *, page_objects: int) -> None:
        super().__init__(world, moref)
        self.page_objects = page_objects
        self.filters: dict[str, list[PropertyFilter]] = {}  # session key -> filters
        self.destroyed = False
        self._tokens: dict[str, tuple[str, Page, int]] = {}  # token -> session key, rest, page size
        self._versions: dict[str, int] = {}
        self._cancelled_waits: set[str] = set()
        self._serial = itertools.count(1)

    def drop_session(self, key: str) -> None:
        """Forgets the filters and pages of a session that ended."""
        for dropped in self.filters.pop(key, []):
            self.world.remove(dropped)
        self._tokens = {token: rest for token, rest in self._tokens.items() if rest[0] != key}
        self._versions.pop(key, None)

    @prop("filter")
    def _filter(self) -> list[Ref]:
        return [made.ref for filters in self.filters.values() for made in filters]

    # Reading

    @operation("RetrieveProperties")
    def _retrieve_all(self, call: Call) -> Raw:
        pairs = self._select(call, call.args.specSet)
        return Raw("".join(object_content(selection, managed, "returnval") for selection, managed in pairs))

    @operation("RetrievePropertiesEx")
    def _retrieve(self, call: Call) -> Raw:
        asked = call.args.options.maxObjects
        if asked is not None and asked <= 0:
            raise MethodFault.of(
                "InvalidArgument", "maxObjects must be above zero.", invalidProperty="options.maxObjects"
            )
        size = min(asked or self.page_objects, self.page_objects)
        return self._page(call, self._select(call, call.args.specSet), size)

    @operation("ContinueRetrievePropertiesEx")
    def _continue(self, call: Call) -> Raw:
        key, rest, size = self._tokens.pop(call.args.token, ("", iter(()), 0))
        if key != session_key(call):
            raise MethodFault.of("InvalidArgument", "The token is not known.", invalidProperty="token")
        return self._page(call, rest, size)

    @operation("CancelRetrievePropertiesEx")
    def _cancel_retrieve(self, call: Call) -> None:
        if self._tokens.pop(call.args.token, None) is None:
            raise MethodFault.of("InvalidArgument", "The token is not known.", invalidProperty="token")

    def _select(self, call: Call, specs: Sequence[Data]) -> Page:
        visible = _visible_to(self.world, call.session)
        chosen = [Selection(spec, visible) for spec in specs]
        return iter([(selection, managed) for selection in chosen for managed in selection.objects()])

    def _page(self, call: Call, rest: Page, size: int) -> Raw:
        page = list(itertools.islice(rest, size + 1))
        objects = "".join(object_content(selection, managed, "objects") for selection, managed in page[:size])
        if len(page) <= size:
            return Raw(f"<returnval>{objects}</returnval>" if objects else "")
        token = f"{self.ref.moref}-page-{next(self._serial)}"
        if len(self._tokens) >= MAX_TOKENS:
            self._tokens.pop(next(iter(self._tokens)))
        self._tokens[token] = (session_key(call), itertools.chain(page[size:], rest), size)
        return Raw(f"<returnval><token>{token}</token>{objects}</returnval>")

    # Waiting

    @operation("CreatePropertyCollector")
    def _create(self, call: Call) -> Ref:
        moref = f"session[{session_key(call)}]{self.world.number('collector-')}"
        private = PropertyCollector(self.world, moref, page_objects=self.page_objects)
        belongs(private, call)
        return private.ref

    @operation("DestroyPropertyCollector")
    def _destroy(self, call: Call) -> None:
        if self.owner is None:
            raise MethodFault.of("NotSupported", "The default property collector cannot be destroyed.")
        self.destroyed = True
        self.drop_session(session_key(call))
        self.world.remove(self)

    @operation("CreateFilter")
    def _create_filter(self, call: Call) -> Ref:
        selection = Selection(call.args.spec, _visible_to(self.world, call.session))
        moref = f"session[{session_key(call)}]{self.world.number('filter-')}"
        created = PropertyFilter(
            self.world, moref, self, selection, spec=call.args.spec, partialUpdates=call.args.partialUpdates
        )
        for managed in selection.objects():
            selection.values(managed)  # a path that does not exist fails here, not in the wait
        belongs(created, call)
        self.filters.setdefault(session_key(call), []).append(created)
        self.world.changed.notify_all()
        return created.ref

    @operation("WaitForUpdatesEx")
    def _wait_ex(self, call: Call) -> Raw:
        options = call.args.options
        limit_s = options.maxWaitSeconds if options is not None else None
        most = options.maxObjectUpdates if options is not None else None
        return self._wait(call, call.args.version or "", limit_s, most)

    @operation("WaitForUpdates")
    def _wait_plain(self, call: Call) -> Raw:
        return self._wait(call, call.args.version or "", None, None)

    @operation("CheckForUpdates")
    def _check(self, call: Call) -> Raw:
        return self._wait(call, call.args.version or "", 0, None)

    @operation("CancelWaitForUpdates")
    def _cancel_wait(self, call: Call) -> None:
        self._cancelled_waits.add(session_key(call))
        self.world.changed.notify_all()

    def _wait(self, call: Call, version: str, limit_s: float | None, most: int | None) -> Raw:
        """Blocks under the world's condition until some filter of the session has updates."""
        key = session_key(call)
        self._check_version(key, version)
        self._cancelled_waits.discard(key)
        deadline = None if limit_s is None else time.monotonic() + limit_s
        seen = -1
        while True:
            if self.world.tick != seen or seen < 0:
                seen = self.world.tick
                news, truncated = self._news(key, most)
                if news:
                    return self._update_set(key, news, truncated)
            if deadline is not None and time.monotonic() >= deadline:
                return Raw("")
            self._sleep(call, deadline)

    def _sleep(self, call: Call, deadline: float | None) -> None:
        span_s = POLL_S if deadline is None else min(POLL_S, max(0.0, deadline - time.monotonic()))
        woken = self.world.changed.wait(span_s)
        if woken:
            self.world.changed.wait(SETTLE_S)
        if self.destroyed or self.world.closing or session_key(call) in self._cancelled_waits:
            raise MethodFault.of("RequestCanceled", "The request was canceled.")
        if self.world.find(self.ref, Managed) is None or not call.session_alive():
            raise not_authenticated()
        if call.peer_gone():
            raise MethodFault.of("RequestCanceled", "The client went away.")

    def _check_version(self, key: str, version: str) -> None:
        filters = self.filters.get(key, [])
        if version == "":
            self._versions[key] = 0
            for watched in filters:
                watched.start_over()
        elif version != str(self._versions.get(key, 0)):
            raise MethodFault.of("InvalidCollectorVersion", "The version is not the one sent last.")

    def _news(self, key: str, most: int | None) -> tuple[str, bool]:
        budget = most or 2**31
        out: list[str] = []
        truncated = False
        for watched in list(self.filters.get(key, [])):
            updates, more = watched.updates(budget)
            budget -= len(updates)
            truncated = truncated or more
            if updates:
                out.append(f"<filterSet>{reference('filter', watched.ref)}{''.join(updates)}</filterSet>")
        return "".join(out), truncated

    def _update_set(self, key: str, news: str, truncated: bool) -> Raw:
        self._versions[key] = self._versions.get(key, 0) + 1
        more = "<truncated>true</truncated>" if truncated else ""
        return Raw(f"<returnval><version>{self._versions[key]}</version>{news}{more}</returnval>")


class PropertyFilter(Managed, api_type="PropertyFilter"):
    """What a session watches; remembers what it has reported."""

    def __init__(
        self, world: World, moref: str, collector: PropertyCollector, selection: Selection, **values: Any
    ) -> None:
        super().__init__(world, moref, **values)
        self._collector = collector
        self._selection = selection
        self._told: dict[Ref, dict[str, str]] = {}

    def start_over(self) -> None:
        """The next update reports everything."""
        self._told = {}

    def updates(self, budget: int) -> tuple[list[str], bool]:
        """ObjectUpdates since the last call, at most ``budget``, and whether there are more."""
        updates: list[str] = []
        present: set[Ref] = set()
        for managed in self._present():
            present.add(managed.ref)
            values = dict(self._selection.values(managed))
            told = self._told.get(managed.ref)
            if told == values:
                continue
            if len(updates) >= budget:
                return updates, True
            updates.append(_object_update(managed.ref, told, values))
            self._told[managed.ref] = values
        for ref in [ref for ref in self._told if ref not in present]:
            del self._told[ref]
            updates.append(f"<objectSet><kind>leave</kind>{reference('obj', ref)}</objectSet>")
        return updates, False

    def _present(self) -> list[Managed]:
        """The selected objects; none once the object that the filter starts from is gone."""
        if self._selection.missing():
            return []
        return list(self._selection.objects())

    @operation("DestroyPropertyFilter")
    def _destroy(self, call: Call) -> None:
        filters = self._collector.filters.get(session_key(call), [])
        if self in filters:
            filters.remove(self)
        self.world.remove(self)


def _object_update(ref: Ref, told: dict[str, str] | None, values: dict[str, str]) -> str:
    before = told or {}
    changes = [
        f"<changeSet><name>{path}</name><op>assign</op>{val}</changeSet>"
        for path, val in values.items()
        if before.get(path) != val
    ]
    changes += [f"<changeSet><name>{path}</name><op>remove</op></changeSet>" for path in before if path not in values]
    kind = "enter" if told is None else "modify"
    return f"<objectSet><kind>{kind}</kind>{reference('obj', ref)}{''.join(changes)}</objectSet>"


def session_key(call: Call) -> str:
    """Key of the calling session. Raises MethodFault (NotAuthenticated)."""
    if call.session is None:
        raise not_authenticated()
    return call.session.key


def belongs(managed: Managed, call: Call) -> None:
    """Makes the object private to the calling session; it is removed when the session ends."""
    if call.session is None:
        raise not_authenticated()
    managed.owner = call.session.key
    call.session.belongings.append(managed)


def _visible_to(world: World, session: SessionRecord | None) -> Visible:
    """Finds the objects that the session may see: not the private ones of other sessions."""

    def visible(ref: Ref) -> Managed | None:
        managed = world.find(ref, Managed)
        if managed is None or (managed.owner is not None and (session is None or managed.owner != session.key)):
            return None
        return managed

    return visible
