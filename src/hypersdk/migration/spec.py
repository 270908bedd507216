"""The request for an export: one machine, one folder, one format. Made by the command line and from job files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final


class OutputFormat(StrEnum):
    """The files of an export; ``migration.formats`` describes each format."""

    OVF = "ovf"  # .ovf, .mf and a streamOptimized .vmdk per disk
    OVA = "ova"  # the same in one tar file
    VMDK = "vmdk"  # the .vmdk files alone
    QCOW2 = "qcow2"
    RAW = "raw"


class Compression(StrEnum):
    """What is done with the deflated grains before they are written to a compressed output.

    ``none``: stored uncompressed (qcow2 only). ``checked``: stored as received, after each was inflated once as a
    check. ``unchecked``: stored as received, without a check. ``repack``: inflated and deflated again with a 4 KiB
    window, for readers that need it. streamOptimized outputs are always compressed: ``none`` means ``checked`` there.
    """

    NONE = "none"
    CHECKED = "checked"
    UNCHECKED = "unchecked"
    REPACK = "repack"


class Method(StrEnum):
    """How the disks are read."""

    AUTO = "auto"
    LEASE = "lease"
    DATASTORE = "datastore"


class FileHash(StrEnum):
    """Which digest of each image file the manifest has."""

    TREE = "tree"  # of images that are not streams; computed while they are written
    SHA256 = "sha256"  # in addition the SHA-256, for which each image is read once more
    NONE = "none"  # only what is computed while the file is written and is needed anyway


class SourceState(StrEnum):
    """How the machine is kept from changing its disks during the export."""

    AUTO = "auto"  # powered off: as it is; running: from a temporary snapshot
    POWER_OFF = "power-off"
    SHUTDOWN = "shutdown"
    SNAPSHOT = "snapshot"  # an existing one by its name, or "new"


class ResumeMode(StrEnum):
    """What to do with an unfinished export in the output folder."""

    REFUSE = "refuse"  # the default: an error
    RESUME = "resume"
    DISCARD = "discard"


PARALLEL: Final = 4
"""Disks of a machine that are copied at a time, unless another number is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSpec:
    """One export, as requested. ``machine`` is a name, inventory path, moref or UUID. ``snapshot`` is used with
    ``SourceState.SNAPSHOT``.

    ``show_disks``: the display has a line for each disk in addition to the machine's. ``exclude_disks`` are disk labels
    (``Hard disk 2``), device keys, or numbers from 1 in unit order.

    ``disconnect``: the machine's network cards are disconnected before its point in time. ``hold``: what keeps the
    source off the network (powered off, disconnected) is not undone at the end of the export, but by what comes after
    it: see ``migration.hold``.
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
    parallel: int = PARALLEL
    file_hash: FileHash = FileHash.TREE
    force: bool = False
    resume: ResumeMode = ResumeMode.REFUSE
    retries: int = 3
    quiesce: bool = True
    disconnect: bool = False
    hold: bool = False
    job_id: str | None = None
    job_name: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    show_disks: bool = True
    display_dir: Path | None = None

    @property
    def shown_dir(self) -> Path:
        """``output_dir`` for users and manifests. The two differ where ``output_dir`` is an open descriptor of this
        process (``/proc/self/fd/7``), so that another folder cannot take its place."""
        return self.display_dir or self.output_dir
