"""Filter specs for the PropertyCollector: which objects, which way, which properties."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def property_specs(paths: Mapping[str, Iterable[str]]) -> list[Any]:
    """One PropertySpec for each type name on the wire."""
    from pyVmomi import vmodl
    from pyVmomi.VmomiSupport import GetWsdlType

    spec = vmodl.query.PropertyCollector.PropertySpec
    return [spec(type=GetWsdlType("urn:vim25", kind), pathSet=list(names)) for kind, names in paths.items()]


def traversal(kind: str, path: str, *, name: str | None = None, then: Iterable[Any] = ()) -> Any:
    """From objects of type ``kind`` along the reference property ``path``, and on by ``then`` (specs, or names of specs
    to repeat)."""
    from pyVmomi import vmodl
    from pyVmomi.VmomiSupport import GetWsdlType

    collector = vmodl.query.PropertyCollector
    on = [collector.SelectionSpec(name=step) if isinstance(step, str) else step for step in then]
    return collector.TraversalSpec(name=name, type=GetWsdlType("urn:vim25", kind), path=path, skip=False, selectSet=on)


def filter_spec(
    root: Any, paths: Mapping[str, Iterable[str]], *, select: Iterable[Any] = (), skip: bool = False
) -> Any:
    """A FilterSpec from one root object."""
    from pyVmomi import vmodl

    collector = vmodl.query.PropertyCollector
    return collector.FilterSpec(
        propSet=property_specs(paths), objectSet=[collector.ObjectSpec(obj=root, skip=skip, selectSet=list(select))]
    )
