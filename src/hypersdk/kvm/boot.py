"""Boot test: starts an image in qemu on a temporary overlay and waits for a text on its serial port.

The image itself is opened read-only (``snapshot=on`` keeps the guest's writes in a temporary file), so the test
never changes the image. Software emulation is used on purpose: with an existing ``/dev/kvm`` a guest may still hang.
"""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypersdk.errors import IntegrityError
from hypersdk.kvm.bootsigns import BOOT_UNPROVED, REST_OF_LINE_S, KnownFailure, SignReader, WatchedConsole
from hypersdk.model import Firmware
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB

_OVMF: Final = (
    "/usr/share/OVMF/OVMF_CODE.fd",
    "/usr/share/edk2/ovmf/OVMF_CODE.fd",
    "/usr/share/qemu/ovmf-x86_64-code.bin",
)


@dataclass(frozen=True, slots=True)
class BootProof:
    """``line`` is the serial line with the marker, which came ``seconds`` after the start of qemu."""

    line: str
    seconds: float
    qemu: str


def find_qemu() -> str | None:
    """Path of an x86 qemu, or None if it is not installed (``qemu-kvm`` is its name on RHEL and derivatives)."""
    for name in ("qemu-system-x86_64", "qemu-kvm"):
        if path := shutil.which(name):
            return path
    return shutil.which("qemu-kvm", path="/usr/libexec")


def prove_boot(
    image: Path,
    *,
    firmware: Firmware = Firmware.BIOS,
    marker: str,
    timeout_s: float,
    cancel: CancelToken,
    memory_bytes: int = 128 * MiB,
) -> BootProof | None:
    """Boots ``image`` (qcow2, else raw by its suffix) until ``marker`` appears on the first serial port.

    Returns None if qemu (or, for EFI, its firmware) is not installed. Raises IntegrityError ``boot_unproved`` if the
    marker does not appear within ``timeout_s``, or the code of a known failure as soon as that is seen; Cancelled when
    cancelled. qemu is always ended.
    """
    qemu = find_qemu()
    if qemu is None:
        return None
    command = _command(qemu, image, firmware, memory_bytes)
    if command is None:
        return None
    started = time.monotonic()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            line = _wait_for(process, marker, started + timeout_s, cancel)
        finally:
            process.kill()
    return BootProof(line, time.monotonic() - started, qemu)


def _command(qemu: str, image: Path, firmware: Firmware, memory_bytes: int) -> Sequence[str] | None:
    image_format = "qcow2" if image.suffix == ".qcow2" else "raw"
    # qemu's option syntax ends a value at a comma; a doubled comma is a literal one.
    file_name = str(image.absolute()).replace(",", ",,")
    command = [
        qemu, "-accel", "tcg", "-m", str(memory_bytes // MiB), "-display", "none", "-monitor", "none", "-nic", "none",
        "-no-reboot", "-serial", "stdio",
        "-drive", f"if=ide,index=0,format={image_format},snapshot=on,file={file_name}",
    ]  # fmt: skip
    if firmware is Firmware.EFI:
        code = next((path for path in _OVMF if Path(path).exists()), None)
        if code is None:
            return None
        command += ["-machine", "q35", "-drive", f"if=pflash,format=raw,readonly=on,file={code}"]
    return command


def _wait_for(process: subprocess.Popen[bytes], marker: str, deadline: float, cancel: CancelToken) -> str:
    assert process.stdout is not None
    console = WatchedConsole(SignReader(marker).read)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (remaining := deadline - time.monotonic()) > 0:
            cancel.check()
            if not selector.select(min(remaining, 0.2)):
                continue
            chunk = os.read(process.stdout.fileno(), 64 * 1024)
            if not chunk:
                break
            if console.feed(chunk):  # the rest of its line may still be on its way
                deadline = min(deadline, time.monotonic() + REST_OF_LINE_S)
                if console.is_complete:
                    break
    return _line(console, marker, process.poll())


def _line(console: WatchedConsole, marker: str, exited: int | None) -> str:
    sign = console.sign
    if sign is None:
        raise IntegrityError(
            f"'{marker}' did not appear on the serial port",
            code=BOOT_UNPROVED,
            output=console.text[-400:],
            exited=exited,
        )
    if isinstance(sign.meaning, KnownFailure):
        raise sign.meaning.error(sign.line)
    return sign.line
