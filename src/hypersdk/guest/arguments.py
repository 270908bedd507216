"""The arguments of virt-v2v-in-place for a request, and the private files that they name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from hypersdk.errors import UsageError
from hypersdk.guest.domainxml import domain_xml
from hypersdk.guest.request import (
    ANY_DEVICE,
    FIRST_ROOT,
    ONLY_ROOT,
    ConversionRequest,
    Customization,
    DiskKey,
    StaticAddress,
)
from hypersdk.guest.tools import V2V
from hypersdk.model.guestplan import SourceDisk
from hypersdk.text import is_plain
from hypersdk.transfer.files import shown_path, target_errors
from hypersdk.units import MiB

_KEY_MODE: Final = 0o600
_MAX_KEY: Final = 8 * MiB
"""The limit of cryptsetup for key files."""
_MAC: Final = re.compile(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")
_PATH: Final = r"/dev/[\w/.+-]{1,200}"
_DEVICE: Final = re.compile(rf"{_PATH}|[0-9a-fA-F-]{{36}}|all")
_ROOT: Final = re.compile(rf"{_PATH}|{FIRST_ROOT}|{ONLY_ROOT}")
CUSTOMIZATIONS: Final = frozenset({
    "chmod", "chown", "copy", "copy-in", "delete", "edit", "firstboot", "firstboot-command", "firstboot-install",
    "hostname", "install", "link", "mkdir", "move", "run", "run-command", "ssh-inject", "tar-in", "timezone", "touch",
    "truncate", "uninstall", "update", "upload", "write",
})  # fmt: skip
"""Operations whose values are no secrets: every user of the host can read an argument list."""


def check_request(request: ConversionRequest, v2v: V2V) -> None:
    """Raises Refused ``guest_option_unsupported`` for what this virt-v2v does not have, UsageError for values that are
    not valid. Nothing is started."""
    _check_values(request)
    v2v.require(_options(request))


def _options(request: ConversionRequest) -> Iterator[str]:
    """The options of virt-v2v that are needed."""
    yield "--root"
    if request.keys:
        yield "--key"
    if request.static_addresses:
        yield "--mac"
    yield from (f"--{customization.operation}" for customization in request.customizations)


def _check_values(request: ConversionRequest) -> None:
    wrong = [
        *(f"'{address.mac}' is not a MAC address" for address in request.static_addresses if not _is_mac(address.mac)),
        *(f"'{key.device}' is neither a device nor a UUID" for key in request.keys if not is_key_device(key.device)),
        *(
            f"'{item.operation}' is not an operation on guests that is supported"
            for item in request.customizations
            if item.operation not in CUSTOMIZATIONS
        ),
    ]
    if not is_root(request.root):
        wrong.append(f"'{request.root}' is neither '{FIRST_ROOT}' nor a device such as /dev/sda2")
    if not request.guest.disks:
        wrong.append("the guest has no disks")
    if wrong:
        raise UsageError(f"the guest cannot be converted as requested: {'; '.join(wrong)}")


def is_key_device(text: str) -> bool:
    """Whether a key can be for it: a device, a UUID or ``all``."""
    return _DEVICE.fullmatch(text) is not None


def is_root(text: str) -> bool:
    """Whether it says which operating system is converted."""
    return _ROOT.fullmatch(text) is not None


def _is_mac(text: str) -> bool:
    return _MAC.fullmatch(text) is not None


def arguments_of(request: ConversionRequest, private: Path) -> Sequence[str]:
    """The arguments of virt-v2v-in-place. What they name is written to ``private``."""
    source = private / "source.xml"
    disks = tuple(_nameable(disk, private / f"disk{index}") for index, disk in enumerate(request.guest.disks))
    _write_private(source, domain_xml(replace(request.guest, disks=disks)))
    found = ["--root", request.root]
    for index, key in enumerate(request.keys):
        file = _key_file(key, private / f"key{index}")
        for device in _devices(key, request.encrypted):
            found += ["--key", f"{device}:file:{file}"]
    for address in request.static_addresses:
        found += ["--mac", f"{address.mac}:ip:{_address_fields(address)}"]
    for index, customization in enumerate(request.customizations):
        found += _customization(customization, private / f"{customization.operation}{index}")
    return [*found, "-i", "libvirtxml", str(source)]


def _nameable(disk: SourceDisk, link: Path) -> SourceDisk:
    """The disk by a path that XML can hold: its own, or a link where that has other characters."""
    path = shown_path(disk.file.absolute())
    if all(map(is_plain, str(path))):
        return disk
    link.symlink_to(path)
    return replace(disk, file=link)


def _customization(item: Customization, file: Path) -> Sequence[str]:
    """``file`` gets the value, if that is the content of one."""
    if item.is_content:
        _write_private(file, item.value.encode())
        return [f"--{item.operation}", str(file)]
    return [f"--{item.operation}"] if item.operation == "update" else [f"--{item.operation}", item.value]


def _address_fields(address: StaticAddress) -> str:
    """``ADDRESS[,GATEWAY[,LENGTH[,SERVER,...]]]``; a field before a given one may be empty."""
    fields = [
        str(address.address),
        str(address.gateway or ""),
        "" if address.prefix_length is None else str(address.prefix_length),
        *map(str, address.nameservers),
    ]
    return ",".join(fields).rstrip(",")


def _devices(key: DiskKey, encrypted: Sequence[str]) -> Sequence[str]:
    """The devices for which a key is given. Older versions of virt-v2v ignore ``all``."""
    return (key.device, *encrypted) if key.device == ANY_DEVICE else (key.device,)


def _key_file(key: DiskKey, path: Path) -> Path:
    """A file that only this user may read, in the folder that is removed with the processes."""
    if isinstance(key.secret, Path):
        with target_errors(f"reading {key.secret.name}"):
            with key.secret.open("rb") as file:
                data = file.read(_MAX_KEY)
            _write_private(path, data)
    else:
        _write_private(path, key.secret.reveal().encode())
    return path


def _write_private(path: Path, data: bytes) -> None:
    with (
        target_errors(f"writing {path.name}"),
        os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _KEY_MODE), "wb") as file,
    ):
        file.write(data)
