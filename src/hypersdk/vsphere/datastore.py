"""How much space a snapshot takes on its datastore."""

from __future__ import annotations

from typing import Final

from hypersdk.errors import AccessError, LookupFailed, Refused
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.soap import Element, child_text, children, read_one, to_int

LAYOUT: Final = "layoutEx"


def delta_bytes(session: Session, moref: str, *, cancel: CancelToken | None = None) -> int:
    """Bytes of the files that a machine's running point writes to, where a snapshot lies below it; 0 without one.

    vCenter caches the sizes of files and the free space of datastores for up to half an hour, so a refresh is requested
    first.
    """
    token = cancel or CancelToken()
    _refresh(session, moref, token)
    layout = read_one(session, "VirtualMachine", moref, [LAYOUT], cancel=token).values.get(LAYOUT)
    return 0 if layout is None else written_bytes(layout)


def written_bytes(layout: Element) -> int:
    """Bytes of the deltas in a ``layoutEx`` that are written to now: those of the last unit of each chain of several.

    *VirtualMachineFileLayoutExDiskLayout*: a chain begins at its root.
    """
    sizes = {child_text(file, "key"): to_int(child_text(file, "size")) or 0 for file in children(layout, "file")}
    return sum(sizes.get(key, 0) for disk in children(layout, "disk") for key in _written_files(disk))


def _written_files(disk: Element) -> list[str | None]:
    chain = children(disk, "chain")
    return [key.text for key in children(chain[-1], "fileKey")] if len(chain) > 1 else []


def _refresh(session: Session, moref: str, cancel: CancelToken) -> None:
    stores = read_one(session, "VirtualMachine", moref, ["datastore"], cancel=cancel).items("datastore")
    session.call(lambda: session.ref("VirtualMachine", moref).RefreshStorageInfo())
    for store in stores:
        name = store.text or ""
        try:
            session.call(lambda name=name: session.ref("Datastore", name).RefreshDatastoreStorageInfo())  # type: ignore[misc]
        except (AccessError, Refused, LookupFailed):
            continue  # without the privilege, or on a server without the call, the kept figures are all there is
