"""The libvirt library: loaded when it is first needed, and its errors translated once.

It is an optional extra, because it needs libvirt's own library of the distribution. Nothing else imports it.
"""

from __future__ import annotations

import errno
import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

from hypersdk.errors import (
    AccessError,
    ConnectError,
    HyperSDKError,
    LookupFailed,
    Refused,
    TargetError,
    register,
)
from hypersdk.loading import loading
from hypersdk.remedies import First, Retry
from hypersdk.text import clean

LIBVIRT_NOT_INSTALLED: Final = register(
    "libvirt_not_installed",
    "The Python library of libvirt is not installed for this Python. Only landing on libvirt needs it.",
    "HyperSDK's packages contain it: install libvirt's own library (libvirt0 on Debian and Ubuntu, libvirt-libs on"
    " Fedora and RHEL). Otherwise install the distribution's package (python3-libvirt) if HyperSDK runs with the"
    " distribution's Python. Or run `pip install 'hypersdk[kvm]'` in HyperSDK's environment, which needs the"
    " packages libvirt-dev (libvirt-devel), pkg-config and gcc.",
)
LIBVIRT_UNREACHABLE: Final = register(
    "libvirt_unreachable",
    "libvirt does not answer at this address.",
    "Check that libvirtd (or virtqemud) runs there: `virsh -c ADDRESS version` must answer. By SSH the host key must be"
    " known and the login must work without a password: `ssh USER@HOST virsh -c qemu:///system version`.",
)
LIBVIRT_CERTIFICATE: Final = register(
    "libvirt_certificate",
    "By TLS, one of the two sides has no certificate, or the other one does not accept it.",
    "The address must have the name that is in the server's certificate. libvirt finds those of its clients in"
    " /etc/pki/CA/cacert.pem, /etc/pki/libvirt/clientcert.pem and /etc/pki/libvirt/private/clientkey.pem on this host:"
    " `virsh -c ADDRESS version` must answer.",
)
LIBVIRT_DENIED: Final = register(
    "libvirt_denied",
    "libvirt does not let this user in, or not do this.",
    "Add the user to the group libvirt (`usermod -aG libvirt USER`, then log in again), or have an administrator allow"
    " it in polkit.",
)
LIBVIRT_TIMEOUT: Final = register(
    "libvirt_timeout",
    "libvirt did not answer in time.",
    First("check the load of the host and the log of libvirtd"),
    Retry(),
)
LIBVIRT_NOT_FOUND: Final = register(
    "libvirt_not_found",
    "libvirt has no domain, network, pool or volume of that name.",
    "Check the name in the target's lists: `virsh list`, `virsh net-list`, `virsh pool-list`.",
)
LIBVIRT_EXISTS: Final = register(
    "libvirt_exists",
    "libvirt has something of that name or UUID already.",
    "Choose another name, or remove what is there if it is not needed.",
)
LIBVIRT_XML_REFUSED: Final = register(
    "libvirt_xml_refused",
    "libvirt refused the definition of the domain: this version of libvirt or QEMU does not support it.",
    "Read the reason. A newer libvirt or QEMU on the target, or another disk bus or network card, often helps.",
)
LIBVIRT_FULL: Final = register(
    "libvirt_full",
    "A file system of the target is full.",
    First("free space on the target, in the storage pool or where the images lie"),
    Retry(),
)
LIBVIRT_FAILED: Final = register(
    "libvirt_failed",
    "libvirt reported an error.",
    "Read the reason, and the log of libvirtd on the target.",
)

_RPC_DOMAINS: Final = frozenset({"VIR_FROM_RPC", "VIR_FROM_REMOTE"})
_CODES: Final[tuple[tuple[type[HyperSDKError], str, tuple[str, ...]], ...]] = (
    (
        AccessError,
        LIBVIRT_DENIED,
        ("AUTH_FAILED", "AUTH_CANCELLED", "AUTH_UNAVAILABLE", "ACCESS_DENIED", "OPERATION_DENIED"),
    ),
    (LookupFailed, LIBVIRT_NOT_FOUND, ("NO_DOMAIN", "NO_NETWORK", "NO_STORAGE_POOL", "NO_STORAGE_VOL")),
    (Refused, LIBVIRT_EXISTS, ("DOM_EXIST", "NETWORK_EXIST", "STORAGE_VOL_EXIST")),
    (Refused, LIBVIRT_XML_REFUSED, ("XML_ERROR", "XML_DETAIL", "XML_INVALID_SCHEMA", "CONFIG_UNSUPPORTED")),
    (ConnectError, LIBVIRT_TIMEOUT, ("OPERATION_TIMEOUT",)),
    (ConnectError, LIBVIRT_UNREACHABLE, ("NO_CONNECT", "INVALID_CONN", "GNUTLS_ERROR", "RPC")),
)
"""Names of ``VIR_ERR_`` in libvirt's ``virterror.h``."""
_TAKEN: Final = "already exists"
"""Text of OPERATION_FAILED where a name or a UUID is taken (``virDomainObjListAddLocked`` has no code of its own)."""


@lru_cache(maxsize=1)
def libvirt() -> Any:
    """The module, with its event loop running, which keep-alive and streams need. Raises Refused
    ``libvirt_not_installed``."""
    try:
        with loading():
            module = importlib.import_module("libvirt")
    except ImportError as error:
        raise Refused("libvirt's Python library is not installed", code=LIBVIRT_NOT_INSTALLED) from error
    module.registerErrorHandler(lambda _context, _error: None, None)  # it would print each error
    module.virEventRegisterDefaultImpl()  # before the first connection
    threading.Thread(target=_run_events, args=(module,), name="libvirt events", daemon=True).start()
    return module


def _run_events(module: Any) -> None:
    while True:
        module.virEventRunDefaultImpl()


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raises what libvirt raises in the block as our errors; ``what`` is what was tried, as a clause."""
    module = libvirt()
    try:
        yield
    except module.libvirtError as error:
        raise _as_ours(module, error, what) from error


def _as_ours(module: Any, error: Any, what: str) -> HyperSDKError:
    text = clean(error.get_error_message() or str(error), 1000)
    kind, code = _kind_of(module, error, text)
    return kind(f"{what}: {text}", code=code, libvirt_code=error.get_error_code())


def _kind_of(module: Any, error: Any, text: str) -> tuple[type[HyperSDKError], str]:
    number = error.get_error_code()
    if number == module.VIR_ERR_OPERATION_FAILED and _TAKEN in text:
        return Refused, LIBVIRT_EXISTS
    if number == module.VIR_ERR_SYSTEM_ERROR and error.get_int1() == errno.ENOSPC:
        return TargetError, LIBVIRT_FULL
    for kind, code, names in _CODES:
        if any(number == getattr(module, f"VIR_ERR_{name}", None) for name in names):
            return kind, code
    if any(error.get_error_domain() == getattr(module, name) for name in _RPC_DOMAINS):
        denied = error.get_int1() == errno.EACCES or "Permission denied" in text
        return (AccessError, LIBVIRT_DENIED) if denied else (ConnectError, LIBVIRT_UNREACHABLE)
    return TargetError, LIBVIRT_FAILED
