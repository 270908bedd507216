"""The calls of an export: HttpNfcLease, the server's description of its files, and its OVF descriptor. No policy here.

Facts: *HttpNfcLease*, *HttpNfcLeaseInfo*, *HttpNfcLeaseDeviceUrl*, *HttpNfcLeaseManifestEntry* in the vSphere Web
Services API reference. ``fileSize`` is unset for disks, whose stream is made on the fly; ``sslCertificate`` came with
9.0.
"""

from __future__ import annotations

import binascii
import hashlib
import logging
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from hypersdk.errors import (
    Cancelled,
    HyperSDKError,
    LookupFailed,
    Refused,
    SourceError,
    TransientError,
    UsageError,
    register,
)
from hypersdk.formats.ovf import OvfDisk
from hypersdk.net.certificate import parse_fingerprint
from hypersdk.remedies import First, Retry
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.source import StreamAlgorithm
from hypersdk.units import MiB
from hypersdk.vsphere.faults import NOT_SUPPORTED, clean_text, translate
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.soap import Element, ObjectProperties, child_text, children, localized_fault, read_one, to_int
from hypersdk.vsphere.wire import BAD_REPLY

LOG: Final = logging.getLogger(__name__)

LEASE_NOT_READY: Final = register(
    "lease_not_ready",
    "The ESXi host did not prepare the export in time.",
    First("check the load of the host and the export task in vCenter"),
    Retry(),
)

READY_TIMEOUT_S: Final = 300.0
FIRST_LOOK_S: Final = 0.05
LAST_LOOK_S: Final = 1.0
DEFAULT_TIMEOUT_S: Final = 300
"""The default of vSphere."""
MAX_FILES: Final = 1024
DESCRIPTOR_MAX_BYTES: Final = 16 * MiB
MAX_TEXT: Final = 8192
READY: Final = "ready"
INITIALIZING: Final = "initializing"
HOLDING: Final = frozenset({INITIALIZING, READY})
"""States in which a lease holds its machine."""


@dataclass(frozen=True, slots=True)
class DeviceUrl:
    """One file of an export. ``pin`` is the fingerprint of the serving host's certificate (SHA-256 or SHA-1 hex), where
    the server gives it."""

    key: str
    url: str
    pin: str | None
    is_disk: bool
    target_id: str


@dataclass(frozen=True, slots=True)
class LeaseInfo:
    """A lease that is ready. ``files`` are by their key."""

    timeout_s: int
    files: dict[str, DeviceUrl]


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """The server's digests and size of one file that it sent. Digests are lower-case hex; None where it has none."""

    sha1: str | None
    sha256: str | None
    size_bytes: int | None


def request_lease(session: Session, moref: str, snapshot: str | None) -> str:
    """Requests the export of a powered-off machine, or of a snapshot; returns the moref of the lease, which is not
    ready yet."""

    def ask() -> str:
        if snapshot is not None:
            return str(session.ref("VirtualMachineSnapshot", snapshot).ExportSnapshot()._moId)
        return str(session.ref("VirtualMachine", moref).ExportVm()._moId)

    return session.call(ask)


def lease_state(session: Session, lease: str, cancel: CancelToken) -> str | None:
    """``initializing``, ``ready``, ``done`` or ``error``; None when the lease no longer exists (timed out, ended, or
    its session ended)."""
    try:
        return read_one(session, "HttpNfcLease", lease, ["state"], cancel=cancel).text("state")
    except LookupFailed:
        return None


def wait_until_ready(session: Session, lease: str, *, cancel: CancelToken) -> LeaseInfo:
    """Waits for ``ready`` and returns the files that can be downloaded. Raises the lease's error, and TransientError
    ``lease_not_ready``."""
    pause_s, started = FIRST_LOOK_S, time.monotonic()
    while True:
        now = read_one(session, "HttpNfcLease", lease, ["state", "info", "error"], cancel=cancel)
        if now.text("state") == READY:
            return lease_info(now)
        if now.text("state") != INITIALIZING:
            if (error := now.values.get("error")) is not None:
                raise localized_fault(error)
            raise SourceError(f"the export ended before it began (state {clean_text(now.text('state') or 'unknown')})")
        if time.monotonic() - started >= READY_TIMEOUT_S:
            raise TransientError(f"the export was not ready after {READY_TIMEOUT_S:.0f} s", code=LEASE_NOT_READY)
        cancel.sleep(pause_s)
        pause_s = min(pause_s * 1.5, LAST_LOOK_S)


def lease_info(now: ObjectProperties) -> LeaseInfo:
    """Decodes the ``info`` of a lease."""
    info = now.values.get("info")
    urls = children(info, "deviceUrl")
    if not urls or len(urls) > MAX_FILES:
        raise SourceError(f"the export lease lists {len(urls)} files", code=BAD_REPLY)
    timeout_s = to_int(child_text(info, "leaseTimeout")) or DEFAULT_TIMEOUT_S
    files = [_device_url(url) for url in urls]
    return LeaseInfo(max(timeout_s, 1), {file.key: file for file in files})


def _device_url(element: Element) -> DeviceUrl:
    key, url = child_text(element, "key") or "", child_text(element, "url") or ""
    if not url or max(len(key), len(url)) > MAX_TEXT:
        raise SourceError("the export lease has a file without a usable URL", code=BAD_REPLY)
    target = child_text(element, "targetId") or url.split("?", 1)[0].rpartition("/")[2]
    disk = child_text(element, "disk")  # since 4.1
    return DeviceUrl(
        key=key or url,
        url=url,
        pin=_pin(element),
        is_disk=disk == "true" if disk else target.lower().endswith(".vmdk"),
        target_id=clean_text(target),
    )


def _pin(element: Element) -> str | None:
    """The serving host's certificate by its SHA-256, else by the SHA-1 fingerprint that older servers give."""
    certificate, thumbprint = child_text(element, "sslCertificate"), child_text(element, "sslThumbprint")
    try:
        if certificate:
            return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.strip())).hexdigest()
        return parse_fingerprint(thumbprint) if thumbprint else None
    except (UsageError, ValueError, binascii.Error) as error:
        raise SourceError("the lease names a certificate that cannot be read", code=BAD_REPLY) from error


def manifest_algorithm(session: Session, lease: str, keys: Sequence[str]) -> StreamAlgorithm:
    """Requests a manifest with SHA-256 (vSphere 6.7 and later) and returns the algorithm that it will have: SHA-1 where
    the server refuses. To be called before the first byte is read."""

    def ask() -> None:
        from pyVmomi import vim

        pairs = [vim.KeyValue(key=key, value="sha256") for key in keys]
        session.ref("HttpNfcLease", lease).HttpNfcLeaseSetManifestChecksumType(deviceUrlsToChecksumTypes=pairs)

    try:
        session.call(ask)
    except (Refused, SourceError) as error:
        LOG.info("the server's manifest uses SHA-1: %s", error.message)
        return "sha1"
    return "sha256"


def renew(session: Session, lease: str, percent: int) -> None:
    """Reports progress, which keeps the lease alive."""
    session.call(lambda: session.ref("HttpNfcLease", lease).HttpNfcLeaseProgress(percent=percent))


def manifest(session: Session, lease: str) -> dict[str, ManifestEntry]:
    """The server's manifest by file key; to be read before the lease ends. Empty where the server has none."""
    try:
        entries = session.call(lambda: session.ref("HttpNfcLease", lease).HttpNfcLeaseGetManifest())
    except HyperSDKError as error:
        if error.code != NOT_SUPPORTED:
            raise
        return {}
    return {str(entry.key): _entry(entry) for entry in entries}


def _entry(entry: Any) -> ManifestEntry:
    kind = (entry.checksumType or "").lower().replace("-", "")
    return ManifestEntry(
        sha1=_digest(entry.checksum if kind == "sha1" and not entry.sha1 else entry.sha1, 40),
        sha256=_digest(entry.checksum, 64) if kind == "sha256" else None,
        size_bytes=entry.size or None,
    )


def _digest(text: str | None, digits: int) -> str | None:
    found = (text or "").strip().lower()
    return found if len(found) == digits and not found.strip("0123456789abcdef") else None


def complete(session: Session, lease: str) -> None:
    """Ends the export successfully."""
    session.call(lambda: session.ref("HttpNfcLease", lease).HttpNfcLeaseComplete())


def abort(session: Session, lease: str) -> None:
    """Aborts the export, which frees the machine."""
    session.call(lambda: session.ref("HttpNfcLease", lease).HttpNfcLeaseAbort(fault=None))


def server_descriptor(session: Session, moref: str, snapshot: str | None, files: Sequence[OvfDisk]) -> bytes | None:
    """``OvfManager.CreateDescriptor`` for a machine (or one of its ``snapshot``s), naming ``files`` by their lease
    keys.

    To be called while lease and snapshot still exist. None where the server has no such call or reports an error, which
    is logged: a descriptor of our own serves as well.
    """
    try:
        result = session.call(lambda: _create(session, moref, snapshot, files))
    except Cancelled:
        raise
    except HyperSDKError as error:
        LOG.info("no descriptor from the server: %s", error.message)
        return None
    for problem in result.error or ():
        LOG.info("the server's descriptor has an error: %s", translate(problem).message)
    text = (result.ovfDescriptor or "").encode()
    if result.error or not text or len(text) > DESCRIPTOR_MAX_BYTES:
        return None
    for warning in result.warning or ():
        LOG.info("the server warns about its descriptor: %s", clean_text(str(warning.msg or "")))
    return text


def _create(session: Session, moref: str, snapshot: str | None, files: Sequence[OvfDisk]) -> Any:
    from pyVmomi import vim

    ovf_files = [
        vim.OvfManager.OvfFile(
            deviceId=file.lease_key,
            path=file.file_name,
            size=file.size_bytes,
            capacity=file.capacity_bytes,
            populatedSize=file.populated_bytes,
        )
        for file in files
        if file.lease_key
    ]
    params = vim.OvfManager.CreateDescriptorParams(
        ovfFiles=ovf_files, snapshot=session.ref("VirtualMachineSnapshot", snapshot) if snapshot else None
    )
    manager = session.ref("OvfManager", session.content.ovfManager._moId)
    return manager.CreateDescriptor(obj=session.ref("VirtualMachine", moref), cdp=params)
