"""HttpNfcLease: an export in progress. It belongs to its session, keeps the machine busy, and ends by Complete,
Abort, cancelling of its task, the end of its session, or a time-out when it is not renewed.

::

    initializing ──> ready ──> done       HttpNfcLeaseComplete
         │             └─────> error      Abort, time-out, task cancelled, session ended
         └───────────────────> error      the host could not prepare the export
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from operator import attrgetter

from hypersdk.simulator import devices
from hypersdk.simulator.content import DiskImage
from hypersdk.simulator.disks import DiskState, unit_number
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.simulator.machine_files import nvram
from hypersdk.simulator.machine_state import MachineState
from hypersdk.simulator.managed import Call, SessionObject, operation
from hypersdk.simulator.storage import datastore_of_path, split_path
from hypersdk.simulator.stream import stream_length
from hypersdk.simulator.tasks import Task
from hypersdk.simulator.values import Data, MethodFault
from hypersdk.simulator.world import World
from hypersdk.units import KiB


@dataclass(slots=True)
class LeaseFile:
    """One file of the export. ``index`` is the disk's number, ``None`` for files that are not disks.

    ``digests`` are those of the last complete delivery; ``sent_bytes`` its length.
    """

    key: str
    name: str
    content: DiskImage | bytes
    index: int | None
    capacity_bytes: int
    populated_bytes: int
    digests: dict[str, str] = field(default_factory=dict)
    sent_bytes: int = 0


class ExportLease(SessionObject, api_type="HttpNfcLease", computed={"state": attrgetter("state")}):
    """One HttpNfcLease. ``state`` is ``initializing``, ``ready``, ``done`` or ``error``."""

    def __init__(self, call: Call, machine: MachineState, disks: list[DiskState], task: Task) -> None:
        self.platform = machine.platform
        self.machine = machine
        self.task = task
        self.ticket = secrets.token_hex(16)
        self.timeout_s = self.platform.config.lease_timeout_s
        self.renewed = time.monotonic()
        self.state = "initializing"
        self.ended = False
        self.checksum = "sha1"
        self.files = _files_of(machine, disks)
        capabilities = Data("HttpNfcLeaseCapabilities", pullModeSupported=True, corsSupported=True)
        super().__init__(
            machine.world,
            call,
            "lease-",
            initializeProgress=0,
            transferProgress=0,
            mode="pushOrGet",
            capabilities=capabilities,
        )

    def prepared(self) -> None:
        """The host has prepared the export, or failed to."""
        if self._fault(FaultKind.LEASE_ERROR, None) is not None:
            text = "A general system error occurred: the host failed to prepare the export"
            self.end(MethodFault.of("SystemError", text, reason="nfc"))
        elif self.state == "initializing":
            self.renewed = time.monotonic()
            self.state = "ready"
            self.values |= {"initializeProgress": 100, "info": self._info()}
            self.touch()

    def end(self, fault: MethodFault | None) -> None:
        """Ends it as done, or with an error; the machine is no longer busy."""
        if self.ended:
            return
        self.ended = True
        self.state = "error" if fault else "done"
        if fault is not None:
            self.values["error"] = fault.localized()
        self.touch()
        self.machine.touch()
        if fault is None:
            self.task.succeed()
        else:
            self.task.fail(fault)

    def expired(self) -> bool:
        """Whether it was not renewed in time."""
        return self.state == "ready" and time.monotonic() - self.renewed > self.timeout_s

    def file(self, name: str) -> LeaseFile | None:
        """The file of that name in the URL."""
        return next((file for file in self.files if file.name == name), None)

    def digests(self) -> tuple[str, ...]:
        """Names of the digests that the host computes for each stream: always SHA-1, unless there is no manifest."""
        if self.platform.config.manifest == "absent":
            return ()
        return ("sha1", "sha256") if self.checksum == "sha256" else ("sha1",)

    def _info(self) -> Data:
        urls = [self._device_url(file) for file in self.files]
        total = sum(file.capacity_bytes for file in self.files) // KiB
        return Data(
            "HttpNfcLeaseInfo",
            lease=self.ref,
            entity=self.machine.ref,
            deviceUrl=urls,
            totalDiskCapacityInKB=total,
            leaseTimeout=max(1, int(self.timeout_s)),
            hostMap=[],
        )

    def _device_url(self, file: LeaseFile) -> Data:
        host = self.machine.host.endpoint
        authority = "*" if self.platform.esxi else f"{host.address}:{host.port}"
        return Data(
            "HttpNfcLeaseDeviceUrl",
            key=file.key,
            importKey=f"/{self.machine.name}{file.key[file.key.rfind('/') :]}",
            url=f"https://{authority}/nfc/{self.ticket}/{file.name}",
            sslThumbprint=host.thumbprint,
            disk=file.index is not None,
            targetId=file.name,
            datastoreKey=self.machine.home.url,
            fileSize=self._file_size(file),
        )

    def _file_size(self, file: LeaseFile) -> int | None:
        """As on real servers: the size of small files, none for disks."""
        if file.index is None or not isinstance(file.content, DiskImage):
            return file.capacity_bytes
        if self._fault(FaultKind.FILE_SIZE_WRONG, file) is not None:
            return file.capacity_bytes
        if self.platform.config.file_size == "present" or self._fault(FaultKind.FILE_SIZE_PRESENT, file) is not None:
            return stream_length(file.content, file.name)
        return None

    def _fault(self, kind: FaultKind, file: LeaseFile | None) -> Fault | None:
        index = file.index if file else None
        taken = self.platform.faults.take(
            [kind], host=self.machine.host.name, machine=self.machine.spec.name, index=index
        )
        return taken[0] if taken else None

    def _require_state(self, *states: str) -> None:
        if self.state not in states:
            raise MethodFault.of("InvalidState", f"The lease is in state '{self.state}'.")

    # Calls

    @operation("HttpNfcLeaseProgress")
    def _progress(self, call: Call) -> None:
        """Accepts any integer: some clients send nonsense when they do not know the total."""
        if self.state == "error":
            raise MethodFault.of("Timedout", "The lease has ended.")
        self._require_state("initializing", "ready")
        self.renewed = time.monotonic()
        percent = min(100, max(0, call.args.percent))
        self.values["transferProgress"] = percent
        self.task.update(progress=percent)
        self.touch()

    @operation("HttpNfcLeaseComplete")
    def _complete(self, _call: Call) -> None:
        self._require_state("ready")
        self.end(None)

    @operation("HttpNfcLeaseAbort")
    def _abort(self, call: Call) -> None:
        self._require_state("initializing", "ready")
        reason = call.args.fault
        if reason is not None:
            self.end(MethodFault(reason.fault, reason.localizedMessage or "The export was aborted."))
        else:
            self.end(MethodFault.of("RequestCanceled", "The export was aborted."))

    @operation("HttpNfcLeaseSetManifestChecksumType")
    def _set_checksum_type(self, call: Call) -> None:
        self._require_state("initializing", "ready")
        wanted = {pair.value.lower() for pair in call.args.deviceUrlsToChecksumTypes or []}
        unknown = wanted - {"sha1", "sha256"}
        if unknown or (self.platform.config.manifest == "sha1" and "sha256" in wanted):
            raise MethodFault.of("NotSupported", f"Checksum type not supported: {', '.join(sorted(wanted))}.")
        self.checksum = "sha256" if "sha256" in wanted else "sha1"

    @operation("HttpNfcLeaseGetManifest")
    def _manifest(self, _call: Call) -> list[Data]:
        self._require_state("ready")
        if self.platform.config.manifest == "absent" or self._fault(FaultKind.NO_MANIFEST, None) is not None:
            return []
        return [self._entry(file) for file in self.files if file.digests]

    def _entry(self, file: LeaseFile) -> Data:
        sha1, sha256 = file.digests["sha1"], file.digests.get("sha256", "")
        if self._fault(FaultKind.WRONG_MANIFEST, file) is not None:
            sha1, sha256 = sha1[::-1], sha256[::-1]
        return Data(
            "HttpNfcLeaseManifestEntry",
            key=file.key,
            sha1=sha1,
            checksum=sha256 or sha1,
            checksumType="sha256" if sha256 else "sha1",
            size=file.sent_bytes,
            disk=file.index is not None,
            capacity=file.capacity_bytes,
            populatedSize=file.populated_bytes,
        )


def _files_of(machine: MachineState, disks: list[DiskState]) -> list[LeaseFile]:
    """Disks in device order, then an inserted ISO, then the nvram file."""
    files = []
    for number, disk in enumerate(disks):
        key, size, used = disk_key(machine, disk), disk.image.capacity_bytes, disk.image.allocated_bytes()
        files.append(LeaseFile(key, f"disk-{number}.vmdk", disk.image, disk.index, size, used))
    for device in machine.device_list:
        if device.type == "VirtualCdrom" and device.backing.type == "VirtualCdromIsoBackingInfo":
            files.append(_iso_file(machine, device, len(files)))
    data = nvram(machine)
    files.append(LeaseFile(f"/{machine.ref.moref}/nvram", f"file-{len(files)}.nvram", data, None, len(data), len(data)))
    return files


def disk_key(machine: MachineState, disk: DiskState) -> str:
    """``deviceUrl.key`` of a disk: ``/vm-101/ParaVirtualSCSIController0:0``."""
    controller = devices.CONTROLLERS[disk.spec.controller][0]
    return f"/{machine.ref.moref}/{controller}0:{unit_number(disk)}"


def _iso_file(machine: MachineState, device: Data, number: int) -> LeaseFile:
    """The inserted image. Raises MethodFault (FileNotFound) when it does not exist, as vSphere does."""
    path = device.backing.fileName
    store = datastore_of_path(path, machine)
    file = store.file(split_path(path, [store.name])[1]) if store else None
    if file is None or file.content is None:
        raise MethodFault.of("FileNotFound", f"File {path} was not found", file=path)
    iso = file.content
    size = iso.capacity_bytes if isinstance(iso, DiskImage) else len(iso)
    controller = "VirtualIDEController0" if device.controllerKey == devices.IDE else "VirtualAHCIController0"
    return LeaseFile(
        f"/{machine.ref.moref}/{controller}:{device.unitNumber}", f"file-{number}.iso", iso, None, size, size
    )


def open_lease(call: Call, machine: MachineState, disks: list[DiskState]) -> ExportLease:
    """Starts an export of those disks of the machine, as they are now or were at a snapshot. Raises MethodFault when
    another task has the machine, or the licence or a disk forbids it."""
    platform = machine.platform
    if platform.config.free_licence:
        raise MethodFault.of(
            "RestrictedVersion", "Current license or ESXi version prohibits execution of the requested operation."
        )
    machine.check_idle()
    for disk in machine.disks:
        if disk.spec.backing == "rdm-physical" or disk.spec.encrypted or machine.encrypted:
            raise MethodFault.of("NotSupported", "The operation is not supported on the object.")
    task = platform.tasks.open(call, machine, cancelable=True)
    try:
        lease = ExportLease(call, machine, disks, task)
    except MethodFault as fault:
        task.fail(fault)
        raise
    task.on_cancel = lambda: lease.end(MethodFault.of("RequestCanceled", "The task was canceled by a user."))
    machine.busy = task
    machine.touch()
    machine.world.later(platform.config.lease_ready_s, lease.prepared)
    return lease


def open_leases(world: World) -> list[ExportLease]:
    """The leases that have not ended."""
    return [lease for lease in world.all(ExportLease) if not lease.ended]
