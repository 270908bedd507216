"""Whether KVM works on this host: by trying it, because ``/dev/kvm`` can exist and be of no use (nested
virtualization that is incomplete: qemu aborts, or a 64-bit kernel hangs).

The probe is a boot sector that enters 64-bit mode, computes there and ends qemu through its debug port: what a kernel
does first, without a kernel. It runs with the host's CPU model, as libguestfs's appliance and landed guests do.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from hypersdk.config.folders import cache_folder
from hypersdk.errors import TargetError
from hypersdk.guest.environment import BACKEND_SETTINGS, FORCE_TCG
from hypersdk.guest.processgroup import private_folder, run_in_group
from hypersdk.guest.tools import GuestTools
from hypersdk.model.guestplan import Acceleration
from hypersdk.text import clean
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import write_atomic
from hypersdk.transfer.ledger import boot_id

LOG: Final = logging.getLogger(__name__)
DEVICE: Final = Path("/dev/kvm")
QEMU: Final = "qemu-system-x86_64"
LIMIT_S: Final = 10.0
"""KVM that works needs 0.1 s. Long enough for a loaded host: a wrong "no" makes conversions several times slower."""
PASSED: Final = 0x31 << 1 | 1
"""qemu's exit status after 0x31 was written to the debug port."""
_CACHE_NAME: Final = "kvm-probe.json"
_MAX_CACHE: Final = 4096
_CODE: Final = bytes.fromhex(
    # 16-bit: flat segments, stack below this code
    "fa"                        # cli
    "31c0 8ed8 8ec0 8ed0"       # xor ax,ax; mov ds,ax; mov es,ax; mov ss,ax
    "bc007c fc"                 # mov sp,0x7c00; cld
    # page tables at 0x1000, 0x2000, 0x3000: cleared, then the first 2 MiB mapped to themselves
    "bf0010 6631c0 b9000c"      # mov di,0x1000; xor eax,eax; mov cx,3072
    "66f3ab"                    # rep stosd
    "c70600100320"              # mov word [0x1000],0x2003      PML4[0]: table at 0x2000, present, writable
    "c70600200330"              # mov word [0x2000],0x3003      PDPT[0]: table at 0x3000, present, writable
    "c70600308300"              # mov word [0x3000],0x0083      PD[0]: page of 2 MiB at 0, present, writable
    "66b820000000 0f22e0"       # mov eax,0x20; mov cr4,eax     physical address extension
    "66b800100000 0f22d8"       # mov eax,0x1000; mov cr3,eax
    "66b9800000c0 0f32"         # mov ecx,0xc0000080; rdmsr     EFER
    "660d00010000 0f30"         # or eax,0x100; wrmsr           long mode enable
    "660f0116a87c"              # lgdt [0x7ca8]
    "66b801000080 0f22c0"       # mov eax,0x80000001; mov cr0,eax   paging and protected mode
    "ea617c0800"                # jmp 8:0x7c61
    # 64-bit
    "48b8efcdab8967452301"      # mov rax,0x0123456789abcdef
    "48bb1111111111111111"      # mov rbx,0x1111111111111111
    "4801d8"                    # add rax,rbx
    "48b900dfbc9a78563412"      # mov rcx,0x123456789abcdf00
    "4839c8 750a"               # cmp rax,rcx; jne the end
    "b831000000 66baf400 ef"    # mov eax,0x31; mov dx,0xf4; out dx,eax   ends qemu
    "f4 ebfd"                   # the end: hlt; jmp the end
).ljust(0x98, b"\0") + bytes.fromhex(
    "0000000000000000 00000000009a2000"  # 0x7c98: GDT: null; code, present, 64-bit
    "0f00 987c0000"                      # 0x7ca8: its limit and address
)  # fmt: skip
BOOT_SECTOR: Final = _CODE.ljust(510, b"\0") + b"\x55\xaa"


@dataclass(frozen=True, slots=True)
class KvmProbe:
    """Whether KVM works; ``reason`` says why not, empty otherwise."""

    works: bool
    reason: str = ""


def use_kvm(
    choice: Acceleration, tools: GuestTools, *, cancel: CancelToken, environ: Mapping[str, str] = os.environ
) -> bool:
    """Whether to run the appliance with KVM. ``AUTO`` follows libguestfs's own variable where it forbids KVM; another
    choice is not checked."""
    if choice is Acceleration.AUTO:
        if FORCE_TCG in environ.get(BACKEND_SETTINGS, "").split(":"):
            return False
        return probe_kvm(tools, cancel=cancel, environ=environ).works
    return choice is Acceleration.KVM


def probe_kvm(tools: GuestTools, *, cancel: CancelToken, environ: Mapping[str, str] = os.environ) -> KvmProbe:
    """Tries KVM. The result is kept until the next boot of this host, for the same qemu. Raises Cancelled."""
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return KvmProbe(False, f"{DEVICE} {'may not be opened by this user' if DEVICE.exists() else 'does not exist'}")
    qemu = tools.path(QEMU)
    identity = f"{boot_id().hex()} {os.geteuid()} {qemu} {Path(qemu).stat().st_mtime_ns}"
    cache = cache_folder(environ) / _CACHE_NAME
    if (kept := _read(cache, identity)) is not None:
        return kept
    found = try_accelerator(qemu, "kvm", cancel=cancel)
    _keep(cache, identity, found)
    return found


def try_accelerator(qemu: str, accelerator: str, *, cancel: CancelToken, limit_s: float = LIMIT_S) -> KvmProbe:
    """Runs the boot sector with ``kvm`` or ``tcg``."""
    cpu = "host" if accelerator == "kvm" else "max"
    with private_folder() as folder, private_folder() as logs:
        image, log = folder / "probe.raw", logs / "qemu.log"
        image.write_bytes(BOOT_SECTOR.ljust(64 * 1024, b"\0"))
        command = [
            qemu, "-accel", accelerator, "-cpu", cpu, "-m", "32", "-nodefaults", "-display", "none", "-no-reboot",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-drive", f"if=ide,format=raw,readonly=off,file={image}",
        ]  # fmt: skip
        try:
            status = run_in_group(
                lambda _lines: command, folder=folder, environment=_environment(), log=log, cancel=cancel,
                limit_s=limit_s,
            )  # fmt: skip
        except TimeoutError:
            return KvmProbe(False, f"a guest in 64-bit mode hung for {limit_s:.0f} s")
        if status == PASSED:
            return KvmProbe(True)
        words = log.read_text(errors="replace").splitlines()[-1:]
        return KvmProbe(False, clean(": ".join([f"qemu ended with status {status}", *words]), 200))


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}


def _read(cache: Path, identity: str) -> KvmProbe | None:
    """The kept result; None where there is none that applies."""
    try:
        with cache.open("rb") as file:
            found = json.loads(file.read(_MAX_CACHE))
        applies = found["identity"] == identity and isinstance(found["works"], bool)
        return KvmProbe(found["works"], clean(str(found["reason"]), 200)) if applies else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _keep(cache: Path, identity: str, found: KvmProbe) -> None:
    """Keeps the result if possible: without it, the next process tries again."""
    try:
        cache.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(cache, json.dumps({"identity": identity, **asdict(found)}).encode(), mode=0o600)
    except (OSError, TargetError) as error:
        LOG.info("the result of the KVM probe was not kept: %s", error)
