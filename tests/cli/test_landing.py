"""What an export says about starting the machine elsewhere: which disk boots, and a command that means what it says for
any name."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.cli.exporting import domain_name, import_command
from hypersdk.migration.plan import PlannedDisk
from hypersdk.migration.spec import ExportSpec, OutputFormat
from hypersdk.simulator import DiskSpec
from hypersdk.units import MiB
from tests.support.cli.shell import Shell, small
from tests.support.machines import make_disk, make_machine
from tests.support.seeds import examples
from tests.support.simulator import SimulatorFactory

SCSI = DiskSpec(2 * MiB, controller="pvscsi")
IDE = DiskSpec(3 * MiB, controller="ide")
AHCI = DiskSpec(4 * MiB, controller="ahci")
# machine -> (file number of the disk, disk_type, boot_order_hint); files are numbered by controller key: IDE, SCSI,
# SATA
KNOWN: Final[dict[str, list[tuple[int, str, int | None]]]] = {
    "scsi-before-ide": [(1, "data", 1), (2, "boot", 0)],
    "second-unit": [(1, "data", 1), (2, "boot", 0)],
    "net-then-sata": [(1, "data", 1), (2, "data", 2), (3, "boot", 0)],
    "nothing-named": [(1, "boot", 0), (2, "data", 1)],
    "cannot-know": [(1, "unknown", None), (2, "unknown", None)],
}


@pytest.fixture
def shell(simulator: SimulatorFactory, tmp_path: Path) -> Shell:
    machines = (
        small("scsi-before-ide", disks=(SCSI, IDE)),
        small("second-unit", disks=(SCSI, SCSI), boot_order=("cdrom", "disk:1", "disk:0")),
        small("net-then-sata", disks=(SCSI, IDE, AHCI), boot_order=("nic:0", "disk:2")),
        small("nothing-named", disks=(SCSI, SCSI), boot_order=("floppy",)),
        small("cannot-know", disks=(SCSI, IDE), boot_order=()),
    )
    return Shell(simulator(machines=machines), tmp_path)


@pytest.mark.parametrize("machine", KNOWN)
def test_the_boot_disk_is_the_one_the_source_boots_from(shell: Shell, tmp_path: Path, machine: str) -> None:
    out = tmp_path / "out"
    done = shell.good("export", machine, "-o", out)
    manifest = json.loads((out / "artifact-manifest.json").read_text())
    assert [(n, disk["disk_type"], disk["boot_order_hint"]) for n, disk in enumerate(manifest["disks"], 1)] == KNOWN[
        machine
    ]
    shell.good("verify", out)
    command = done.err[done.err.index("  virt-install") :]
    numbers = [int(number) for number in re.findall(r"-disk(\d)\.qcow2", command)]
    assert numbers == [n for n, _, hint in sorted(KNOWN[machine], key=lambda entry: (entry[2] or 0, entry[0]))]
    unknown = machine == "cannot-know"
    assert ("the boot disk is not known" in done.err) is unknown
    shown = shell.good("inspect", machine).out
    assert ("not known" in next(line for line in shown.splitlines() if "boots from" in line)) is unknown
    (facts,) = shell.good("inspect", machine, "--json").events
    boot = [disk["hypersdk"]["device_key"] for disk in manifest["disks"] if disk["disk_type"] == "boot"]
    assert facts["boot_sequence"][:1] == boot


def test_a_boot_disk_that_is_left_out_makes_no_other_one_the_boot_disk(shell: Shell, tmp_path: Path) -> None:
    shell.good("export", "second-unit", "-o", tmp_path / "out", "--exclude-disk", "2")
    (disk,) = json.loads((tmp_path / "out" / "artifact-manifest.json").read_text())["disks"]
    assert (disk["disk_type"], disk["boot_order_hint"]) == ("data", 1)


@pytest.mark.parametrize("machine", ["scsi-before-ide", "net-then-sata"])
def test_the_boot_disk_stays_known_through_a_package(shell: Shell, tmp_path: Path, machine: str) -> None:
    """In both ways: by the descriptor that the server wrote, and by ours."""
    shell.good("export", machine, "-o", tmp_path / "a", "--format", "ova")
    shell.good("convert", tmp_path / "a" / f"{machine}.ova", "-o", tmp_path / "b", "--format", "raw")
    shell.good("export", machine, "-o", tmp_path / "c", "--format", "qcow2")
    assert "BootOrderSection" in (tmp_path / "c" / f"{machine}.ovf").read_text()
    disks = json.loads((tmp_path / "b" / "artifact-manifest.json").read_text())["disks"]
    (boot,) = [disk for disk in disks if disk["disk_type"] == "boot"]
    there = json.loads((tmp_path / "c" / "artifact-manifest.json").read_text())["disks"]
    (wanted,) = [disk for disk in there if disk["disk_type"] == "boot"]
    assert boot["hypersdk"]["capacity_bytes"] == wanted["hypersdk"]["capacity_bytes"]


# --- the command that is printed


def printed(name: str, folder: Path, mac: str | None = None) -> str:
    """The command for a machine of two disks that boots from the second."""
    machine = make_machine(name, disks=(make_disk(1), make_disk(2)), boot_order=("disk:2001",))
    spec = ExportSpec(machine=name, output_dir=folder, format=OutputFormat.RAW)
    disks = tuple(
        PlannedDisk(disk.key, disk.label, f"x-disk{n}.raw", 1, 1, None) for n, disk in enumerate(machine.disks, 1)
    )

    plan: Any = SimpleNamespace(spec=spec, machine=machine, disks=disks)
    result: Any = SimpleNamespace(output_dir=folder)
    command = import_command(plan, result)
    assert command is not None
    return command


def words_of(command: str) -> list[bytes]:
    """As bash takes the command apart."""
    done = subprocess.run(["bash", "-c", f"set -- {command}\nprintf '%s\\0' \"$@\""], capture_output=True, check=True)
    return done.stdout.split(b"\0")[:-1]


def value_of(option: str, key: str) -> str:
    """As virt-install takes an option apart (``parse_optstr_tuples``)."""
    splitter = shlex.shlex(option, posix=True)
    splitter.commenters, splitter.whitespace, splitter.whitespace_split = "", ",", True
    return dict(entry.split("=", 1) for entry in splitter)[key]


any_folder = st.text(st.characters(exclude_characters="\0/"), min_size=1, max_size=12).filter(
    lambda t: t not in (".", "..")
)


@examples(60)
@given(name=st.text(max_size=40), folder=any_folder)
def test_the_command_means_these_very_files_and_a_name_that_libvirt_takes(name: str, folder: str) -> None:
    folder = folder.encode(errors="replace").decode()
    where = Path("/srv") / folder
    command = printed(name, where)
    assert all(
        char.isprintable() or char in "\n"
        for char in re.sub(r"[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]", "", command)
    )
    words = [word.decode() for word in words_of(command)]
    paths = [value_of(words[at + 1], "path") for at, word in enumerate(words) if word == "--disk"]
    assert paths == [str(where / "x-disk2.raw"), str(where / "x-disk1.raw")], "the boot disk first"
    domain = words[words.index("--name") + 1]
    assert domain == domain_name(name)
    assert domain
    assert domain[0] not in "-."
    assert not re.search(r"[\s/]", domain)


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("web 01", "web-01"),
        ("--import", "import"),
        (" a \t b ", "a-b"),
        ("a/b", "a_b"),
        ("ünï 名", "ünï-名"),
        ("", "machine"),
    ],
)
def test_the_name_of_the_domain(name: str, domain: str) -> None:
    assert domain_name(name) == domain
