"""An embedded vCenter/ESXi over HTTPS/SOAP, for the demo, for rehearsals and for fault injection.

::

    with Simulator(SimulatorConfig(vms=20)) as simulator:
        ...  # simulator.url, .username, .password, .ca_pem

Later modules import earlier ones, never the other way round::

    values schema content -> world session managed -> platform access -> entities storage hosts -> disks machine_state
    -> machine_view machine_files lease -> machine datacenter -> inventory dispatch nfc folder -> routes server
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hypersdk.simulator.config import DiskSpec, MachineSpec, SimulatorConfig
    from hypersdk.simulator.faults import Fault, FaultKind
    from hypersdk.simulator.server import Simulator

__all__ = ["DiskSpec", "Fault", "FaultKind", "MachineSpec", "Simulator", "SimulatorConfig"]
_CONFIG, _FAULTS = ("DiskSpec", "MachineSpec", "SimulatorConfig"), ("Fault", "FaultKind")


def __getattr__(name: str) -> object:
    """Imported when first asked for, so that ``__main__`` can say which package is not installed."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "config" if name in _CONFIG else "faults" if name in _FAULTS else "server"
    return getattr(import_module(f"{__name__}.{module}"), name)
