"""The table of all property names that the API knows, made from pyVmomi's description of its types: the simulator
itself must not import that.

``python -m tests.support.schemapaths > src/hypersdk/simulator/schema_paths.py``; a test compares the two.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Any, Final

from pyVmomi import VmomiSupport, vmodl

from hypersdk.simulator.schema import managed_types

NEWEST: Final = "vim.version.v8_0_3_0"
"""The API version of the simulator; later additions are unknown."""

HEAD: Final = '''\
"""All property names of the vSphere API (urn:vim25, 8.0.3), modelled or not: what a path may name. ``schema.in_wsdl``
reads it.

Made by ``python -m tests.support.schemapaths``; do not edit. A line is ``Type: name name=Type ...``. A managed type has
its own properties; a data type has its members, the inherited ones, and those of its heirs, as any of these may lie
there. A name has a type where a path goes on behind it: a list or a primitive ends the path. ``A|B`` are the types that
the name has in several heirs.
"""

from __future__ import annotations

from typing import Final

PATHS: Final = """
'''


def _known(version: str) -> bool:
    return bool(VmomiSupport.IsChildVersion(NEWEST, version))


def _all_data_types() -> list[Any]:
    types = [
        VmomiSupport.GetVmodlType(name) for name in VmomiSupport._dataDefMap if name.startswith(("vim.", "vmodl."))
    ]
    return [type_ for type_ in types if _known(type_._version) and type_ is not vmodl.DynamicData]


def _data(properties: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Name of each property that 8.0.3 knows, and its type where that is a single data object."""
    for prop in properties:
        if _known(prop.version):
            goes_on = issubclass(prop.type, VmomiSupport.DataObject) and prop.type is not VmomiSupport.DataObject
            yield prop.name, prop.type if goes_on and _known(prop.type._version) else None


def table() -> str:
    """The module's text."""
    data_types = _all_data_types()
    lines: dict[str, str] = {}
    pending: list[Any] = []

    def line(name: str, members: Iterable[tuple[str, Any]]) -> None:
        known: dict[str, set[str]] = {}
        for member, goes_on in members:
            known.setdefault(member, set())
            if goes_on is not None:
                pending.append(goes_on)
                known[member].add(goes_on._wsdlName)
        words = [member + ("=" + "|".join(sorted(types)) if types else "") for member, types in sorted(known.items())]
        lines[name] = f"{name}: {' '.join(words)}"

    for name in managed_types():
        line(name, _data(VmomiSupport.GetWsdlType("urn:vim25", name)._propInfo.values()))
    while pending:
        declared = pending.pop()
        if declared._wsdlName not in lines:
            kin = [type_ for type_ in data_types if issubclass(type_, declared) or issubclass(declared, type_)]
            line(declared._wsdlName, (member for type_ in kin for member in _data(type_._propList)))
    wrapped = (
        "\n".join(textwrap.wrap(text, 150, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False))
        for _, text in sorted(lines.items())
    )
    return HEAD + "\n".join(wrapped) + '\n"""\n'


if __name__ == "__main__":
    print(table(), end="")
