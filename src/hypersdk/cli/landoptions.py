"""Flags of `migrate` and `import`: where a machine is landed, and how."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from hypersdk.cli.programs.groups import flag_group
from hypersdk.errors import UsageError
from hypersdk.model.guestplan import Acceleration, DiskBus, NicModel

if TYPE_CHECKING:
    from hypersdk.guest.request import DiskKey, StaticAddress
    from hypersdk.kvm.prove import ProofOptions
    from hypersdk.landing.conversions import ConversionOptions
    from hypersdk.landing.options import LandOptions

_FLAGS: Final = {"keys": "--key", "addresses": "--static-ip", "scripts": "--firstboot", "root": "--root"}

land_options = flag_group(
    click.option(
        "--to",
        "target",
        metavar="URI",
        required=True,
        help="libvirt of the target: qemu:///system, qemu+ssh://USER@HOST/system or qemu+tls://HOST/system.",
    ),
    click.option(
        "--map",
        "networks",
        multiple=True,
        metavar="NETWORK=TARGET",
        help=(
            "Where cards of a source network are attached: a bridge of the target (br0), or a libvirt network"
            " (network:default). * stands for all networks that are not named. Repeatable."
        ),
    ),
    click.option(
        "--pool", metavar="NAME", help="Storage pool for the disks (default: they stay in the output folder)."
    ),
    click.option(
        "--no-convert",
        is_flag=True,
        help="Land the guest as it is, on SATA and e1000e, without virtio drivers and without virt-v2v.",
    ),
    click.option(
        "--key",
        "keys",
        multiple=True,
        metavar="[DEVICE=]FILE",
        help="File with the passphrase of an encrypted disk, of one device (/dev/sda2, or a UUID) or all. Repeatable.",
    ),
    click.option(
        "--static-ip",
        "addresses",
        multiple=True,
        metavar="MAC=IP/PREFIX[,GATEWAY[,DNS...]]",
        help="Address that a card of a Windows guest keeps; Linux guests keep theirs anyway. Repeatable.",
    ),
    click.option(
        "--firstboot",
        "scripts",
        multiple=True,
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        metavar="FILE",
        help="Script that the converted guest runs at its first boot. Needs a virt-v2v that has it. Repeatable.",
    ),
    click.option(
        "--root",
        metavar="first|DEVICE",
        help=(
            "Operating system to convert where the disks hold several: the first, or that on a device (/dev/sda2,"
            " /dev/vg/root)."
        ),
    ),
    click.option(
        "--prove",
        is_flag=True,
        help="Boot the landed machine once, without network and on a temporary overlay, and keep the evidence.",
    ),
    click.option(
        "--prove-marker", metavar="TEXT", help="Text on its first serial port that proves the boot; only that counts."
    ),
    click.option(
        "--prove-timeout",
        type=click.IntRange(1, 86400),
        metavar="SECONDS",
        help="Longest boot (default: 180, emulated 600).",
    ),
    click.option("--start", is_flag=True, help="Start the landed machine. Its source must be off the network."),
    click.option("--autostart", is_flag=True, help="Start it whenever its host starts. As for --start."),
    click.option("--name", metavar="NAME", help="Name of the domain (default: that of the machine)."),
    click.option(
        "--disk-bus",
        type=click.Choice([bus.value for bus in DiskBus]),
        help="Bus of the disks (default: what the guest has drivers for).",
    ),
    click.option(
        "--nic-model",
        type=click.Choice([model.value for model in NicModel]),
        help="Model of the network cards (default: what the guest has drivers for).",
    ),
    click.option("--no-tpm", is_flag=True, help="Land without a TPM, also if the source has one."),
    click.option("--no-secure-boot", is_flag=True, help="Land without secure boot, also if the source has it."),
    click.option(
        "--acceleration",
        type=click.Choice([choice.value for choice in Acceleration]),
        default=Acceleration.AUTO.value,
        show_default=True,
        help="Convert and run the guest by KVM, or emulated (tcg), many times slower; auto takes KVM where it works.",
    ),
    click.option(
        "--report",
        type=click.Path(path_type=Path),
        metavar="FILE.html",
        help="Write a page of the run, and report.html into the folder of each machine, also after a failure.",
    ),
)
"""Flags that say where a machine is landed, and how."""
max_conversions: Final = click.option(
    "--max-conversions",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Guests converted or proved at a time (default: 1): each takes a processor and memory.",
)
DEFAULT_CONVERSIONS: Final = 1


def conversion_of(flags: Mapping[str, Any]) -> ConversionOptions | None:
    """The guest conversion that the flags describe; None with ``--no-convert``. Raises UsageError."""
    from hypersdk.guest.request import ONLY_ROOT, Customization
    from hypersdk.landing.conversions import ConversionOptions

    asked = {name: flags[name] for name in _FLAGS if flags[name]}
    if flags["no_convert"]:
        if asked:
            raise UsageError(f"--no-convert excludes {', '.join(_FLAGS[name] for name in asked)}")
        return None
    return ConversionOptions(
        keys=tuple(map(_key, flags["keys"])),
        static_addresses=tuple(map(_static_address, flags["addresses"])),
        root=flags["root"] or ONLY_ROOT,
        customizations=tuple(Customization("firstboot", str(path.absolute())) for path in flags["scripts"]),
        acceleration=Acceleration(flags["acceleration"]),
        disk_bus=DiskBus(flags["disk_bus"]) if flags["disk_bus"] else None,
    )


def proof_of(flags: Mapping[str, Any]) -> ProofOptions | None:
    """The boot proof that the flags describe; None without ``--prove``. Raises UsageError."""
    from hypersdk.kvm.prove import ProofOptions

    if flags["prove"]:
        return ProofOptions(marker=flags["prove_marker"], timeout_s=flags["prove_timeout"])
    if flags["prove_marker"] is not None or flags["prove_timeout"] is not None:
        raise UsageError("--prove-marker and --prove-timeout have no effect without --prove")
    return None


def _key(text: str) -> DiskKey:
    from hypersdk.guest.request import ANY_DEVICE, DiskKey

    device, equals, file = text.rpartition("=") if not Path(text).exists() else ("", "", text)
    path = Path(file)
    if not path.is_file() or not os.access(path, os.R_OK):
        raise UsageError(f"--key {text}: {file} cannot be read", next_step="Name a file that holds the passphrase.")
    return DiskKey(path.absolute(), device if equals else ANY_DEVICE)


def _static_address(text: str) -> StaticAddress:
    from hypersdk.guest.request import StaticAddress

    mac, _, rest = text.partition("=")
    network, *others = rest.split(",")
    try:
        own = ipaddress.ip_interface(network)
        found = [ipaddress.ip_address(word) for word in others]
        prefix = own.network.prefixlen if "/" in network else None
        return StaticAddress(mac, own.ip, found[0] if found else None, prefix, tuple(found[1:]))
    except ValueError as error:
        raise UsageError(
            f"--static-ip {text}: {error}", next_step="Write it like 00:50:56:01:02:03=192.0.2.10/24,192.0.2.1."
        ) from error


def landing_of(flags: Mapping[str, Any], *, new_macs: bool) -> LandOptions:
    """The options that the flags describe. Raises UsageError ``bad_network_map``."""
    from hypersdk.landing.options import ALL_OTHERS, LandOptions, parse_memory, parse_network_map

    networks = parse_network_map(flags["networks"])
    bus, model = flags["disk_bus"], flags["nic_model"]
    return LandOptions(
        name=flags["name"],
        cpus=flags.get("cpus"),
        memory_bytes=parse_memory(flags["memory"]) if flags.get("memory") else None,
        default_network=networks.pop(ALL_OTHERS, None),
        networks=networks,
        pool=flags["pool"],
        disk_bus=DiskBus(bus) if bus else None,
        nic_model=NicModel(model) if model else None,
        new_macs=new_macs,
        accelerated=Acceleration(flags["acceleration"]).demanded,
        tpm=False if flags["no_tpm"] else None,
        secure_boot=False if flags["no_secure_boot"] else None,
        autostart=flags["autostart"],
        start=flags["start"],
    )
