"""Facts of hypervisors, as libvirt reports them of usual hosts."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hypersdk.kvm.capabilities import PC, Q35, HypervisorFacts

KVM_FACTS: Final = HypervisorFacts(
    hostname="kvm1.example.com",
    virt_type="kvm",
    libvirt_version=(9, 0, 0),
    qemu_version=(7, 2, 0),
    max_cpus=288,
    machine_types=frozenset({PC, Q35}),
    cpu_modes=frozenset({"host-passthrough", "host-model", "maximum", "custom"}),
    video_models=frozenset({"vga", "virtio", "qxl"}),
    efi=True,
    secure_boot=True,
    tpm=True,
    runs_as=(64055, 64055),
)
QEMU_FACTS: Final = replace(KVM_FACTS, virt_type="qemu", cpu_modes=frozenset({"host-model", "maximum", "custom"}))
