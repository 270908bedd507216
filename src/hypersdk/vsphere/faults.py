"""Translation of vSphere faults and connection errors into HyperSDKError: one table, used in one place.

A fault is known by the name of its type; subtypes of a listed fault mean the same as the fault itself (``lineage``
walks up the vendor's own type tree). Names: the *Faults* pages of the vSphere Web Services API reference.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias, TypeVar
from xml.parsers.expat import ExpatError

from hypersdk.errors import (
    AccessError,
    ConnectError,
    HyperSDKError,
    LookupFailed,
    Refused,
    SourceError,
    TransientError,
    register,
)
from hypersdk.net.certificate import CERTIFICATE_CHANGED, CERTIFICATE_UNKNOWN, TLS_FAILED
from hypersdk.remedies import First, Look, LowerLimit, Resume, Retry, SetOption
from hypersdk.text import clean
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.retry import Attempts, RetryPolicy

T = TypeVar("T")

LOGIN_REFUSED: Final = register(
    "login_refused",
    "vSphere does not accept this user name and password.",
    "Check the user name (with its domain, like name@vsphere.local) and the password; several failed logins lock an"
    " account for a while.",
)
NOT_AUTHENTICATED: Final = register(
    "not_authenticated",
    "The session has ended and could not be renewed.",
    "Log in again; an administrator may have ended the session.",
)
PRIVILEGE_MISSING: Final = register(
    "privilege_missing",
    "The account lacks a privilege on this object.",
    "Have an administrator add the privilege to the account's role on this object.",
    Look("connection"),
)
OBJECT_GONE: Final = register(
    "object_gone",
    "The object was removed, or is not visible to this account.",
    Look("machines"),
)
POWER_STATE: Final = register(
    "power_state",
    "The machine is not in the power state that this requires.",
    Look("machine"),
)
BUSY: Final = register(
    "busy",
    "Another operation is using the machine.",
    First("wait for the running task to finish, or cancel it in vCenter"),
    Retry(),
)
LICENSE_REFUSES_EXPORT: Final = register(
    "license_refuses_export",
    "The host's license does not include the export API, as with a standalone ESXi host on a free license.",
    "Add the host to a vCenter or give it a license that includes the API.",
)
NOT_SUPPORTED: Final = register(
    "not_supported",
    "This server or machine does not support the operation.",
    "Check the server's version and the machine's devices.",
)
NFC_EXHAUSTED: Final = register(
    "nfc_exhausted",
    "The ESXi host has no memory left for another disk stream.",
    First("let other copies from this host finish"),
    Retry(),
    LowerLimit("streams"),
)
HOST_DISCONNECTED: Final = register(
    "host_disconnected",
    "vCenter cannot communicate with the ESXi host.",
    "Check the host's connection state in vCenter.",
)
OPERATION_TIMEOUT: Final = register(
    "operation_timeout",
    "The vSphere operation timed out.",
    First("wait until the host is less busy"),
    Retry(),
)
DATASTORE_FULL: Final = register(
    "datastore_full",
    "The machine's datastore has no space for this.",
    First("free space on the datastore"),
    Retry(),
    SetOption("source", "power-off"),
)
FILE_LOCKED: Final = register(
    "file_locked",
    "Another process or host has the file open.",
    "Look for a running backup, or a machine that uses the same disk.",
)
FILE_FAULT: Final = register(
    "file_fault", "A file of the machine cannot be read.", "Check the machine's files in the datastore browser."
)
QUIESCE_FAILED: Final = register(
    "quiesce_failed",
    "VMware Tools could not quiesce the guest's file systems.",
    "Try again without quiescing, or shut the guest down first.",
)
SNAPSHOT_FAILED: Final = register(
    "snapshot_failed", "vSphere could not create or remove the snapshot.", "Check the snapshot task in vCenter."
)
TOOLS_UNAVAILABLE: Final = register(
    "tools_unavailable",
    "VMware Tools are not running in the guest.",
    First("start VMware Tools"),
    Retry(),
    SetOption("source", "power-off"),
)
TASK_CANCELLED: Final = register("task_cancelled", "The task was cancelled in vCenter.", Resume())
VSPHERE_FAULT: Final = register(
    "vsphere_fault",
    "vSphere ended the operation with a fault.",
    "Check the task's details and the events in vCenter.",
)
NAME_UNRESOLVED: Final = register(
    "name_unresolved", "The host name does not resolve.", "Check the spelling, the DNS server and the search domain."
)
CONNECTION_REFUSED: Final = register(
    "connection_refused", "Nothing listens on that port.", "Check host and port; vSphere answers on 443."
)
CONNECT_TIMEOUT: Final = register(
    "connect_timeout",
    "The server did not answer in time.",
    "Check the network path and firewalls.",
    Look("connection"),
)
BAD_ANSWER: Final = register(
    "bad_answer",
    "The server is not a vSphere API, or something on the network path alters its answers.",
    "Check that the address is that of a vCenter or ESXi host and not of a proxy or gateway.",
)


Rule: TypeAlias = tuple[type[HyperSDKError], str]
"""The error class and code for a fault."""

_RULES: Final[dict[str, Rule]] = {
    name: (family, code)
    for family, code, names in (
        (AccessError, LOGIN_REFUSED, "InvalidLogin PasswordExpired"),
        (AccessError, NOT_AUTHENTICATED, "NotAuthenticated"),
        (AccessError, PRIVILEGE_MISSING, "NoPermission"),
        (LookupFailed, OBJECT_GONE, "ManagedObjectNotFound"),
        (Refused, POWER_STATE, "InvalidPowerState"),
        (Refused, BUSY, "TaskInProgress ConcurrentAccess ResourceInUse"),
        (Refused, LICENSE_REFUSES_EXPORT, "RestrictedVersion LicenseRestricted NotEnoughLicenses"),
        (Refused, NOT_SUPPORTED, "NotSupported MethodNotFound MethodDisabled NotImplemented"),
        (Refused, TOOLS_UNAVAILABLE, "ToolsUnavailable"),
        (SourceError, HOST_DISCONNECTED, "HostNotConnected HostNotReachable HostCommunication HostConnectFault NoHost"),
        (TransientError, OPERATION_TIMEOUT, "Timedout"),
        (SourceError, DATASTORE_FULL, "NoDiskSpace InsufficientStorageSpace"),
        (SourceError, FILE_LOCKED, "FileLocked"),
        (SourceError, FILE_FAULT, "FileFault"),
        (SourceError, QUIESCE_FAILED, "ApplicationQuiesceFault FilesystemQuiesceFault"),
        (SourceError, SNAPSHOT_FAILED, "SnapshotFault"),
        (SourceError, TASK_CANCELLED, "RequestCanceled"),
    )
    for name in names.split()
}
_UNKNOWN: Final[Rule] = (SourceError, VSPHERE_FAULT)

# ESXi reports it as a SystemError, without a type of its own: "Failed to allocate NFC memory", "NFC_NO_MEMORY", "Unable
# to allocate nfc buffer" ...
_NFC_EXHAUSTED: Final = re.compile(r"failed to allocate|NFC_NO_MEMORY|unable to allocate.{0,40}nfc", re.IGNORECASE)
_MAX_TEXT: Final = 500


def rule_for(lineage: Iterable[str], text: str) -> Rule:
    """The rule of the first listed name in ``lineage`` (the fault's own name first, then its ancestors)."""
    if _NFC_EXHAUSTED.search(text):
        return TransientError, NFC_EXHAUSTED
    return next((_RULES[name] for name in lineage if name in _RULES), _UNKNOWN)


def fault_error(lineage: list[str], text: str | None, **fields: object) -> HyperSDKError:
    """The error for a fault with these type names and the server's ``text``. The text of a refused login is not
    repeated."""
    said = clean_text(text or "")
    family, code = rule_for(lineage, said)
    name = lineage[0] if lineage else "unknown fault"
    message = "login refused" if code == LOGIN_REFUSED else _message(code, name, said, fields)
    error = family(message, code=code, fault=name)
    error.fields.update(fields)
    return error


def _message(code: str, name: str, said: str, fields: dict[str, object]) -> str:
    if code == PRIVILEGE_MISSING and fields.get("privilege"):
        return f"the privilege {fields['privilege']} is missing on {fields.get('object') or 'an object'}"
    return f"vSphere refused: {said} ({name})" if said else f"vSphere refused with {name}"


def clean_text(text: str) -> str:
    """Text of the server as one line: limited in length, and without control characters."""
    return clean(" ".join(text[: 4 * _MAX_TEXT].split()), _MAX_TEXT)


def lineage(kind: type) -> list[str]:
    """Names of a pyVmomi fault class and its ancestors, without their package: ``['NoDiskSpace', 'FileFault',
    'VimFault', ...]``."""
    return [base.__name__.rpartition(".")[2] for base in kind.__mro__]


def translate(exc: BaseException, peer: str = "the server") -> HyperSDKError:
    """The HyperSDKError for a pyVmomi fault, a failed connection or an unreadable answer; raise it ``from exc``.

    ``peer`` names the server in the message. Any other exception is a bug and is raised again unchanged.
    """
    if isinstance(exc, HyperSDKError):
        return exc
    if isinstance(exc, (http.client.RemoteDisconnected, http.client.IncompleteRead)):
        return ConnectError(f"{peer} closed the connection in the middle of an answer")
    if isinstance(exc, (http.client.HTTPException, ExpatError)):
        return ConnectError(f"the answer of {peer} is invalid: {_described(exc)}", code=BAD_ANSWER)
    if isinstance(exc, OSError):
        return _connect_error(exc, peer)
    names = lineage(type(exc))
    if "MethodFault" in names:
        return fault_error(names, _fault_text(exc), **_fault_fields(exc))
    raise exc


@contextmanager
def retried_when_away() -> Iterator[None]:
    """Raises a ConnectError of the block as TransientError: in the middle of an export, a server that cannot be reached
    is tried again. A certificate that is not trusted stays a ConnectError."""
    try:
        yield
    except ConnectError as error:
        if error.code in (CERTIFICATE_CHANGED, CERTIFICATE_UNKNOWN):
            raise
        raise TransientError(error.message, cause=error.cause, remedies=error.remedies) from error


def with_retries(
    call: Callable[[], T],
    policy: RetryPolicy,
    *,
    cancel: CancelToken,
    on_wait: Callable[[TransientError, float], None] = lambda _error, _wait_s: None,
) -> T:
    """``call()``, repeated by ``policy`` after a TransientError. ``on_wait`` is called with the error and the seconds
    until the next attempt."""
    attempts = Attempts(policy)
    while True:
        try:
            return call()
        except TransientError as error:
            wait_s = attempts.failed(error)
            on_wait(error, wait_s)
        cancel.sleep(wait_s)


def _described(exc: BaseException) -> str:
    text = exc.strerror if isinstance(exc, OSError) else str(exc)
    return clean_text(text or str(exc)) or type(exc).__name__


def _connect_error(exc: OSError, peer: str) -> ConnectError:
    if isinstance(exc, ssl.SSLCertVerificationError):
        reason = clean_text(getattr(exc, "verify_message", None) or _described(exc))
        return ConnectError(f"the certificate of {peer} is not trusted: {reason}", code=CERTIFICATE_UNKNOWN)
    if isinstance(exc, ssl.SSLError):
        return ConnectError(
            f"TLS with {peer} failed: {getattr(exc, 'reason', None) or _described(exc)}", code=TLS_FAILED
        )
    for kind, code in (
        (socket.gaierror, NAME_UNRESOLVED),
        (ConnectionRefusedError, CONNECTION_REFUSED),
        (TimeoutError, CONNECT_TIMEOUT),
    ):
        if isinstance(exc, kind):
            return ConnectError(f"no connection to {peer}: {_described(exc)}", code=code)
    return ConnectError(f"the connection to {peer} failed: {_described(exc)}")


def _fault_text(exc: BaseException) -> str:
    """``msg`` of the fault, else the first of its ``faultMessage``."""
    text = getattr(exc, "msg", None)
    if text:
        return str(text)
    messages = getattr(exc, "faultMessage", None) or []
    return " ".join(str(item.message) for item in list(messages)[:3] if getattr(item, "message", None))


def _fault_fields(exc: BaseException) -> dict[str, object]:
    """Privilege and object of a NoPermission, object of a ManagedObjectNotFound, file of a FileFault."""
    fields: dict[str, object] = {}
    privilege = getattr(exc, "privilegeId", None)
    target = getattr(exc, "object", None) or getattr(exc, "obj", None)
    if privilege:
        fields["privilege"] = clean_text(str(privilege))
    if isinstance(file := getattr(exc, "file", None), str) and file:
        fields["file"] = clean_text(file)
    if target is not None and hasattr(target, "_moId"):
        fields["object"] = clean_text(f"{type(target).__name__.rpartition('.')[2]}:{target._moId}")
    return fields
