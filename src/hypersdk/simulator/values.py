"""Values of the API: a reference to a managed object, a data object with named fields, and the fault of a method, which
is raised here as an exception and sent with HTTP 500 or inside a task."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

log: Final = logging.getLogger("hypersdk.simulator")


@dataclass(frozen=True, slots=True)
class Ref:
    """A managed object reference: ``Ref("VirtualMachine", "vm-101")``."""

    type: str
    moref: str


class Data:
    """A data object. Fields are read as attributes; one that is unset reads as ``None``, as it is absent on the
    wire."""

    __slots__ = ("fields", "type")

    def __init__(self, type_: str, /, **fields: Any) -> None:
        self.type = type_
        self.fields = fields

    def __getattr__(self, name: str) -> Any:
        return self.fields.get(name)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Data) and (self.type, self.fields) == (other.type, other.fields)

    __hash__ = None  # type: ignore[assignment] # mutable

    def __repr__(self) -> str:
        return f"{self.type}({', '.join(f'{k}={v!r}' for k, v in self.fields.items())})"

    def replace(self, **fields: Any) -> Data:
        """A copy with some fields replaced."""
        return Data(self.type, **{**self.fields, **fields})


class MethodFault(Exception):  # noqa: N818 - the API's own name
    """A fault of type ``fault.type`` with its fields; ``message`` is for people."""

    def __init__(self, fault: Data, message: str) -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message

    @classmethod
    def of(cls, type_: str, message: str, **fields: Any) -> MethodFault:
        """A fault by its type's name."""
        return cls(Data(type_, **fields), message)

    def localized(self) -> Data:
        """The pair of fault and message that tasks, leases and ``missingSet`` carry."""
        return Data("LocalizedMethodFault", fault=self.fault, localizedMessage=self.message)


def invalid_request(message: str) -> MethodFault:
    """The request itself is not valid, or asks for something that is not simulated."""
    return MethodFault.of("InvalidRequest", message)


def not_authenticated() -> MethodFault:
    """There is no session, or it is gone."""
    return MethodFault.of(
        "NotAuthenticated",
        "The session is not authenticated.",
        object=Ref("Folder", "group-d1"),
        privilegeId="System.View",
    )


def object_not_found(ref: Ref) -> MethodFault:
    """The object does not exist, was deleted, or belongs to another session."""
    message = f"The object '{ref.type}:{ref.moref}' has already been deleted or has not been completely created"
    return MethodFault.of("ManagedObjectNotFound", message, obj=ref)


def invalid_power_state(existing: str, requested: str) -> MethodFault:
    """The machine's power state does not allow this."""
    shown = {"poweredOn": "Powered on", "poweredOff": "Powered off", "suspended": "Suspended"}[existing]
    message = f"The attempted operation cannot be performed in the current state ({shown})."
    return MethodFault.of("InvalidPowerState", message, requestedState=requested, existingState=existing)


def unexpected(error: Exception) -> MethodFault:
    """A failure of the simulator itself: its traceback goes to the log, a SystemError to the client."""
    log.error("the simulator failed", exc_info=error)
    return MethodFault.of("SystemError", "The simulator failed; see its log.", reason=type(error).__name__)
