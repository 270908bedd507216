"""The domain that a machine becomes, decided from facts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from hypersdk.errors import Refused, UsageError
from hypersdk.kvm.domainxml import Origin, domain_xml
from hypersdk.landing.options import LandOptions, NetworkTarget, parse_network_map, parse_network_target
from hypersdk.landing.planning import (
    assumed_drivers,
    left_out,
    plan_guest,
    safe_name,
    unique_name,
)
from hypersdk.model import Firmware
from hypersdk.model.guestplan import DiskBus, GuestDrivers, NicModel, SourceDisk, SourceGuest, SourceNic
from hypersdk.units import MiB
from tests.support.hypervisors import KVM_FACTS, QEMU_FACTS

MAPPED = LandOptions(networks={"VM Network": NetworkTarget("br0", bridge=True)})
VIRTIO = GuestDrivers(DiskBus.VIRTIO, NicModel.VIRTIO, os_id="debian12", rng=True, balloon=True, video="virtio")


def source_disk(number: int, *, bus: str = "scsi", boot_order: int | None = None) -> SourceDisk:
    return SourceDisk(Path(f"/images/web-disk{number}.qcow2"), "qcow2", 8 * MiB, bus, boot_order, f"Hard disk {number}")


def source(**changes: Any) -> SourceGuest:
    guest = SourceGuest(
        name="web-01",
        firmware=Firmware.BIOS,
        secure_boot=False,
        tpm=False,
        cpus=4,
        cores_per_socket=2,
        memory_bytes=3333 * MiB,
        guest_id="debian12_64Guest",
        os_family="linux",
        disks=(source_disk(1, boot_order=0),),
        nics=(SourceNic("00:50:56:AA:BB:CC", "VM Network", "vmxnet3"),),
    )
    return replace(guest, **changes)


def codes(error: Refused) -> set[str]:
    return {reason.code for reason in error.reasons} or {error.code}


def test_a_converted_guest_keeps_what_it_had() -> None:
    plan = plan_guest(source(), VIRTIO, MAPPED, KVM_FACTS)
    assert (plan.name, plan.title) == ("web-01", None)
    assert (plan.cpus, plan.cores_per_socket, plan.memory_bytes) == (4, 2, 3333 * MiB)
    assert (plan.machine_type, plan.cpu_mode, plan.virt_type) == ("q35", "host-model", "kvm")
    assert plan.disks[0].bus is DiskBus.VIRTIO
    nic = plan.nics[0]
    assert (nic.mac, nic.target, nic.bridge, nic.model) == ("00:50:56:aa:bb:cc", "br0", True, NicModel.VIRTIO)
    assert (plan.rng, plan.balloon, plan.video, plan.os_id) == (True, True, "virtio", "debian12")


def test_an_emulated_guest_gets_all_that_can_be_emulated() -> None:
    plan = plan_guest(source(), VIRTIO, MAPPED, QEMU_FACTS)
    assert (plan.virt_type, plan.cpu_mode) == ("qemu", "maximum")
    old = replace(QEMU_FACTS, cpu_modes=frozenset({"custom"}))
    assert plan_guest(source(), VIRTIO, MAPPED, old).cpu_mode == ""


def test_disks_come_in_boot_order_and_unknown_ones_stay_behind() -> None:
    disks = (source_disk(1), source_disk(2, boot_order=1), source_disk(3, boot_order=0), source_disk(4))
    plan = plan_guest(source(disks=disks), VIRTIO, MAPPED, KVM_FACTS)
    assert [disk.label[-1] for disk in plan.disks] == ["3", "2", "1", "4"]


def test_without_a_conversion_a_guest_gets_what_it_can_drive() -> None:
    assert assumed_drivers(source()).disk_bus is DiskBus.SATA
    assert assumed_drivers(source()).nic_model is NicModel.E1000E
    old = source(disks=(source_disk(1, bus="ide"),))
    plan = plan_guest(old, assumed_drivers(old), MAPPED, KVM_FACTS)
    assert (plan.disks[0].bus, plan.machine_type) == (DiskBus.IDE, "pc")
    card = SourceNic(None, "VM Network", "e1000")
    assert assumed_drivers(source(nics=(card, card))).nic_model is NicModel.E1000
    assert assumed_drivers(source(nics=(card, SourceNic(None, "DMZ")))).nic_model is NicModel.E1000E
    modern = replace(old, firmware=Firmware.EFI)
    assert assumed_drivers(modern).disk_bus is DiskBus.SATA


def test_a_user_chooses_bus_card_name_and_hardware() -> None:
    options = replace(
        MAPPED, disk_bus=DiskBus.SCSI, nic_model=NicModel.E1000, name="shop", new_macs=True, cpus=3, memory_bytes=MiB
    )
    plan = plan_guest(source(), VIRTIO, options, KVM_FACTS)
    assert (plan.disks[0].bus, plan.nics[0].model, plan.nics[0].mac) == (DiskBus.SCSI, NicModel.E1000, None)
    assert (plan.name, plan.title) == ("shop", "web-01")
    assert (plan.cpus, plan.cores_per_socket, plan.memory_bytes) == (3, 1, MiB)


def test_a_windows_guest_is_one() -> None:
    assert plan_guest(source(os_family="windows"), VIRTIO, MAPPED, KVM_FACTS).windows


def test_all_that_the_target_lacks_is_told_at_once() -> None:
    poor = replace(KVM_FACTS, efi=False, tpm=False, max_cpus=2)
    with pytest.raises(Refused) as caught:
        plan_guest(source(firmware=Firmware.EFI, tpm=True), VIRTIO, LandOptions(), poor)
    assert codes(caught.value) == {"no_efi_firmware", "no_tpm_emulator", "too_many_cpus", "network_unmapped"}


@pytest.mark.parametrize(
    ("guest", "options", "changes", "code"),
    [
        (source(firmware=Firmware.EFI, secure_boot=True), MAPPED, {"secure_boot": False}, "no_secure_boot"),
        (
            source(firmware=Firmware.EFI, secure_boot=True),
            replace(MAPPED, disk_bus=DiskBus.IDE),
            {},
            "no_secure_boot",
        ),
        (source(firmware=Firmware.EFI), MAPPED, {"libvirt_version": (7, 0, 0)}, "no_efi_firmware"),
        (source(), replace(MAPPED, disk_bus=DiskBus.IDE), {"machine_types": frozenset({"q35"})}, "no_machine_type"),
        (source(disks=()), MAPPED, {}, "no_disk_images"),
        (source(cpus=0), MAPPED, {}, "no_hardware"),
        (source(memory_bytes=0), MAPPED, {}, "no_hardware"),
        (
            source(disks=tuple(source_disk(number) for number in range(1, 6))),
            replace(MAPPED, disk_bus=DiskBus.IDE),
            {},
            "too_many_ide_disks",
        ),
    ],
)
def test_refusals(guest: SourceGuest, options: LandOptions, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(Refused) as caught:
        plan_guest(guest, VIRTIO, options, replace(KVM_FACTS, **changes))
    assert codes(caught.value) == {code}


def test_secure_boot_may_be_left_out_and_the_plan_says_so() -> None:
    guest = source(firmware=Firmware.EFI, secure_boot=True, tpm=True)
    poor = replace(KVM_FACTS, secure_boot=False, tpm=False)
    domain = plan_guest(guest, VIRTIO, replace(MAPPED, secure_boot=False, tpm=False), poor)
    assert (domain.secure_boot, domain.tpm) == (False, False)
    tpm, secure_boot = (notice.text for notice in left_out(guest, domain))
    assert "without a TPM" in tpm
    assert "without secure boot" in secure_boot
    assert list(left_out(guest, plan_guest(guest, VIRTIO, MAPPED, KVM_FACTS))) == []
    assert list(left_out(source(), plan_guest(source(), VIRTIO, MAPPED, KVM_FACTS))) == []


def test_a_tpm_may_be_left_behind_and_a_bad_name_is_not_changed_silently() -> None:
    without = replace(KVM_FACTS, tpm=False)
    assert plan_guest(source(tpm=True), VIRTIO, replace(MAPPED, tpm=False), without).tpm is False
    assert plan_guest(source(tpm=True), VIRTIO, MAPPED, KVM_FACTS).tpm is True
    with pytest.raises(UsageError) as caught:
        plan_guest(source(), VIRTIO, replace(MAPPED, name="a/b"), KVM_FACTS)
    assert caught.value.code == "bad_domain_name"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("web-01", "web-01"),
        ("Web server (old)", "Web-server-_old_"),
        ("DB/ünï", "DB_ünï"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("-rf", "rf"),
        ("42", "vm-42"),
        ("\x1b[2J\n", "__2J"),
        ("///", "vm-___"),
        ("", "vm"),
        ("\u202egnp", "_gnp"),
        ("\u00e9" * 300, "\u00e9" * 15),
        ("a" * 300, "a" * 200),
    ],
)
def test_names_are_safe(name: str, safe: str) -> None:
    assert safe_name(name) == safe
    assert safe_name(safe) == safe


def test_names_of_one_run_differ() -> None:
    assert unique_name("web", {"web", "web-2"}) == "web-3"
    assert plan_guest(source(), VIRTIO, MAPPED, KVM_FACTS, taken={"web-01"}).name == "web-01-2"
    assert plan_guest(source(), VIRTIO, MAPPED, KVM_FACTS, taken={"web-01"}).title == "web-01"


def test_network_map() -> None:
    found = parse_network_map(["VM Network=br0", "DMZ=network:isolated net", "a=b=bridge:br-1.2"])
    assert found["VM Network"] == NetworkTarget("br0", bridge=True)
    assert found["DMZ"] == NetworkTarget("isolated net", bridge=False)
    assert found["a=b"] == NetworkTarget("br-1.2", bridge=True)
    assert [str(target) for target in found.values()] == ["br0", "network:isolated net", "br-1.2"]


@pytest.mark.parametrize(
    "entry", ["VM Network", "=br0", "a=", "a=network:", "a=br0;id", "a=" + "b" * 16, "a=network:x/y"]
)
def test_network_map_refuses(entry: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_network_map([entry])
    assert caught.value.code == "bad_network_map"


def test_one_network_has_one_target() -> None:
    assert parse_network_map(["a=br0", "a=br0"]) == {"a": NetworkTarget("br0", bridge=True)}
    with pytest.raises(UsageError):
        parse_network_map(["a=br0", "a=br1"])


def test_all_unmapped_networks_are_listed() -> None:
    nics = tuple(SourceNic(None, network) for network in ("DMZ", "LAN", "DMZ", "VM Network"))
    with pytest.raises(Refused) as caught:
        plan_guest(source(nics=nics), VIRTIO, MAPPED, KVM_FACTS)
    (reason,) = caught.value.reasons or (caught.value,)
    assert reason.message == "networks without a target: 'DMZ', 'LAN'", "the same for machines with the same networks"
    assert reason.fields["networks"] == ["DMZ", "LAN"]
    default = replace(MAPPED, default_network=parse_network_target("network:default"))
    assert [nic.target for nic in plan_guest(source(nics=nics), VIRTIO, default, KVM_FACTS).nics][:2] == ["default"] * 2


@given(st.text(max_size=300))
def test_any_name_becomes_one_that_is_safe(name: str) -> None:
    safe = safe_name(name)
    assert safe_name(safe) == safe
    assert 0 < len(safe.encode()) <= 203
    assert not safe.isdigit()
    assert not any(char.isspace() or char in "/\\'\"<>&:;$" for char in safe)
    assert safe.isprintable()


@given(st.text(max_size=100), st.text(max_size=100), st.text(min_size=1, max_size=50))
def test_no_text_of_the_source_gets_out_of_its_place_in_the_domain(name: str, where: str, network: str) -> None:
    guest = source(name=name, nics=(SourceNic(None, network),))
    options = LandOptions(default_network=NetworkTarget("br0", bridge=True))
    plan = plan_guest(guest, VIRTIO, options, KVM_FACTS)
    text = domain_xml(plan, uuid="8f0c2f4e-5a55-4c0f-9a51-0a8f2d8c1b11", origin=Origin("id", where, "1.0"))
    domain = etree.fromstring(text.encode())
    assert len(domain.findall("devices")) == 1
    assert domain.findtext("name") == plan.name
    assert domain.findtext("title") == plan.title or plan.title is None
