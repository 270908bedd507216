"""The records that cross packages. Frozen, in plain units (bytes, seconds, UTC); unknown is ``None``, never zero.

::

    MachineSummary  one row of a list            Machine      all we know of one VM
    ├── moref, name, path, uuid                  ├── summary, firmware, guest facts
    └── power, cpus, memory, DiskSummary[]       ├── disks[]  ──> Disk (controller, unit, backing, mode)
                                                 ├── nics[]   ──> Nic
    DiskProgress ⊂ ExportProgress                ├── cdroms[] ──> Cdrom
    what a run looks like while it runs          └── snapshots[] (a tree, flattened, parents first)
"""

from hypersdk.model.boot import boot_sequence, named_boot_disks, unit_order
from hypersdk.model.datastorepath import split_datastore_path
from hypersdk.model.machine import (
    Backing,
    Cdrom,
    Disk,
    DiskSummary,
    Firmware,
    GuestFacts,
    Machine,
    MachineSummary,
    Nic,
    Power,
    SnapshotNode,
)
from hypersdk.model.progress import (
    ENDED,
    MAX_UNFINISHED_FRACTION,
    SNAPSHOTS_PER_DATASTORE,
    Basis,
    Bottleneck,
    DiskProgress,
    ExportProgress,
    Phase,
    at_rest,
    never_below,
    waits_for,
    waits_to_land,
    without_rate,
)
from hypersdk.model.progressjson import (
    event_object,
    job_object,
    json_fields,
    read_fields,
    read_job_object,
)

__all__ = [
    "ENDED", "MAX_UNFINISHED_FRACTION", "SNAPSHOTS_PER_DATASTORE", "Backing", "Basis", "Bottleneck", "Cdrom", "Disk",
    "DiskProgress", "DiskSummary", "ExportProgress", "Firmware", "GuestFacts", "Machine", "MachineSummary", "Nic",
    "Phase", "Power", "SnapshotNode", "at_rest", "boot_sequence", "event_object", "job_object", "json_fields",
    "named_boot_disks", "never_below", "read_fields", "read_job_object", "split_datastore_path", "unit_order",
    "waits_for", "waits_to_land", "without_rate",
]  # fmt: skip
