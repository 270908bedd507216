"""The boot disk of a machine: the one that its configuration names, else the one that its firmware tries first."""

from __future__ import annotations

from collections.abc import Iterable

from hypersdk.model.machine import Disk, Machine

_DISK = "disk:"


def unit_order(disks: Iterable[Disk]) -> list[Disk]:
    """Disks in the order of controller and unit: the order of the numbers in file names."""
    return sorted(disks, key=lambda disk: (disk.controller_key, disk.unit_number, disk.key))


def boot_sequence(machine: Machine) -> tuple[int, ...]:
    """Keys of all disks: the boot disk, the disks that are tried after it, then the others by controller and unit.
    Empty when the boot disk is not known.

    ``bootOptions.bootOrder`` is tried first and in its order; "after list is exhausted, default BIOS boot device
    algorithm is used" (*VirtualMachineBootOptions* in the vSphere Web Services API reference). That algorithm is not
    documented across kinds of controllers, and vSphere shows neither the BIOS settings nor the EFI variables where the
    guest keeps its own order (Broadcom KB 326326). So the boot disk is taken to be the lowest unit of the lowest
    controller where all are attached to one kind of controller, and is not known where they are attached to several.
    """
    named = named_boot_disks(machine)
    one_kind = len({disk.bus for disk in machine.disks}) <= 1
    if not named and not one_kind:
        return ()
    in_order = unit_order(machine.disks)  # numbers of controllers compare within a kind only
    if one_kind:
        in_order.sort(key=lambda disk: (disk.bus_number, disk.unit_number, disk.key))
    return tuple(dict.fromkeys((*named, *(disk.key for disk in in_order))))


def named_boot_disks(machine: Machine) -> tuple[int, ...]:
    """Keys of the disks that the machine's boot order names, in that order. Disks that it does not have are omitted."""
    numbers = (word.removeprefix(_DISK) for word in machine.boot_order if word.startswith(_DISK))
    known = {str(disk.key): disk.key for disk in machine.disks}
    return tuple(dict.fromkeys(known[number] for number in numbers if number in known))
