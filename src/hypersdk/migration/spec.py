"""What a user asks for: one machine, one place, one format. Made by the command line and by job files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class OutputFormat(StrEnum):
    """What lies in the output folder at the end; ``migration.formats`` has what each of them means."""

    OVF = "ovf"  # .ovf, .mf and a streamOptimized .vmdk per disk
    OVA = "ova"  # the same in one tar file
    VMDK = "vmdk"  # the .vmdk files alone
    QCOW2 = "qcow2"
    RAW = "raw"


class Compression(StrEnum):
    """What happens to the deflated grains on their way into a compressed output.

    ``none``: stored plain (qcow2 only). ``checked``: stored as they came, after each was inflated once to prove it.
    ``unchecked``: stored as they came, unseen. ``repack``: inflated and deflated again with a 4 KiB window, for narrow
    readers. streamOptimized outputs are always compressed: ``none`` means ``checked`` there.
    """

    NONE = "none"
    CHECKED = "checked"
    UNCHECKED = "unchecked"
    REPACK = "repack"


class Method(StrEnum):
    """Where the bytes come from."""

    AUTO = "auto"
    LEASE = "lease"
    DATASTORE = "datastore"


class SourceState(StrEnum):
    """What may be done to the machine so that its disks do not change."""

    AUTO = "auto"  # off: as it is; running: through a temporary snapshot
    POWER_OFF = "power-off"
    SHUTDOWN = "shutdown"
    SNAPSHOT = "snapshot"  # a named one that exists, or "new"


class Resume(StrEnum):
    """What to do with an unfinished export that lies in the output folder."""

    REFUSE = "refuse"  # the default: say that it is there
    RESUME = "resume"
    DISCARD = "discard"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSpec:
    """One export, as asked for. ``machine`` is a name, inventory path, moref or UUID. ``snapshot`` goes with
    ``SourceState.SNAPSHOT``.

    ``show_disks`` is for the display: a line for each disk beside the machine's. ``exclude_disks`` holds disk labels
    (``Hard disk 2``), device keys, or numbers from 1 in unit order.
    """

    machine: str
    output_dir: Path
    format: OutputFormat = OutputFormat.QCOW2
    compress: Compression = Compression.NONE
    method: Method = Method.AUTO
    state: SourceState = SourceState.AUTO
    snapshot: str | None = None
    remove_cdrom: bool = False
    exclude_disks: tuple[str, ...] = ()
    parallel: int = 4
    file_hash: bool = True
    force: bool = False
    resume: Resume = Resume.REFUSE
    retries: int = 3
    quiesce: bool = True
    job_id: str | None = None
    job_name: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    show_disks: bool = True
    display_dir: Path | None = None

    @property
    def shown_dir(self) -> Path:
        """``output_dir`` for people and manifests. The two differ where ``output_dir`` names a folder by an open
        descriptor of this process (``/proc/self/fd/7``), so that another folder cannot take its place."""
        return self.display_dir or self.output_dir
