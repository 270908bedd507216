"""Diagnosis of a target, layer by layer: library, connection, permission, versions, what its guests can have."""

from __future__ import annotations

from collections.abc import Iterator

from hypersdk.errors import AccessError, Cancelled, HyperSDKError
from hypersdk.kvm.address import LibvirtAddress
from hypersdk.kvm.capabilities import HypervisorFacts, read_facts
from hypersdk.kvm.connection import open_connection
from hypersdk.kvm.library import libvirt
from hypersdk.model.check import CheckStatus, DoctorCheck
from hypersdk.remedies import Advice
from hypersdk.transfer.cancel import CancelToken


def examine_target(address: LibvirtAddress, *, cancel: CancelToken) -> Iterator[DoctorCheck]:
    """All checks, as they finish; the first that fails is the last. Nothing is changed."""
    try:
        libvirt()
    except HyperSDKError as error:
        yield _failed("libvirt", error)
        return
    try:
        connection = open_connection(address, cancel=cancel)
    except Cancelled:
        raise
    except AccessError as error:
        yield DoctorCheck("connection", CheckStatus.OK, f"{address} answers")
        yield _failed("permission", error)
        return
    except HyperSDKError as error:
        yield _failed("connection", error)
        return
    with connection:
        yield DoctorCheck("connection", CheckStatus.OK, f"{address} answers")
        yield DoctorCheck("permission", CheckStatus.OK, "domains, volumes and networks can be managed")
        try:
            facts = read_facts(connection)
        except HyperSDKError as error:
            yield _failed("guests", error)
            return
    yield DoctorCheck("versions", CheckStatus.OK, versions_text(facts))
    yield from _guests(facts)


def versions_text(facts: HypervisorFacts) -> str:
    """``QEMU 7.2.0 by libvirt 9.0.0 on host1``."""
    qemu, library = (".".join(map(str, version)) for version in (facts.qemu_version, facts.libvirt_version))
    return f"QEMU {qemu} by libvirt {library} on {facts.hostname}"


def _guests(facts: HypervisorFacts) -> Iterator[DoctorCheck]:
    if facts.accelerated:
        yield DoctorCheck("acceleration", CheckStatus.OK, "libvirt offers KVM for guests")
    else:
        switch_on = Advice("Switch virtualization on in the host's firmware; on a virtual host, allow nested ones.")
        yield DoctorCheck("acceleration", CheckStatus.WARN, "no KVM: guests run emulated", (switch_on,))
    found = {"UEFI": facts.efi, "secure boot": facts.secure_boot, "TPM 2.0": facts.tpm}
    missing = [name for name, there in found.items() if not there]
    if not missing:
        yield DoctorCheck("firmware", CheckStatus.OK, ", ".join(found))
        return
    install = Advice("Guests that have them need OVMF (ovmf, edk2-ovmf) and swtpm on the target.")
    yield DoctorCheck("firmware", CheckStatus.WARN, f"not available: {', '.join(missing)}", (install,))


def _failed(name: str, error: HyperSDKError) -> DoctorCheck:
    return DoctorCheck(name, CheckStatus.FAIL, error.message, error.remedies)
