"""The inventory tree: entities with a name and a parent, and the folders that hold them."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any, Final

from hypersdk.simulator.managed import Call, operation, prop
from hypersdk.simulator.platform import Platform, PlatformObject
from hypersdk.simulator.values import MethodFault, Ref
from hypersdk.simulator.world import World

MAX_NAME: Final = 80
"""vCenter's limit for the name of an entity."""


def escape_name(name: str) -> str:
    """A name as vCenter stores it: ``/``, ``\\`` and ``%`` are escaped."""
    return name.replace("%", "%25").replace("/", "%2f").replace("\\", "%5c")


class Entity(
    PlatformObject,
    api_type="ManagedEntity",
    references={"parent": "parent"},
    computed={"name": attrgetter("name")},
):
    """A ManagedEntity: has a parent and tasks, and a name as stored, with ``%2f`` and the other escapes."""

    def __init__(self, platform: Platform, moref: str, name: str, parent: Entity | None, **values: Any) -> None:
        self.parent = parent
        self.name = name
        status = {"overallStatus": "green", "configStatus": "green"}
        super().__init__(platform, moref, effectiveRole=[-1], **status, **values)

    @prop("recentTask")
    def _recent_task(self) -> list[Ref]:
        return self.platform.tasks.recent_of(self.ref)

    def children(self) -> list[Entity]:
        """The entities directly below, as a container view sees them."""
        return []

    def path(self) -> str:
        """Inventory path such as ``/Berlin/vm/web-01``."""
        names = [entity.name for entity in self.lineage_up() if entity.parent is not None]
        return "/" + "/".join(reversed(names))

    def lineage_up(self) -> Iterator[Entity]:
        """The entity and its parents, up to the root."""
        entity: Entity | None = self
        while entity is not None:
            yield entity
            entity = entity.parent

    def datacenter(self) -> Entity:
        """The datacenter that contains it: all machines, hosts, datastores and networks are in one."""
        return next(entity for entity in self.lineage_up() if entity.is_a("Datacenter"))

    def rename(self, name: str) -> None:
        """Renames it. Raises MethodFault (InvalidName, DuplicateName)."""
        if not name or len(name) > MAX_NAME:
            raise MethodFault.of(
                "InvalidName", f"The name '{name[:MAX_NAME]}' is invalid.", name=name[:MAX_NAME], entity=self.ref
            )
        if self.parent is not None and name != self.name:
            self.parent.check_name_free(name)
        self.name = name
        self.touch()

    def check_name_free(self, name: str) -> None:
        """Raises MethodFault (DuplicateName) when an entity directly below has that name."""
        for child in self.children():
            if child.name == name:
                raise MethodFault.of("DuplicateName", f"The name '{name}' already exists.", name=name, object=child.ref)

    @operation("Rename_Task", privilege="VirtualMachine.Config.Rename")
    def _rename(self, call: Call) -> Ref:
        return self.platform.tasks.run(call, self, lambda: self.rename(escape_name(call.args.newName))).ref


def descendants(container: Entity, *, recursive: bool) -> Iterator[Entity]:
    """The entities below a container, each once."""
    pending = list(reversed(container.children()))
    seen: set[str] = set()
    while pending:
        entity = pending.pop()
        if entity.ref.moref in seen:
            continue
        seen.add(entity.ref.moref)
        yield entity
        if recursive:
            pending.extend(reversed(entity.children()))


class Folder(Entity, api_type="Folder", references={"childEntity": "members"}):
    """Holds entities of the kinds in ``childType``."""

    def __init__(self, platform: Platform, moref: str, name: str, parent: Entity | None, kinds: list[str]) -> None:
        self.members: list[Entity] = []
        super().__init__(platform, moref, name, parent, childType=kinds)
        if isinstance(parent, Folder):
            parent.put(self)

    def put(self, entity: Entity) -> None:
        """Adds a child."""
        self.members.append(entity)
        self.touch()

    def take(self, entity: Entity) -> None:
        """Removes a child."""
        self.members.remove(entity)
        self.touch()

    def children(self) -> list[Entity]:
        return self.members


def root_folder(world: World) -> Folder:
    """The root of the inventory."""
    return world.get(Ref("Folder", world.root_moref), Folder)
