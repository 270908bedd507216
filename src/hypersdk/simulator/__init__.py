"""An embedded vCenter/ESXi over HTTPS/SOAP, for the demo, for rehearsals and for fault injection.

::

    with Simulator(SimulatorConfig(vms=20)) as simulator:
        ...  # simulator.url, .username, .password, .ca_pem
"""

from hypersdk.simulator.config import DiskSpec, MachineSpec, SimulatorConfig
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.simulator.server import Simulator

__all__ = ["DiskSpec", "Fault", "FaultKind", "MachineSpec", "Simulator", "SimulatorConfig"]
