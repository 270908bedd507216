"""An embedded vCenter/ESXi over HTTPS/SOAP, for the demo, for rehearsals and for fault injection.

::

    with Simulator(SimulatorConfig(vms=20)) as simulator:
        ...  # simulator.url, .username, .password, .ca_pem

Later modules import earlier ones, never the other way round::

    values schema content -> world session managed -> platform access -> entities storage hosts -> disks machine_state
    -> machine_view machine_files lease -> machine datacenter -> inventory dispatch nfc folder -> routes server
"""

from hypersdk.simulator.config import DiskSpec, MachineSpec, SimulatorConfig
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.simulator.server import Simulator

__all__ = ["DiskSpec", "Fault", "FaultKind", "MachineSpec", "Simulator", "SimulatorConfig"]
