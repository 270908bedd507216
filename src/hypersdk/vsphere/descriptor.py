"""The server's own OVF descriptor, where it offers one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from hypersdk.errors import Cancelled, HyperSDKError
from hypersdk.formats.ovf import OvfDisk
from hypersdk.units import MiB
from hypersdk.vsphere.faults import clean_text, translate
from hypersdk.vsphere.session import Session

LOG: Final = logging.getLogger(__name__)
DESCRIPTOR_MAX_BYTES: Final = 16 * MiB


def server_descriptor(session: Session, moref: str, snapshot: str | None, files: Sequence[OvfDisk]) -> bytes | None:
    """``OvfManager.CreateDescriptor`` for a machine (or one of its ``snapshot``s), naming ``files`` by their lease
    keys.

    To be asked while lease and snapshot are still there. None where the server has no such call or reports an error:
    the disks are what counts, and a descriptor of our own is as good; the reason goes to the log.
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
        LOG.info("the server says of its descriptor: %s", clean_text(str(warning.msg or "")))
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
