"""Views: lists of objects kept by the server for one session."""

from __future__ import annotations

from hypersdk.simulator.entities import Entity, descendants
from hypersdk.simulator.managed import Call, Managed, SessionObject, operation, prop
from hypersdk.simulator.values import Ref
from hypersdk.simulator.world import World


class InventoryView(SessionObject, api_type="View"):
    """Base class of the views."""

    @operation("DestroyView")
    def _destroy(self, call: Call) -> None:
        self.destroy(call)


class ContainerView(InventoryView, api_type="ContainerView"):
    """All objects of some types below a container, as they are when the view is read."""

    @prop("view")
    def _view(self) -> list[Ref]:
        container = self.world.get(self.values["container"], Entity)
        types = self.values["type"]
        found = descendants(container, recursive=self.values["recursive"])
        return [entity.ref for entity in found if not types or any(entity.is_a(type_) for type_ in types)]


class ListView(InventoryView, api_type="ListView"):
    """A list that its client defines."""

    def __init__(self, world: World, call: Call) -> None:
        super().__init__(world, call, "view-")
        self._refs: dict[Ref, None] = {}
        self._add(call.args.obj or [])

    @prop("view")
    def _view(self) -> list[Ref]:
        return [ref for ref in self._refs if self.world.find(ref, Managed) is not None]

    @operation("ModifyListView")
    def _modify(self, call: Call) -> list[Ref]:
        for ref in call.args.remove or []:
            self._refs.pop(ref, None)
        return self._add(call.args.add or [])

    @operation("ResetListView")
    def _reset(self, call: Call) -> list[Ref]:
        self._refs.clear()
        return self._add(call.args.obj or [])

    def _add(self, refs: list[Ref]) -> list[Ref]:
        """Adds what exists; returns what does not."""
        unknown = {ref for ref in refs if self.world.find(ref, Managed) is None}
        self._refs.update(dict.fromkeys(ref for ref in refs if ref not in unknown))
        self.touch()
        return list(unknown)


class ViewManager(Managed, api_type="ViewManager"):
    """Creates views."""

    @prop("viewList")
    def _views(self) -> list[Ref]:
        return [view.ref for view in self.world.all(InventoryView)]

    @operation("CreateContainerView", privilege="System.View")
    def _container_view(self, call: Call) -> Ref:
        args = call.args
        self.world.get(args.container, Entity)
        types = args.fields.get("type", [])
        values = {"container": args.container, "type": types, "recursive": args.recursive}
        return ContainerView(self.world, call, "view-", **values).ref

    @operation("CreateListView", privilege="System.View")
    def _list_view(self, call: Call) -> Ref:
        return ListView(self.world, call).ref
