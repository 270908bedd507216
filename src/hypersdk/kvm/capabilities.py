"""What a hypervisor can run: read from libvirt's capabilities, which are small XML documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from hypersdk.errors import Refused, register
from hypersdk.kvm.connection import Connection
from hypersdk.kvm.document import parsed

NO_KVM: Final = register(
    "no_kvm",
    "The target has no hardware virtualization that can be used (/dev/kvm), and it was asked for.",
    "Switch virtualization on in the host's firmware and load the module kvm_intel or kvm_amd; on a virtual host, allow"
    " nested virtualization. Without it the guest runs emulated, which is many times slower.",
)
WRONG_ARCHITECTURE: Final = register(
    "wrong_architecture",
    "The target cannot run guests for x86_64, and machines of vSphere are of that kind.",
    "Choose a target with an x86_64 QEMU.",
)
ARCHITECTURE: Final = "x86_64"
Q35: Final = "q35"
PC: Final = "pc"
"""The two machine types of x86: with PCI Express and SATA, and with PCI and IDE."""


@dataclass(frozen=True, slots=True)
class HypervisorFacts:
    """One hypervisor. ``virt_type`` is ``kvm``, or ``qemu`` where guests are emulated; the versions are
    ``(major, minor, release)``. ``runs_as`` is the user and group id of its QEMU processes, None where that is not
    known. ``tpm`` says whether it can emulate a TPM 2.0."""

    hostname: str
    virt_type: str
    libvirt_version: tuple[int, int, int]
    qemu_version: tuple[int, int, int]
    max_cpus: int
    machine_types: frozenset[str]
    cpu_modes: frozenset[str]
    video_models: frozenset[str]
    efi: bool
    secure_boot: bool
    tpm: bool
    runs_as: tuple[int, int] | None

    @property
    def accelerated(self) -> bool:
        """Whether guests run on the processor itself."""
        return self.virt_type == "kvm"


def read_facts(connection: Connection, *, accelerated: bool | None = None) -> HypervisorFacts:
    """Asks the hypervisor. ``accelerated`` demands KVM or forbids it; None takes it where libvirt offers it.

    Raises Refused ``no_kvm``, ``wrong_architecture``, and the errors of a connection.
    """
    host = parsed(connection.call("cannot read the host's capabilities", lambda raw: raw.getCapabilities()))
    versions = connection.call("cannot read versions", lambda raw: (raw.getLibVersion(), raw.getVersion()))
    hostname = connection.call("cannot read the host's name", lambda raw: raw.getHostname())
    if connection.address.simulated:
        return _of_test_driver(hostname, versions)
    domain, virt_type = _domain_capabilities(connection, host, accelerated)
    return HypervisorFacts(
        hostname=hostname,
        virt_type=virt_type,
        libvirt_version=_version(versions[0]),
        qemu_version=_version(versions[1]),
        max_cpus=int(domain.xpath("number(vcpu/@max)") or 1),
        machine_types=_machine_types(host),
        cpu_modes=frozenset(
            str(mode.get("name")) for mode in domain.iterfind("cpu/mode") if mode.get("supported") == "yes"
        ),
        video_models=_values(domain, "devices/video", "modelType"),
        efi="efi" in _values(domain, "os", "firmware"),
        secure_boot="yes" in _values(domain, "os/loader", "secure"),
        tpm=_emulates_tpm(domain),
        runs_as=_runs_as(host, virt_type),
    )


def _domain_capabilities(connection: Connection, host: Any, accelerated: bool | None) -> tuple[Any, str]:
    offered = {str(domain.get("type")) for domain in host.iterfind(f"guest/arch[@name='{ARCHITECTURE}']/domain")}
    if not offered & {"kvm", "qemu"}:
        raise Refused("the target runs no guests for x86_64", code=WRONG_ARCHITECTURE, target=str(connection.address))
    if accelerated and "kvm" not in offered:
        raise Refused("the target does not offer KVM", code=NO_KVM, target=str(connection.address))
    virt_type = "kvm" if "kvm" in offered and accelerated is not False else "qemu"
    text = connection.call(
        "cannot read what the hypervisor supports",
        lambda raw: raw.getDomainCapabilities(None, ARCHITECTURE, Q35, virt_type, 0),
    )
    return parsed(text), virt_type


def _of_test_driver(hostname: str, versions: Sequence[int]) -> HypervisorFacts:
    """libvirt's test driver has no domain capabilities."""
    return HypervisorFacts(
        hostname=hostname,
        virt_type="test",
        libvirt_version=_version(versions[0]),
        qemu_version=_version(versions[1]),
        max_cpus=32,
        machine_types=frozenset({Q35, PC}),
        cpu_modes=frozenset(),
        video_models=frozenset({"vga"}),
        efi=False,
        secure_boot=False,
        tpm=False,
        runs_as=None,
    )


def _values(domain: Any, path: str, name: str) -> frozenset[str]:
    return frozenset(value.text or "" for value in domain.iterfind(f"{path}/enum[@name='{name}']/value"))


def _machine_types(host: Any) -> frozenset[str]:
    found = host.iterfind(f"guest/arch[@name='{ARCHITECTURE}']/machine")
    return frozenset(machine.text for machine in found) & {Q35, PC}


def _emulates_tpm(domain: Any) -> bool:
    """Versions are listed from libvirt 8.6 on; before that, an emulator does 2.0."""
    versions = _values(domain, "devices/tpm", "backendVersion")
    return "emulator" in _values(domain, "devices/tpm", "backendModel") and (not versions or "2.0" in versions)


def _version(number: int) -> tuple[int, int, int]:
    """libvirt writes 9.1.0 as 9001000."""
    return number // 1_000_000, number // 1000 % 1000, number % 1000


def _runs_as(host: Any, virt_type: str) -> tuple[int, int] | None:
    """From the label of the security model ``dac``: ``+64055:+64055``."""
    for model in host.iterfind("host/secmodel"):
        if model.findtext("model") != "dac":
            continue
        user, _, group = (model.findtext(f"baselabel[@type='{virt_type}']") or "").replace("+", "").partition(":")
        if user.isdecimal() and group.isdecimal():
            return int(user), int(group)
    return None
