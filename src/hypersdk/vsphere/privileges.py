"""Which privileges each operation needs, by vSphere's names, and which of them an account lacks.

The names are those that the API reference gives for each method ("Required Privileges"); the two for datastore files
are those that the reference names for ``/folder`` access. ``VirtualMachine.Config.EditDevice`` is needed with
``SetCDMedia`` because a drive is changed by ReconfigVM_Task, and ``DeviceConnection`` because it is disconnected, and
connected again if it was. The same two are needed to disconnect a network card.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, Final

from hypersdk.vsphere.session import Session


class Operation(StrEnum):
    """What an account may be allowed to do."""

    INVENTORY = "inventory"
    EXPORT = "export"
    SNAPSHOT = "snapshot"
    POWER = "power"
    CDROM = "cdrom"
    NETWORK = "network"
    DATASTORE = "datastore ranges"
    CHANGED_AREAS = "changed areas"
    CLEANUP = "cleanup after a crash"


REQUIRED: Final[dict[Operation, tuple[str, ...]]] = {
    Operation.INVENTORY: ("System.View", "System.Read"),
    Operation.EXPORT: ("VApp.Export",),
    Operation.SNAPSHOT: ("VirtualMachine.State.CreateSnapshot", "VirtualMachine.State.RemoveSnapshot"),
    Operation.POWER: ("VirtualMachine.Interact.PowerOff", "VirtualMachine.Interact.PowerOn"),
    Operation.CDROM: (
        "VirtualMachine.Interact.SetCDMedia",
        "VirtualMachine.Interact.DeviceConnection",
        "VirtualMachine.Config.EditDevice",
    ),
    Operation.NETWORK: ("VirtualMachine.Interact.DeviceConnection", "VirtualMachine.Config.EditDevice"),
    Operation.DATASTORE: ("Datastore.Browse", "Datastore.FileManagement"),
    Operation.CHANGED_AREAS: ("VirtualMachine.Provisioning.DiskRandomRead",),
    Operation.CLEANUP: ("Sessions.TerminateSession",),
}
ESSENTIAL: Final = frozenset({Operation.INVENTORY, Operation.EXPORT})
"""Without these nothing can be exported; the others are required for the operation that they are named after."""
ON_ROOT: Final = frozenset({Operation.CLEANUP})
"""Granted on the root folder."""
ON_DATASTORES: Final = frozenset({Operation.DATASTORE})
"""Granted on datastores. All others are granted on machines; a datacenter above passes either down."""


def missing_privileges(
    session: Session, entities: Sequence[Any], operations: Iterable[Operation]
) -> dict[Operation, tuple[str, ...]]:
    """For each operation the privileges that the session lacks on at least one of ``entities`` (objects of
    ``Session.ref``).

    An operation that may be done is not in the answer. One call. Raises what the server refuses it with.
    """
    wanted = list(operations)
    names = sorted({name for operation in wanted for name in REQUIRED[operation]})
    answers = session.call(
        lambda: session.content.authorizationManager.HasPrivilegeOnEntities(list(entities), session.key, names)
    )
    granted = Counter(item.privId for answer in answers for item in answer.privAvailability if item.isGranted)
    # An object that the answer omits is not visible to the account: counted as denied.
    held = {name for name in names if granted[name] >= len(entities)}
    lacking = {operation: tuple(name for name in REQUIRED[operation] if name not in held) for operation in wanted}
    return {operation: names for operation, names in lacking.items() if names}
