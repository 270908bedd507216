"""Converts a guest in place: drivers, boot loader, initramfs, by virt-v2v-in-place."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from hypersdk.guest.acceleration import use_kvm
from hypersdk.guest.arguments import arguments_of, check_request
from hypersdk.guest.environment import environment
from hypersdk.guest.failures import NO_VIRTIO_WIN, check_disks, failure
from hypersdk.guest.fallback import add_fallback_loader
from hypersdk.guest.faults import ConversionError, install_advice
from hypersdk.guest.findings import drivers_of, read_facts, system_of
from hypersdk.guest.messages import MessageReader
from hypersdk.guest.nbdserver import without_flushes
from hypersdk.guest.processgroup import private_folder, run_in_group
from hypersdk.guest.report import ConversionEvent, ConversionReport
from hypersdk.guest.request import ConversionRequest
from hypersdk.guest.tools import V2V, VIRTIO_WIN_PACKAGES, GuestTools
from hypersdk.model import Firmware
from hypersdk.model.guestplan import DiskBus
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import FILE_MODE, target_errors

LOG_NAME: Final = "virt-v2v.log"
_UEFI_NOT_FIXED: Final = re.compile("fix UEFI bootloader.*may not boot", re.IGNORECASE)


def convert_in_place(
    request: ConversionRequest,
    tools: GuestTools,
    *,
    folder: Path,
    cancel: CancelToken,
    on_event: Callable[[ConversionEvent], None] = lambda _event: None,
    environ: Mapping[str, str] = os.environ,
) -> ConversionReport:
    """Converts the guest on the disks of ``request``, which are changed also when it fails. The log is
    ``folder/virt-v2v.log``. When it returns or raises, no process has the disks open. What was written is not durable
    yet: the caller syncs the disks.

    Raises Refused where a program or an option is missing, UsageError for a request that is not valid, both before
    anything begins; ConversionError; Cancelled.
    """
    v2v = tools.v2v()
    check_request(request, v2v)
    accelerated = use_kvm(request.acceleration, tools, cancel=cancel, environ=environ)
    log = _new_log(folder)
    messages = MessageReader(on_event)
    with private_folder() as private:
        arguments = arguments_of(request, private)
        variables = environment(tools, private, accelerated=accelerated, environ=environ)
        status = run_in_group(
            lambda lines: [v2v.path, "-v", f"--machine-readable=fd:{lines}", *arguments],
            folder=private,
            environment=without_flushes(variables, tools, private),
            log=log,
            cancel=cancel,
            on_line=messages.read,
        )
    if status != 0:
        raise failure(messages.errors, log, status)
    check_disks(log)
    report = _report(v2v, messages, log)
    _require_virtio(request, report, tools)
    if not _lacks_fallback(request, messages):
        return report
    messages.begin("Adding the fallback boot loader")
    loader = add_fallback_loader(
        request.guest.disks, report.system, tools,
        log=log, accelerated=accelerated, cancel=cancel, environ=environ,
    )  # fmt: skip
    check_disks(log)
    return replace(report, fallback_loader=loader)


def _lacks_fallback(request: ConversionRequest, messages: MessageReader) -> bool:
    """Whether virt-v2v says that it could not add the loader which a UEFI guest needs; it looks for one itself."""
    return request.guest.firmware is Firmware.EFI and any(_UEFI_NOT_FIXED.search(info) for info in messages.infos)


def _new_log(folder: Path) -> Path:
    """An empty log; that of an earlier attempt is replaced."""
    log = folder / LOG_NAME
    with target_errors(f"writing {log.name}"):
        log.unlink(missing_ok=True)
        log.touch(mode=FILE_MODE)
    return log


def _require_virtio(request: ConversionRequest, report: ConversionReport, tools: GuestTools) -> None:
    """Raises ConversionError ``no_virtio_win`` where virtio drivers are required and missing: virt-v2v ends with status
    0 then."""
    required = report.system.type == "windows" if request.require_virtio is None else request.require_virtio
    if not required or report.drivers.disk_bus is not DiskBus.SATA:
        return
    command = None if tools.virtio_win else tools.distribution.install_command([VIRTIO_WIN_PACKAGES])
    raise ConversionError(
        f"no virtio drivers for {report.drivers.os_name or 'this guest'} were installed",
        code=NO_VIRTIO_WIN, remedies=install_advice(command), log=str(report.log),
    )  # fmt: skip


def _report(v2v: V2V, messages: MessageReader, log: Path) -> ConversionReport:
    facts = read_facts(log)
    return ConversionReport(
        system=system_of(facts),
        drivers=drivers_of(facts, messages.infos),
        warnings=messages.warnings,
        log=log,
        version=v2v.version,
    )
