"""Datastores: their files, their free space, and the browser that lists them."""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, Final, Protocol

from hypersdk.model import split_datastore_path
from hypersdk.simulator.content import DiskImage
from hypersdk.simulator.entities import Entity, Folder
from hypersdk.simulator.faults import FaultKind
from hypersdk.simulator.managed import Call, Managed, operation, prop
from hypersdk.simulator.platform import Platform, PlatformObject
from hypersdk.simulator.values import Data, MethodFault, Ref
from hypersdk.simulator.world import World, WorldObject, now
from hypersdk.units import MiB, TiB

MAX_UPLOAD_BYTES: Final = 64 * MiB
"""What is uploaded is kept in memory: enough for OVF files, scripts and small ISOs."""
MAX_UPLOADS_BYTES: Final = 512 * MiB


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file. ``content`` is bytes or a disk; ``None`` marks a file that can be listed but not read. ``used_bytes``
    is the space it takes."""

    path: str
    size_bytes: int
    used_bytes: int
    modified: datetime
    content: bytes | DiskImage | None
    locked: bool = False
    machine: str | None = None
    disk_index: int | None = None
    host: str | None = None
    disk: Data | None = None
    """Of a virtual disk's ``.vmdk``: what a browser reports of the disk."""
    disk_uuid: str | None = None

    @property
    def etag(self) -> str:
        """Changes with the content."""
        mark = (
            self.content.key()
            if isinstance(self.content, DiskImage)
            else f"{self.modified.timestamp():.6f}-{self.size_bytes}"
        )
        return f'"{mark}"'

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from ``offset``."""
        if isinstance(self.content, DiskImage):
            return self.content.read(offset, length)
        return (self.content or b"")[offset : offset + length]


def split_path(text: str, known: Iterable[str]) -> tuple[str, str]:
    """``[datastore] folder/file`` as name and path; ``known`` are the names that there are. Raises MethodFault
    (InvalidDatastorePath)."""
    parts = split_datastore_path(text, known)
    if parts is None:
        raise MethodFault.of(
            "InvalidDatastorePath", f"Invalid datastore path '{text[:200]}'.", datastorePath=text[:200]
        )
    return parts[0], "/".join(name for name in parts[1].split("/") if name not in ("", "."))


class StoredMachine(WorldObject, Protocol):
    """What a datastore needs of the machines whose files are on it."""

    def used_on(self, datastore: Datastore) -> int:
        """Bytes that it takes on that datastore."""

    def files_on(self, datastore: Datastore) -> list[StoredFile]:
        """Its files on that datastore."""

    def refresh_disk_devices(self) -> None:
        """The paths of its disks have changed."""


class Datastore(Entity, api_type="Datastore", references={"browser": "browser"}):
    """A datastore with a size."""

    def __init__(
        self, platform: Platform, moref: str, name: str, parent: Folder, *, kind: str, capacity_bytes: int
    ) -> None:
        self.kind = kind
        self.capacity_bytes = capacity_bytes
        self.hosts: list[Entity] = []
        self.machines: dict[str, StoredMachine] = {}  # by folder
        self.uploads: dict[str, StoredFile] = {}
        self.folders: set[str] = set()
        self.browser = DatastoreBrowser(platform, platform.moref("datastoreBrowser-", f"ha-browser-{name}"), [self])
        capability = Data(
            "DatastoreCapability",
            directoryHierarchySupported=True,
            rawDiskMappingsSupported=kind == "VMFS",
            perFileThinProvisioningSupported=True,
            storageIORMSupported=True,
            nativeSnapshotSupported=False,
        )
        super().__init__(platform, moref, name, parent, capability=capability)
        parent.put(self)

    @property
    def mount_path(self) -> str:
        """Where hosts mount it."""
        return f"/vmfs/volumes/{self.platform.uuid('datastore', self.name)}"

    @property
    def url(self) -> str:
        """Such as ``ds:///vmfs/volumes/UUID/``."""
        return f"ds://{self.mount_path}/"

    def rename(self, name: str) -> None:
        """See Entity. The paths of the disks on it change."""
        super().rename(name)
        for machine in self.machines.values():
            machine.refresh_disk_devices()

    def free_bytes(self) -> int:
        """Free space; an active ``datastore_full`` fault overrides it."""
        for fault in self.platform.faults.standing(FaultKind.DATASTORE_FULL):
            if fault.disk in (None, self.name):
                return fault.after_bytes
        machines = sum(machine.used_on(self) for machine in self.machines.values())
        uploads = sum(file.used_bytes for file in self.uploads.values())
        return max(0, self.capacity_bytes - machines - uploads)

    def require_space(self, size_bytes: int) -> None:
        """Raises MethodFault (NoDiskSpace) when there is not that much room."""
        if size_bytes > self.free_bytes():
            raise MethodFault.of(
                "NoDiskSpace", f"Insufficient disk space on datastore '{self.name}'.", file="", datastore=self.name
            )

    def file(self, path: str) -> StoredFile | None:
        """The file of that path, if there is one."""
        if path in self.uploads:
            return self.uploads[path]
        folder = path.partition("/")[0]
        machine = self.machines.get(folder)
        return next((file for file in machine.files_on(self) if file.path == path), None) if machine else None

    def files(self, below: str) -> Iterator[StoredFile]:
        """The files below a folder; all of them for ""."""
        prefix = f"{below}/" if below else ""
        for folder, machine in self.machines.items():
            if below in ("", folder):
                yield from machine.files_on(self)
        yield from (file for file in self.uploads.values() if file.path.startswith(prefix))

    def all_folders(self) -> set[str]:
        """Paths of all folders: those of the machines, of the uploads, and made by MakeDirectory; "" is the root."""
        folders = {"", *self.folders, *self.machines}
        for path in self.uploads:
            folders.update(_parents(path))
        return folders

    def put(self, path: str, data: bytes) -> bool:
        """Stores an upload; says whether the file is new. Raises MethodFault (NoDiskSpace, FileLocked)."""
        old = self.file(path)
        if old is not None and path not in self.uploads:
            raise MethodFault.of(
                "FileLocked", f"Unable to access file [{self.name}] {path} since it is locked", file=path
            )
        self.require_space(len(data))
        stored = sum(len(f.content) for f in self.uploads.values() if isinstance(f.content, bytes))
        if stored + len(data) > MAX_UPLOADS_BYTES:
            raise MethodFault.of("NoDiskSpace", "The simulator stores no more uploads.", file=path, datastore=self.name)
        self.uploads[path] = StoredFile(path, len(data), len(data), now(), data)
        self.touch()
        return old is None

    @operation("RefreshDatastoreStorageInfo")
    @operation("RefreshDatastore", privilege="Datastore.Browse")
    def _refresh(self, _call: Call) -> None:
        """Does nothing: the values are always current."""

    @prop("vm")
    def _vm(self) -> list[Ref]:
        return [machine.ref for machine in self.machines.values()]

    @prop("host")
    def _host(self) -> list[Data]:
        mount = Data(
            "HostMountInfo",
            path=self.mount_path,
            accessMode="readWrite",
            mounted=True,
            accessible=True,
        )
        return [Data("DatastoreHostMount", key=host.ref, mountInfo=mount) for host in self.hosts]

    @prop("summary")
    def _summary(self) -> Data:
        return Data(
            "DatastoreSummary",
            datastore=self.ref,
            name=self.name,
            url=self.url,
            capacity=self.capacity_bytes,
            freeSpace=self.free_bytes(),
            uncommitted=0,
            accessible=True,
            multipleHostAccess=len(self.hosts) > 1,
            type=self.kind,
            maintenanceMode="normal",
        )

    @prop("info")
    def _info(self) -> Data:
        common: dict[str, Any] = {
            "name": self.name,
            "url": self.url,
            "freeSpace": self.free_bytes(),
            "maxFileSize": 64 * TiB,
            "maxVirtualDiskCapacity": 62 * TiB,
            "maxMemoryFileSize": 24 * TiB,
            "timestamp": now(),
        }
        if self.kind == "NFS":
            nas = Data(
                "HostNasVolume",
                type="NFS",
                name=self.name,
                capacity=self.capacity_bytes,
                remoteHost="nas.example.com",
                remotePath=f"/export/{self.name}",
            )
            return Data("NasDatastoreInfo", **common, nas=nas)
        uuid = self.platform.uuid("datastore", self.name)
        extent = Data("HostScsiDiskPartition", diskName=f"naa.{uuid.replace('-', '')}", partition=1)
        vmfs = Data(
            "HostVmfsVolume",
            type="VMFS",
            name=self.name,
            capacity=self.capacity_bytes,
            blockSizeMb=1,
            maxBlocks=63963136,
            majorVersion=6,
            version="6.82",
            uuid=uuid,
            extent=[extent],
            vmfsUpgradable=False,
            local=False,
        )
        return Data("VmfsDatastoreInfo", **common, vmfs=vmfs)


def datastores(world: World, datacenter: Entity | None = None) -> list[Datastore]:
    """The datastores of a datacenter, or all."""
    return [store for store in world.all(Datastore) if datacenter is None or store.datacenter() is datacenter]


def datastore_named(name: str | None, home: Datastore) -> Datastore:
    """The datastore of that name in the datacenter of ``home``, or ``home``."""
    if name is None:
        return home
    stores = datastores(home.world, home.datacenter())
    found = next((store for store in stores if store.name == name), None)
    if found is None:
        raise ValueError(f"there is no datastore named {name}")
    return found


def datastore_of_path(path: str, near: Entity) -> Datastore | None:
    """The datastore that ``[name] path`` names, in the datacenter of ``near``."""
    stores = {store.name: store for store in datastores(near.world, near.datacenter())}
    return stores.get(split_path(path, stores)[0])


def _locate(world: World, call: Call) -> tuple[Datastore, str]:
    """Datastore and path of the call's ``[name] path``. Raises MethodFault."""
    datacenter = call.args.datacenter
    within = world.get(Ref("Datacenter", datacenter.moref), Entity) if datacenter is not None else None
    return _locate_among(datastores(world, within), call.args.name)


def _locate_among(known: list[Datastore], text: str) -> tuple[Datastore, str]:
    stores = {store.name: store for store in known}
    name, path = split_path(text, stores)
    if name not in stores:
        raise MethodFault.of("InvalidDatastore", f"There is no datastore '{name}'.", name=name)
    return stores[name], path


def _parents(path: str) -> list[str]:
    """The folders that contain ``path``, from the innermost out."""
    return [str(parent) for parent in PurePosixPath(path).parents][:-1]


_INFO_TYPES: Final = {
    ".iso": "IsoImageFileInfo", ".vmx": "VmConfigFileInfo", ".vmtx": "TemplateConfigFileInfo", ".log": "VmLogFileInfo",
    ".nvram": "VmNvramFileInfo", ".flp": "FloppyImageFileInfo", ".vmsd": "VmSnapshotFileInfo",
    ".vmsn": "VmSnapshotFileInfo", ".vmdk": "VmDiskFileInfo",
}  # fmt: skip


def _info_type(path: str) -> str:
    """The API's type of a file, by its name. The data of a virtual disk have none of their own."""
    if path.endswith(("-flat.vmdk", "-sesparse.vmdk")):
        return "FileInfo"
    return _INFO_TYPES.get(posixpath.splitext(path)[1].lower(), "FileInfo")


class DatastoreBrowser(PlatformObject, api_type="HostDatastoreBrowser", references={"datastore": "datastores"}):
    """Lists the files of a datastore, or of all datastores of a host."""

    def __init__(self, platform: Platform, moref: str, datastores: list[Datastore]) -> None:
        self.datastores = datastores
        super().__init__(platform, moref)

    @prop("supportedType")
    def _supported(self) -> list[Data]:
        return [Data(info.replace("FileInfo", "FileQuery")) for info in dict.fromkeys(_INFO_TYPES.values())]

    @operation("SearchDatastore_Task", privilege="Datastore.Browse")
    @operation("SearchDatastoreSubFolders_Task", privilege="Datastore.Browse")
    def _search(self, call: Call) -> Ref:
        datastore, folder = _locate_among(self.datastores, call.args.datastorePath)
        spec = call.args.searchSpec or Data("HostDatastoreBrowserSearchSpec")

        def work() -> Any:
            if call.method == "SearchDatastore_Task":
                return _results(datastore, folder, spec)
            prefix = f"{folder}/" if folder else ""
            below = {name for name in datastore.all_folders() if name.startswith(prefix)}
            return [_results(datastore, name, spec) for name in sorted(below | {folder})]

        return self.platform.tasks.run(call, datastore, work).ref


def _results(datastore: Datastore, folder: str, spec: Data) -> Data:
    """One folder's files. Raises MethodFault (FileNotFound) where there is no such folder."""
    folders = datastore.all_folders()
    if folder not in folders:
        path = f"[{datastore.name}] {folder}"
        raise MethodFault.of("FileNotFound", f"File {path} was not found", file=path)
    patterns = spec.matchPattern or ["*"]
    wanted = {query.type.replace("FileQuery", "FileInfo") for query in spec.query or []}
    subfolders = sorted(name for name in folders if name and posixpath.dirname(name) == folder)
    infos = [_folder_info(datastore, name, spec.details) for name in subfolders]
    infos += [
        _file_info(file, spec.details, spec.query or [])
        for file in datastore.files(folder)
        if posixpath.dirname(file.path) == folder
    ]
    chosen = [
        info
        for info in infos
        if _matches(info, patterns, bool(spec.searchCaseInsensitive)) and (not wanted or info.type in wanted)
    ]
    path = f"[{datastore.name}] {folder}/" if folder else f"[{datastore.name}]"
    return Data("HostDatastoreBrowserSearchResults", datastore=datastore.ref, folderPath=path, file=chosen)


def _matches(info: Data, patterns: list[str], ignore_case: bool) -> bool:
    name = info.path.lower() if ignore_case else info.path
    return any(fnmatch.fnmatchcase(name, pattern.lower() if ignore_case else pattern) for pattern in patterns)


def _folder_info(datastore: Datastore, path: str, flags: Data | None) -> Data:
    """Its modification time is that of the newest file in it."""
    modified = max((file.modified for file in datastore.files(path)), default=datastore.platform.started)
    return Data("FolderFileInfo", path=posixpath.basename(path), **_details(flags, 0, modified))


def _file_info(file: StoredFile, flags: Data | None, queries: list[Data]) -> Data:
    fields: dict[str, Any] = {"path": posixpath.basename(file.path)}
    requested = next((query.details for query in queries if query.type == "VmDiskFileQuery" and query.details), None)
    if requested is not None and file.disk is not None:
        fields |= {name: value for name, value in file.disk.fields.items() if requested.fields.get(name)}
    fields |= _details(flags, file.used_bytes, file.modified)
    return Data(_info_type(file.path), **fields)


def _details(flags: Data | None, size_bytes: int, modified: datetime) -> dict[str, Any]:
    """The requested details of a file or folder, besides its name."""
    values = {"fileSize": size_bytes, "modification": modified, "owner": "root"}
    requested = {"fileSize": "fileSize", "modification": "modification", "owner": "fileOwner"}
    return {name: value for name, value in values.items() if flags is not None and flags.fields.get(requested[name])}


class VirtualDiskManager(Managed, api_type="VirtualDiskManager"):
    """Reports which disk a file is; creates and changes none."""

    @operation("QueryVirtualDiskUuid", privilege="Datastore.Browse")
    def _uuid(self, call: Call) -> str:
        datastore, path = _locate(self.world, call)
        file = datastore.file(path)
        if file is None or file.disk_uuid is None:
            raise MethodFault.of("FileNotFound", f"File {call.args.name} was not found", file=call.args.name)
        return spaced_uuid(file.disk_uuid)


def spaced_uuid(uuid: str) -> str:
    """As VMware writes one in its files: ``60 00 c2 93 ...-.. ..``."""
    digits = uuid.replace("-", "")
    pairs = [digits[i : i + 2] for i in range(0, 32, 2)]
    return " ".join(pairs[:8]) + "-" + " ".join(pairs[8:])


class FileManager(PlatformObject, api_type="FileManager"):
    """Deletes files and makes folders."""

    @operation("DeleteDatastoreFile_Task", privilege="Datastore.DeleteFile")
    def _delete(self, call: Call) -> Ref:
        datastore, path = _locate(self.world, call)

        def work() -> None:
            if datastore.uploads.pop(path, None) is not None:
                datastore.touch()
            elif path in datastore.folders:
                datastore.folders.discard(path)
            elif datastore.file(path) is not None:
                raise MethodFault.of(
                    "FileLocked", f"Unable to access file {call.args.name} since it is locked", file=path
                )
            else:
                raise MethodFault.of("FileNotFound", f"File {call.args.name} was not found", file=call.args.name)

        return self.platform.tasks.run(call, datastore, work).ref

    @operation("MakeDirectory", privilege="Datastore.FileManagement")
    def _make_directory(self, call: Call) -> None:
        datastore, path = _locate(self.world, call)
        folders = datastore.all_folders()
        if path in folders:
            raise MethodFault.of("FileAlreadyExists", f"{call.args.name} already exists", file=call.args.name)
        parent = posixpath.dirname(path)
        if parent not in folders and not call.args.createParentDirectories:
            raise MethodFault.of("FileNotFound", f"File [{datastore.name}] {parent} was not found", file=parent)
        datastore.folders.update([path, *_parents(path)])
        datastore.touch()
