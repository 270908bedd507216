"""Events: what happened, newest last."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from hypersdk.simulator.managed import Call, Managed, SessionObject, operation, prop
from hypersdk.simulator.values import Data, Ref
from hypersdk.simulator.world import World, now

MAX_EVENTS: Final = 1000
KINDS: Final = {
    "VmPoweredOnEvent": "VM powered on", "VmPoweredOffEvent": "VM powered off", "VmSuspendedEvent": "VM suspended",
    "VmResettingEvent": "VM reset", "VmGuestShutdownEvent": "Guest OS shut down", "VmGuestRebootEvent": "Guest reboot",
    "VmReconfiguredEvent": "VM reconfigured", "VmCreatedEvent": "VM created", "VmRemovedEvent": "VM removed",
    "UserLoginSessionEvent": "User login", "UserLogoutSessionEvent": "User logout",
}  # fmt: skip


class EventManager(Managed, api_type="EventManager"):
    """Keeps the latest events."""

    def __init__(self, world: World, moref: str) -> None:
        super().__init__(world, moref, maxCollector=1000)
        self.events: deque[Data] = deque(maxlen=MAX_EVENTS)
        self._next = 1

    def post(self, type_: str, text: str, *, call: Call | None = None, user: str = "", **more: Any) -> None:
        """Adds one event."""
        session = call.session if call else None
        fields: dict[str, Any] = {
            "key": self._next,
            "chainId": self._next,
            "createdTime": now(),
            "userName": session.user if session else user,
            "fullFormattedMessage": text,
            **more,
        }
        self._next += 1
        self.events.append(Data(type_, **fields))
        for collector in self.world.all(EventHistoryCollector):
            collector.touch()

    @prop("latestEvent")
    def _latest(self) -> Data | None:
        return self.events[-1] if self.events else None

    @prop("description")
    def _description(self) -> Data:
        details = [
            Data(
                "EventDescriptionEventDetail",
                key=key,
                description=text,
                category="info",
                formatOnDatacenter=text,
                formatOnComputeResource=text,
                formatOnHost=text,
                formatOnVm=text,
                fullFormat=text,
            )
            for key, text in KINDS.items()
        ]
        categories = [
            Data("ElementDescription", key=key, label=key, summary=key) for key in ("info", "warning", "error", "user")
        ]
        return Data("EventDescription", category=categories, eventInfo=details)

    @operation("CreateCollectorForEvents", privilege="System.View")
    def _create(self, call: Call) -> Ref:
        return EventHistoryCollector(self, call).ref

    @operation("QueryEvents", privilege="System.View")
    def _query(self, call: Call) -> list[Data]:
        return matching(self, call.args.filter)


def matching(manager: EventManager, spec: Data) -> list[Data]:
    """Events that a filter lets through, newest first."""
    found = [event for event in reversed(manager.events) if _passes(manager, event, spec)]
    return found[: spec.maxCount] if spec.maxCount else found


def _passes(manager: EventManager, event: Data, spec: Data) -> bool:
    types = (spec.eventTypeId or []) + (spec.fields.get("type") or [])
    if types and event.type not in [name.rpartition(".")[2] for name in types]:
        return False
    if spec.time is not None:
        begin, end = spec.time.beginTime, spec.time.endTime
        if (begin and event.createdTime < begin) or (end and event.createdTime > end):
            return False
    return spec.entity is None or _concerns(manager, event, spec.entity)


def _concerns(manager: EventManager, event: Data, by_entity: Data) -> bool:
    """Whether the event is about the entity or, with recursion, about something below it."""
    wanted, recursion = by_entity.entity, by_entity.recursion
    if event.vm is None:
        return bool(wanted.moref == manager.world.root_moref and recursion != "children")
    if event.vm.vm == wanted:
        return bool(recursion != "children")
    return bool(recursion != "self") and wanted in _above(manager.world, event)


def _above(world: World, event: Data) -> set[Ref]:
    """The machine of the event and everything that contains it; empty when the machine is gone."""
    above: set[Ref] = set()
    entity = world.find(event.vm.vm, Managed)
    while entity is not None:
        above.add(entity.ref)
        parent = entity.get("parent")
        entity = world.find(parent, Managed) if parent is not None else None
    return above | {event.host.host, event.computeResource.computeResource} if above else above


class EventHistoryCollector(SessionObject, api_type="EventHistoryCollector"):
    """A session's filtered view of the events."""

    def __init__(self, manager: EventManager, call: Call) -> None:
        self._manager = manager
        self._spec = call.args.filter
        super().__init__(manager.world, call, "events-", filter=self._spec, initialized=True)
        self._page = 10
        self._read: set[int] = set()

    @prop("latestPage")
    def _latest_page(self) -> list[Data]:
        return matching(self._manager, self._spec)[: self._page]

    @operation("SetCollectorPageSize")
    def _set_page_size(self, call: Call) -> None:
        self._page = max(1, min(1000, call.args.maxCount))
        self.touch()

    @operation("ReadNextEvents")
    def _read_next(self, call: Call) -> list[Data]:
        return self._unread(list(reversed(matching(self._manager, self._spec))), call.args.maxCount)

    @operation("ReadPreviousEvents")
    def _read_previous(self, call: Call) -> list[Data]:
        return self._unread(matching(self._manager, self._spec), call.args.maxCount)

    def _unread(self, events: list[Data], most: int) -> list[Data]:
        page = [event for event in events if event.key not in self._read][: max(1, min(1000, most))]
        self._read.update(event.key for event in page)
        return page

    @operation("RewindCollector")
    @operation("ResetCollector")
    def _reset(self, _call: Call) -> None:
        self._read.clear()

    @operation("DestroyCollector")
    def _destroy(self, call: Call) -> None:
        self.destroy(call)
