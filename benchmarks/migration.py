"""A migration against `govc export.ovf` and `virt-v2v` of the same guest: a small Debian, with more data if asked."""

from __future__ import annotations

import math
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.measure import Row, Took, say
from benchmarks.usage import Usage, allocated_bytes, used
from hypersdk.units import MiB
from tests.support.guests.appliance import ENVIRONMENT
from tests.support.guests.debian import debian_guest
from tests.support.guests.domains import vmware_xml
from tests.support.guests.guest import Guest
from tests.support.libvirtd import Libvirtd, running_libvirtd

NETWORK: Final = "bench"
CPU_GOAL: Final = 1.05
BEYOND_GOAL: Final = 0.5
WRITTEN_GOAL: Final = 1.1
MEMORY_GOAL_MIB: Final = 160
STAGED_SHARE: Final = 0.05
STAGED_LEAST_BYTES: Final = 64 * MiB
SEED: Final = 11


@dataclass(frozen=True, slots=True)
class Sides:
    """The programs of both sides, and where they write. ``environment`` leads to the server."""

    folder: Path
    program: Path
    govc: Path
    machine: str
    environment: Mapping[str, str]
    libvirtd: Libvirtd

    def ours(self) -> Usage:
        """`hyper2kvm migrate`: export, conversion, definition."""
        self.libvirtd.clear()
        _define_network(self.libvirtd, self.folder)
        target, temporary = self.fresh("ours"), self.fresh("tmp")
        command: list[str | Path] = [
            self.program, "migrate", self.machine, "--to", self.libvirtd.uri, "--map", f"*=network:{NETWORK}",
            "--acceleration", "tcg", "-o", target,
        ]  # fmt: skip
        return self.used(command, target, temporary)

    def theirs(self) -> Usage:
        """`govc export.ovf`, then `virt-v2v -i ova -o local` of what it wrote."""
        download, target, temporary = self.fresh("govc"), self.fresh("theirs"), self.fresh("tmp")
        export: list[str | Path] = [self.govc, "export.ovf", "-sha", "256", "-vm", self.machine, download]
        convert: list[str | Path] = [
            "virt-v2v", "-i", "ova", download / self.machine, "-o", "local", "-of", "qcow2", "-os", target,
        ]  # fmt: skip
        first = self.used(export, target, temporary, download)
        return first + self.used(convert, target, temporary, download)

    def bare(self, guest: Guest) -> Usage:
        """The guest conversion alone, of an image that is there."""
        place, temporary = self.fresh("bare"), self.fresh("tmp")
        copy = guest.copied(place)
        definition = place / "guest.xml"
        definition.write_text(vmware_xml(copy))
        return self.used(["virt-v2v-in-place", "-i", "libvirtxml", definition], place, temporary)

    def used(self, command: list[str | Path], target: Path, temporary: Path, *more: Path) -> Usage:
        env = {**self.environment, **ENVIRONMENT, "TMPDIR": str(temporary), "LIBGUESTFS_CACHEDIR": "/var/tmp"}
        return used(command, env=env, watched=(target, temporary, *more), sync=target)

    def fresh(self, name: str) -> Path:
        """An empty folder that libvirt's user can enter."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        folder.chmod(0o711)
        return folder


def _define_network(libvirtd: Libvirtd, folder: Path) -> None:
    definition = folder / "network.xml"
    definition.write_text(f"<network><name>{NETWORK}</name><bridge name='hsdkb{os.getpid()}'/></network>")
    libvirtd.virsh("net-create", definition)


def guest_with(folder: Path, extra_bytes: int) -> Guest:
    """The Debian guest with so many random bytes behind its partition."""
    guest = debian_guest("bios").copied(folder)
    rng = random.Random(SEED)
    with guest.image.open("ab") as image:
        for _ in range(0, extra_bytes, MiB):
            image.write(rng.randbytes(MiB))
    return guest


def stream_of(guest: Guest, vmdk: Path) -> None:
    """The guest's disk as a streamOptimized VMDK, made by qemu-img."""
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", guest.image, vmdk],
        check=True,
        timeout=900,
    )


def migrations(sides: Callable[[Libvirtd], Sides], guest: Guest, count: int, *, extra: bool) -> Iterator[Row]:
    """Each row as soon as all rounds are measured. ``extra`` says whether the guest has more data than its system."""
    with running_libvirtd() as libvirtd:
        both = sides(libvirtd)
        runs: dict[str, list[Usage]] = {}
        staged: list[int] = []
        for number in range(count):
            for name, side in (("migrate", both.ours), ("govc and virt-v2v", both.theirs)):
                say(f"run {number + 1} of {count}: {name}")
                runs.setdefault(name, []).append(side())
            staged.append(runs["migrate"][-1].peak_bytes - allocated_bytes([both.folder / "ours"]))
            if extra:
                say(f"run {number + 1} of {count}: the conversion alone")
                runs.setdefault("bare", []).append(both.bare(guest))
        image_bytes = allocated_bytes([both.folder / "ours"])
    ours, theirs = (Took.median([usage.took for usage in runs[name]]) for name in ("migrate", "govc and virt-v2v"))
    yield _cpu_row(ours, theirs)
    if extra:
        yield _beyond_row(ours, theirs, Took.median([usage.took for usage in runs["bare"]]))
    yield _clock_row(ours, theirs)
    yield _written_row(runs["migrate"], runs["govc and virt-v2v"], image_bytes)
    yield _staged_row(max(staged), max(usage.peak_bytes for usage in runs["govc and virt-v2v"]), image_bytes)
    yield _memory_row(max(usage.memory_bytes for usage in runs["migrate"]))


def _cpu_row(ours: Took, theirs: Took) -> Row:
    return Row(
        "CPU of a migration (emulated), against `govc export.ovf` and `virt-v2v -i ova -o local`",
        f"{ours.cpu_s:.1f} s",
        f"{theirs.cpu_s:.1f} s",
        ours.cpu_s / theirs.cpu_s,
        CPU_GOAL,
    )


def _clock_row(ours: Took, theirs: Took) -> Row:
    ratio = ours.seconds / theirs.seconds
    return Row("the same by the clock", f"{ours.seconds:.1f} s", f"{theirs.seconds:.1f} s", ratio, None)


def _beyond_row(ours: Took, theirs: Took, bare: Took) -> Row:
    """What each side needs besides the guest conversion. Without much extra data a busy machine hides it."""
    more, peer = (took.seconds - bare.seconds for took in (ours, theirs))
    what = f"its time beyond the bare conversion ({bare.seconds:.1f} s)"
    if more <= 0 or peer <= 0:
        return Row(f"{what}: less than the noise", f"{more:.1f} s", f"{peer:.1f} s", math.nan, None)
    return Row(what, f"{more:.1f} s", f"{peer:.1f} s", more / peer, BEYOND_GOAL)


def _written_row(ours: list[Usage], theirs: list[Usage], image_bytes: int) -> Row:
    mine, peer = (max(usage.written_bytes for usage in side) for side in (ours, theirs))
    what = f"bytes written to the drive, as a multiple of what stays there ({image_bytes / MiB:.0f} MiB)"
    return Row(what, f"{mine / MiB:.0f} MiB", f"{peer / MiB:.0f} MiB", mine / image_bytes, WRITTEN_GOAL)


def _staged_row(mine: int, peer_peak: int, image_bytes: int) -> Row:
    goal = max(STAGED_LEAST_BYTES, STAGED_SHARE * image_bytes) / MiB
    theirs = f"{(peer_peak - image_bytes) / MiB:.0f} MiB"
    return Row("most space besides the image", f"{mine / MiB:.0f} MiB", theirs, mine / MiB, goal, " MiB")


def _memory_row(peak_bytes: int) -> Row:
    peak = peak_bytes / MiB
    return Row("peak memory of `hyper2kvm` itself", f"{peak:.0f} MiB", "", peak, MEMORY_GOAL_MIB, " MiB")
