"""HyperSDK: takes virtual machines out of VMware vSphere and lands them on KVM, in one pass.

``from hypersdk import Client`` is the client of the daemon; it is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hypersdk.client import Client

__version__ = "0.1.0"
__all__ = ["Client", "__version__"]


def __getattr__(name: str) -> object:
    if name == "Client":
        from hypersdk.client import Client

        return Client
    raise AttributeError(f"module 'hypersdk' has no attribute {name!r}")
