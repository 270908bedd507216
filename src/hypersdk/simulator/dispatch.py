"""SOAP: one request in, one answer out. Faults always go with HTTP 500, results with 200."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from xml.sax.saxutils import escape

from lxml import etree

from hypersdk.simulator.collector import Raw
from hypersdk.simulator.decode import local, parameters, parse_request, this
from hypersdk.simulator.encode import element, members, property_value
from hypersdk.simulator.faults import FaultKind
from hypersdk.simulator.managed import Call, Managed, invalid_property, visible_object
from hypersdk.simulator.platform import Platform
from hypersdk.simulator.schema import ApiMethod, Field, Kind, data_types
from hypersdk.simulator.session import SessionRecord
from hypersdk.simulator.values import (
    Data,
    MethodFault,
    Ref,
    not_authenticated,
    object_not_found,
    unexpected,
)

_HEAD: Final = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<soapenv:Envelope'
    ' xmlns:soapenc="http://schemas.xmlsoap.org/soap/encoding/"'
    ' xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsd="http://www.w3.org/2001/XMLSchema"'
    ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>'
)
_TAIL: Final = "</soapenv:Body></soapenv:Envelope>"
OPEN_METHODS: Final = frozenset({"RetrieveServiceContent", "Login", "CurrentTime"})
"""Methods that need no session."""
OPEN_PROPERTIES: Final = frozenset({"currentSession", "content"})
"""Properties that need no session: ``currentSession`` is then unset, which is how clients check for one."""


STALL_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class SoapResponse:
    """HTTP status, body, and the cookie to set when a session began."""

    status: int
    body: bytes
    cookie: str | None = None


class Dispatcher:
    """Finds the object and the method of a request and runs it under the world's lock."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def answer(self, body: bytes, cookie: str | None, peer_gone: Callable[[], bool]) -> SoapResponse:
        """The response to one SOAP request."""
        try:
            node = parse_request(body)
            self._stall(local(node), peer_gone)
            with self._platform.world.lock:
                return self._run(node, self._platform.sessions.by_cookie(cookie), peer_gone)
        except MethodFault as fault:
            return _fault_response(fault)
        except Exception as error:  # noqa: BLE001 - a bug here is the caller's SystemError, and our log's traceback
            return _fault_response(unexpected(error))

    def _run(self, node: etree._Element, session: SessionRecord | None, peer_gone: Callable[[], bool]) -> SoapResponse:
        name, target = local(node), this(node)
        self._platform.counters.call(name)
        self._apply_call_faults(name, session)
        if session is None and name not in OPEN_METHODS and not _reads_open_property(node, target):
            raise not_authenticated()
        managed = visible_object(self._platform.world, target, session)
        if managed is None:
            raise object_not_found(target)
        self._platform.sessions.caller = session
        if name == "Fetch":
            return SoapResponse(200, _envelope(name, _fetch(managed, _fetched_path(node))))
        method = managed.schema.methods.get(name)
        operation = managed.operations.get(name)
        if method is None or operation is None:
            raise MethodFault.of(
                "MethodNotFound", f"{target.type} has no method {name} here.", receiver=target, method=name
            )
        privilege = operation.privilege
        if privilege in self._platform.config.denied_privileges:
            message = f"Permission to perform this operation was denied: {privilege}."
            raise MethodFault.of("NoPermission", message, object=target, privilegeId=privilege)
        call = Call(name, parameters(node, method.parameters), session, peer_gone)
        result = _invoke(managed, operation.function, call)
        cookie = call.session.cookie if call.session is not None and call.session is not session else None
        return SoapResponse(200, _envelope(name, _result(method, result)), cookie)

    def _stall(self, name: str, peer_gone: Callable[[], bool]) -> None:
        """Delays the response to this call, and to no other, until the client gives up."""
        fault = self._platform.faults.take_call(FaultKind.STALL, name)
        end = time.monotonic() + (fault.seconds if fault else 0)
        while (left := end - time.monotonic()) > 0 and not peer_gone():
            time.sleep(min(left, STALL_POLL_S))

    def _apply_call_faults(self, name: str, session: SessionRecord | None) -> None:
        """Applies the faults of calls."""
        book = self._platform.faults
        if session is not None and book.take_call(FaultKind.SESSION_EXPIRY, name) is not None:
            self._platform.sessions.end(session)
            raise not_authenticated()
        fault = book.take_call(FaultKind.CALL, name)
        if fault is not None:
            raise MethodFault(Data(fault.fault, **_required_members(fault.fault)), f"Injected fault: {fault.fault}.")


def _invoke(managed: Managed, function: Callable[..., Any], call: Call) -> Any:
    session = call.session
    if session is None:
        return function(managed, call)
    session.calls_in_progress += 1
    session.call_count += 1
    try:
        return function(managed, call)
    finally:
        session.calls_in_progress -= 1


def _fetch(managed: Managed, path: str) -> str:
    """Fetch, the call by which pyVmomi reads each attribute of an object."""
    if "." in path:
        raise invalid_property(managed.api_type, path)
    value, field = managed.resolve(path)
    return "" if value is None or field is None else property_value("returnval", value, field)


def _fetched_path(node: etree._Element) -> str:
    return next((child.text or "" for child in node if local(child) == "prop"), "")


def _reads_open_property(node: etree._Element, target: Ref) -> bool:
    """Whether it reads a property that needs no session."""
    service = target.type in ("SessionManager", "ServiceInstance")
    return service and local(node) == "Fetch" and _fetched_path(node) in OPEN_PROPERTIES


def _required_members(type_: str) -> dict[str, Any]:
    """A value for each required member of the fault."""
    return {field.name: _placeholder(field) for field in data_types()[type_].fields if field.required}


def _placeholder(field: Field) -> Any:
    if field.kind is Kind.REFERENCE:  # the common name of all references is not itself a type on the wire
        return Ref("Folder" if field.type == "ManagedObjectReference" else field.type, "unknown")
    if field.kind is Kind.DATA:
        return Data(field.type, **_required_members(field.type))
    blank: dict[str, Any] = {
        "string": "",
        "int": 0,
        "long": 0,
        "boolean": False,
        "VirtualMachinePowerState": "poweredOff",
    }
    return blank.get(field.type, "unknown")


def _result(method: ApiMethod, result: Any) -> str:
    if isinstance(result, Raw):
        return str(result)
    if method.result is None:
        return ""
    if method.result.type == "anyType" and result is not None:
        return property_value("returnval", result, method.result)
    return element("returnval", result, method.result)


def _envelope(name: str, inner: str) -> bytes:
    return f'{_HEAD}<{name}Response xmlns="urn:vim25">{inner}</{name}Response>{_TAIL}'.encode()


def _fault_response(fault: MethodFault) -> SoapResponse:
    name = fault.fault.type
    fault_xml = (
        f"<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>{escape(fault.message)}</faultstring>"
        f'<detail><{name}Fault xmlns="urn:vim25" xsi:type="{name}">{members(fault.fault)}</{name}Fault></detail>'
        "</soapenv:Fault>"
    )
    return SoapResponse(500, (_HEAD + fault_xml + _TAIL).encode())
