"""Diagnosis before a migration: the target, and what converts guests on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hypersdk.errors import Cancelled, HyperSDKError, Refused
from hypersdk.guest.acceleration import DEVICE, QEMU, probe_kvm, use_kvm
from hypersdk.guest.appliance import LIMIT_S, boot_appliance, unreadable_kernels
from hypersdk.guest.faults import install_advice
from hypersdk.guest.tools import GUESTFISH, VIRTIO_WIN_PACKAGES, GuestTools
from hypersdk.kvm.access import account_of, check_reachable
from hypersdk.kvm.address import LibvirtAddress
from hypersdk.kvm.capabilities import read_facts
from hypersdk.kvm.connection import open_connection
from hypersdk.kvm.doctor import examine_target
from hypersdk.model.check import CheckStatus, DoctorCheck
from hypersdk.model.guestplan import Acceleration
from hypersdk.remedies import Advice
from hypersdk.text import shell_line
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import exists
from hypersdk.units import format_duration


def examine_landing(
    address: LibvirtAddress, tools: GuestTools, output: Path | None, *, appliance: bool = False, cancel: CancelToken
) -> Iterator[DoctorCheck]:
    """All checks, as they finish. ``output`` is where the images will lie; ``appliance`` boots that of libguestfs, too.
    Nothing is changed."""
    reached = True
    for check in examine_target(address, cancel=cancel):
        yield check
        reached = check.status is not CheckStatus.FAIL
    if reached and output is not None and address.is_here:
        yield _folder(address, output.absolute(), cancel)
    yield from _programs(tools)
    yield _windows(tools)
    yield _kvm(tools, cancel)
    yield from _kernel()
    if appliance:
        yield _appliance(tools, cancel)


def _folder(address: LibvirtAddress, output: Path, cancel: CancelToken) -> DoctorCheck:
    """Whether the user of the guests can get at images there."""
    with open_connection(address, cancel=cancel) as connection:
        runs_as = read_facts(connection).runs_as
    if runs_as is None:
        return DoctorCheck("folder", CheckStatus.WARN, f"{output}: who runs the guests is not known")
    account = account_of(*runs_as)
    there = next(folder for folder in (output, *output.parents) if exists(folder))
    try:
        check_reachable(there, account)
    except Refused as error:
        return DoctorCheck("folder", CheckStatus.FAIL, error.message, error.remedies)
    except OSError as error:
        return DoctorCheck("folder", CheckStatus.WARN, f"{there} cannot be examined: {error.strerror}")
    return DoctorCheck("folder", CheckStatus.OK, f"{account.name}, who runs the guests, can reach {output}")


def _programs(tools: GuestTools) -> Iterator[DoctorCheck]:
    for program in tools.missing():
        status = CheckStatus.FAIL if program.essential else CheckStatus.WARN
        install = tools.distribution.install_command([program.packages])
        yield DoctorCheck(program.name, status, f"not installed; needed to {program.why}", install_advice(install))
    if any(program.essential for program in tools.missing()):
        return
    try:
        version = tools.v2v().version
    except HyperSDKError as error:
        yield DoctorCheck("virt-v2v", CheckStatus.FAIL, error.message, error.remedies)
    else:
        yield DoctorCheck("virt-v2v", CheckStatus.OK, f"virt-v2v {version} and the programs that it needs")


def _windows(tools: GuestTools) -> DoctorCheck:
    if tools.virtio_win is not None:
        return DoctorCheck("virtio-win", CheckStatus.OK, f"drivers for Windows in {tools.virtio_win}")
    advice = install_advice(tools.distribution.install_command([VIRTIO_WIN_PACKAGES])) or (
        Advice("Download the ISO image of the virtio-win project, and set VIRTIO_WIN to its path."),
    )
    return DoctorCheck("virtio-win", CheckStatus.WARN, "no drivers for Windows: its guests cannot be converted", advice)


def _kvm(tools: GuestTools, cancel: CancelToken) -> DoctorCheck:
    """Whether conversions, which run here, have KVM: it is tried."""
    if QEMU not in tools.paths:
        return DoctorCheck("KVM here", CheckStatus.WARN, f"not tried: {QEMU} is not installed")
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        what = "may not be opened by this user" if DEVICE.exists() else "does not exist"
        add = Advice("Add the user to the group kvm, or switch virtualization on. Conversions are emulated otherwise.")
        return DoctorCheck("KVM here", CheckStatus.WARN, f"{DEVICE} {what}", (add,))
    found = probe_kvm(tools, cancel=cancel)
    if found.works:
        return DoctorCheck("KVM here", CheckStatus.OK, "conversions run by KVM")
    emulated = Advice(
        "Conversions, and guests of libvirt on this machine, are emulated, many times slower. Check nested"
        " virtualization."
    )
    return DoctorCheck("KVM here", CheckStatus.WARN, f"it does not work: {found.reason}", (emulated,))


def _kernel() -> Iterator[DoctorCheck]:
    """Nothing where there is nothing to say: an appliance may also come with its own kernel."""
    if kernels := unreadable_kernels(os.environ):
        command = shell_line(["sudo", "chmod", "a+r", *map(str, kernels)])
        detail = "this user may not read any, and libguestfs's appliance needs one: guests cannot be converted"
        yield DoctorCheck("kernel", CheckStatus.FAIL, detail, (Advice(f"Run `{command}`, also after each update."),))


def _appliance(tools: GuestTools, cancel: CancelToken) -> DoctorCheck:
    if not {GUESTFISH, QEMU} <= tools.paths.keys():
        return DoctorCheck("appliance", CheckStatus.WARN, f"not tried: {GUESTFISH} or {QEMU} is not installed")
    accelerated = use_kvm(Acceleration.AUTO, tools, cancel=cancel)
    how = "with KVM" if accelerated else "emulated"
    try:
        took = boot_appliance(tools, accelerated=accelerated, cancel=cancel)
    except Cancelled:
        raise
    except HyperSDKError as error:
        see = Advice("`libguestfs-test-tool`, run as this user, shows where it fails.")
        return DoctorCheck("appliance", CheckStatus.FAIL, f"it does not boot {how}: {error.message}", (see,))
    except TimeoutError:
        return DoctorCheck("appliance", CheckStatus.FAIL, f"it did not boot {how} within {format_duration(LIMIT_S)}")
    return DoctorCheck("appliance", CheckStatus.OK, f"libguestfs's appliance boots {how}: {format_duration(took)}")
