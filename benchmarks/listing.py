"""The inventory without device lists, as a process of its own: log in by the GOVC_* variables, read, log out."""

from __future__ import annotations

import os

from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.endpoint import resolve_endpoint
from hypersdk.vsphere.inventory import list_machines
from hypersdk.vsphere.session import Session


def main() -> None:
    """Prints how many machines there are."""
    cancel = CancelToken()
    with Session.connect(resolve_endpoint(os.environ, None), cancel=cancel) as session:
        print(len(list_machines(session, cancel=cancel, disks=False)))


if __name__ == "__main__":
    main()
