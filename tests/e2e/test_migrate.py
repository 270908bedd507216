"""`migrate` and `import`, from the simulator of vCenter onto a real libvirtd."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from lxml import etree

from hypersdk.guest.tools import IN_PLACE
from hypersdk.kvm import preflight
from hypersdk.kvm.connection import Connection
from hypersdk.kvm.preflight import DomainFacts, read_domains
from hypersdk.landing.landings import unfinished_landings
from hypersdk.landing.record import LandingFile
from hypersdk.migration.naming import LANDING_FILE
from hypersdk.migration.runfile import held_folder
from hypersdk.secret import Secret
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.units import MiB
from tests.support.cli.commandline import Run
from tests.support.cli.hyper2kvm import Program
from tests.support.cli.shell import Shell
from tests.support.exports import export_folder, small_disk
from tests.support.guestconversions import killed
from tests.support.guestprograms import GOOD_CONVERSION, fake_v2v
from tests.support.guests.bootsectors import boot_sector_guest
from tests.support.moves import PROVED, Move, dying
from tests.support.seeds import SEED
from tests.support.simulator import SimulatorFactory, lift_rate_limit

pytestmark = pytest.mark.waits

DISK: Final = DiskSpec(8 * MiB, allocated_bytes=2 * MiB)
ON: Final = MachineSpec("web-01", (DISK,), power="poweredOn", memory_mb=64)
OFF: Final = MachineSpec("db 02", (DISK, DISK), memory_mb=64)
ON_DATA: Final = MachineSpec("data", (DISK,), power="poweredOn", memory_mb=64)
"""Nothing on its disk boots."""
KILLS: Final = 4
"""Cases of each test that kills, at moments that are drawn."""


def test_a_machine_that_is_only_defined_leaves_its_source_as_it_was(move: Callable[..., Move]) -> None:
    moved = move(machines=(ON,))
    before = moved.simulator.state()
    result = moved.result("web-01")
    assert (result["started"], result["converted"], result["domain"]["name"]) == (False, False, "web-01")
    assert moved.libvirtd.domains() == ["web-01"]
    assert moved.running() == []
    assert moved.simulator.state() == before
    domain = etree.fromstring(moved.libvirtd.virsh("dumpxml", "web-01").encode())
    mac = moved.simulator.vm("web-01").mac(0)
    assert [found.get("address") for found in domain.iterfind("devices/interface/mac")] == [mac]
    assert [found.get("file") for found in domain.iterfind("devices/disk/source")] == result["disks"]
    again = moved("web-01")
    assert [event["reason"] for event in again.events if event["type"] == "skipped"] == ["migrated"]
    moved.assert_nothing_left()


def test_the_next_step_never_puts_both_on_the_network(move: Callable[..., Move]) -> None:
    """A landed machine may be started if its source is off; beside a running one it may not."""
    moved = move(machines=(ON, OFF))
    beside, alone = (
        moved.shell.good(*moved.words("migrate", name, "-o", moved.folder / name)).out for name in ("web-01", "db 02")
    )
    assert "Do not start it while its source runs" in beside
    assert "undefine web-01" in beside
    assert " start web-01" not in beside
    assert " start db-02" in alone
    moved.libvirtd.virsh("undefine", "db-02")
    imported = moved.shell.good(*moved.words("import", moved.folder / "db 02")).out
    assert "Make sure that its source is off" in imported


def test_another_export_in_the_folder_is_never_replaced(move: Callable[..., Move]) -> None:
    moved = move(machines=(ON, OFF))
    moved.result("db 02")
    refused = moved("web-01")
    assert (refused.status, refused.error["code"]) == (9, "foreign_output")
    assert "--force" not in refused.error["next_step"]


def test_several_machines_start_and_their_sources_stay_off_the_network(move: Callable[..., Move]) -> None:
    moved = move(machines=(ON, OFF, MachineSpec("web-03", (DISK,), power="poweredOn", memory_mb=64)))
    page = moved.folder.parent / "run.html"
    done = moved("--all", "--start", "--disconnect-source", "--report", page)
    totals = next(event for event in done.events if event["type"] == "totals")
    assert (done.status, totals["migrated"]) == (0, 3), done.events
    assert sorted(moved.running()) == ["db-02", "web-01", "web-03"]
    assert "3 of 3 machines landed on KVM" in page.read_text()
    assert "network cards disconnected" in (moved.folder / "web-01/report.html").read_text()
    assert moved.simulator.vm("web-01").power == "poweredOn"
    assert not moved.on_network("web-01")
    assert not moved.on_network("web-03")
    moved.assert_nothing_left()


def test_a_running_source_is_not_joined_by_a_machine_with_its_addresses(move: Callable[..., Move]) -> None:
    moved = move(machines=(ON,))
    before = moved.simulator.state()
    refused = moved("web-01", "--start")
    assert (refused.status, refused.error["code"]) == (6, "source_on_network")
    for flag in ("--shutdown", "--power-off", "--disconnect-source", "--keep-source-running"):
        assert flag in refused.error["next_step"]
    assert moved("web-01", "--autostart").error["code"] == "source_on_network", "its host would start it"
    assert moved.simulator.state() == before
    assert not moved.folder.exists()
    result = moved.result("web-01", "--start", "--keep-source-running")
    assert result["domain"]["nics"][0]["mac"] is None
    assert moved.running() == ["web-01"]
    assert moved.on_network()
    mac = moved.simulator.vm("web-01").mac(0)
    assert mac not in moved.libvirtd.virsh("dumpxml", "web-01").lower()


def test_new_addresses_are_not_said_of_a_machine_that_was_landed_with_its_own(move: Callable[..., Move]) -> None:
    moved = move(machines=(ON, OFF))
    moved.result("web-01")
    refused = moved("web-01", "--start", "--keep-source-running")
    assert (refused.status, refused.error["code"]) == (6, "landed_with_addresses"), refused.events
    assert (moved.libvirtd.domains(), moved.running(), moved.on_network()) == (["web-01"], [], True)
    folder = exported(moved, "qcow2", "db 02")
    assert moved.load(folder).status == 0
    refused = moved.load(folder, "--start", "--new-macs")
    assert (refused.status, refused.error["code"]) == (6, "landed_with_addresses"), refused.events
    assert moved.running() == []


def test_a_landed_machine_is_not_started_beside_another_with_its_addresses(move: Callable[..., Move]) -> None:
    moved = move(machines=(OFF,))
    moved.result("db 02")
    mac = moved.simulator.vm("db 02").mac(0)
    definition = moved.shell.home / "other.xml"
    definition.write_text(
        "<domain type='qemu'><name>other</name><memory>1024</memory><os><type>hvm</type></os><devices>"
        f"<interface type='network'><mac address='{mac}'/><source network='lan'/></interface></devices></domain>"
    )
    moved.libvirtd.virsh("define", definition)
    refused = moved("db 02", "--start")
    assert (refused.status, refused.error["code"]) == (6, "mac_taken"), refused.events
    assert (moved.running(), sorted(moved.libvirtd.domains())) == ([], ["db-02", "other"])


def test_a_copy_that_its_source_left_behind_is_not_started(move: Callable[..., Move]) -> None:
    """Landed first to be tried, then moved for good: what was written meanwhile is not lost."""
    moved = move(machines=(ON,))
    moved.result("web-01")
    in_the_way = moved("web-01", "--start", "--power-off")
    codes = {reason["code"] for reason in in_the_way.error["reasons"]}
    assert codes >= {"domain_exists", "mac_taken", "image_of_domain"}
    assert moved.on_network(), "nothing was begun"
    moved.libvirtd.virsh("undefine", "web-01")
    done = moved("web-01", "--start", "--power-off")
    (plan,) = [event for event in done.events if event["type"] == "plan"]
    assert plan["earlier"] == "outdated"
    assert [event["type"] for event in done.events if event["type"] == "result"] == ["result"]
    assert (moved.running(), moved.simulator.vm("web-01").power) == (["web-01"], "poweredOff")
    moved.assert_nothing_left()


def test_a_target_that_fails_leaves_source_and_target_as_they_were(move: Callable[..., Move]) -> None:
    moved = move(machines=(ON,), rate_bytes_s=MiB // 16)
    before = moved.simulator.state()
    words = moved.words("migrate", "--json", "web-01", "-o", moved.folder, "--start", "--power-off")
    running = Program(moved.shell.home, moved.simulator).start(*words)
    running.until(lambda: moved.simulator.vm("web-01").power == "poweredOff")
    moved.libvirtd.virsh("net-destroy", "lan")
    lift_rate_limit(moved.simulator)
    ended = running.wait()
    assert (ended.status, ended.error["code"]) == (6, "network_inactive"), ended.explain()
    assert moved.libvirtd.domains() == []
    assert moved.simulator.state() == before
    moved.assert_nothing_left()
    moved.libvirtd.virsh("net-start", "lan")
    (plan,) = [event for event in moved("web-01", "--start", "--power-off").events if event["type"] == "plan"]
    assert plan["earlier"] == "outdated", "the source ran meanwhile"
    assert moved.running() == ["web-01"]


def test_a_snapshot_that_stays_does_not_keep_the_source_off_its_network(move: Callable[..., Move]) -> None:
    fault = Fault(FaultKind.CALL, method="RemoveSnapshot_Task")
    moved = move(machines=(ON,), faults=(fault,))
    failed = moved("web-01", "--start", "--disconnect-source")
    assert (failed.status, failed.error["code"], failed.error["left"]) == (
        11,
        "not_restored",
        ["remove the temporary snapshot"],
    ), failed.events
    assert (moved.libvirtd.domains(), moved.on_network()) == ([], True)
    done = moved("web-01", "--start", "--disconnect-source")
    assert done.status == 0, done.events
    (plan,) = [event for event in done.events if event["type"] == "plan"]
    assert plan["earlier"] == "outdated", "the source was on its network meanwhile"
    assert (moved.running(), moved.on_network()) == (["web-01"], False)
    moved.assert_nothing_left()


def test_a_domain_that_somebody_undefined_is_landed_again_from_the_same_export(move: Callable[..., Move]) -> None:
    moved = move(machines=(OFF,))
    first = moved.result("db 02")
    moved.libvirtd.virsh("undefine", "db-02")
    done = moved("db 02")
    (plan,) = [event for event in done.events if event["type"] == "plan"]
    assert (plan["earlier"], plan["export"]) == ("exported", None)
    assert plan["storage"] == {"pool": None, "placing": ["in-place"], "extra_bytes": 0}
    assert moved.libvirtd.domains() == ["db-02"]
    assert first["disks"] == next(event for event in done.events if event["type"] == "result")["disks"]


def test_a_guest_is_landed_only_with_the_proof_that_it_boots(move: Callable[..., Move], guest_folder: Path) -> None:
    """The image that the server serves is the one that boots at the target."""
    guest = boot_sector_guest("marker")
    image = DiskSpec(guest.image.stat().st_size, image=guest.image)
    moved = move(machines=(MachineSpec("web-01", (image,), power="poweredOn", memory_mb=64), ON_DATA))
    result = moved.result("web-01", "--power-off", "--start", "--prove", "--prove-marker", guest.marker)
    proof = result["proof"]
    assert proof["verdict"] == "marker"
    assert guest.marker in proof["line"]
    assert Path(proof["screenshot"]).read_bytes().startswith(b"\x89PNG")
    assert (moved.running(), moved.simulator.vm("web-01").power) == (["web-01"], "poweredOff")
    failed = moved("data", "--power-off", "--start", "--prove", "--prove-timeout", "60", "-o", moved.folder / "data")
    assert (failed.status, failed.error["code"]) == (8, "boot_no_device"), failed.events
    assert moved.libvirtd.domains() == ["web-01"], "what does not boot does not stay"
    assert moved.simulator.vm("data").power == "poweredOn"
    assert Path(str(failed.error["screenshot"])).exists(), "the evidence is kept"


def test_a_machine_with_a_virtual_tpm_gets_a_new_one(move: Callable[..., Move]) -> None:
    """vCenter refuses it a lease, and its disks are not encrypted."""
    guest = boot_sector_guest("marker")
    image = DiskSpec(guest.image.stat().st_size, image=guest.image)
    moved = move(machines=(MachineSpec("web-01", (image,), power="poweredOn", memory_mb=64, tpm=True),))
    done = moved("web-01", "--power-off", "--start", *PROVED)
    assert done.status == 0, done.events
    (plan,) = [event for event in done.events if event["type"] == "plan"]
    assert any("recovery key" in warning for warning in plan["warnings"])
    result = done.events[-1]
    assert (result["domain"]["tpm"], result["proof"]["verdict"]) == (True, "marker")
    assert any("recovery key" in warning for warning in result["warnings"])
    assert moved.running() == ["web-01"]
    states = moved.libvirtd.socket.parent / "var/lib/libvirt/swtpm"
    assert [path.name for path in states.iterdir()] == [result["uuid"]], "that of the proof is gone"
    without = moved.result("web-01", "--no-tpm", "--name", "web-02", "--keep-source-running", "-o", moved.folder / "b")
    assert without["domain"]["tpm"] is False


_MOMENTS: Final[dict[tuple[str, ...], int]] = {}


def moments(move: Callable[..., Move], *begins: str) -> int:
    """How many moments a migration has, as one that lived told."""
    if begins not in _MOMENTS:
        moved, *words = _ready(move, *begins)
        _MOMENTS[begins] = int(dying(moved, "-", *words).stdout)
    return _MOMENTS[begins]


def drawn(move: Callable[..., Move], case: int, *begins: str) -> tuple[int, int]:
    """The moment of a case, another one in each, and the number of moments."""
    number = moments(move, *begins)
    assert number > 10
    return random.Random(f"{SEED}{begins}").sample(range(number), KILLS)[case], number


@pytest.mark.kill
@pytest.mark.parametrize("fence", ["--power-off", "--disconnect-source"])
@pytest.mark.parametrize("case", range(KILLS))
def test_a_killed_migration_goes_on_where_it_was(move: Callable[..., Move], case: int, fence: str) -> None:
    """At the end one domain runs, defined once, its source is off the network, and nothing is left to be done."""
    moment, _ = drawn(move, case, fence)
    moved, *words = _ready(move, fence)
    killed = dying(moved, str(moment), *words)
    assert killed.returncode == -9, killed.stderr
    defined = moved.libvirtd.virsh("list", "--all", "--uuid").split()
    assert not (moved.running() and moved.on_network()), "both are on the network"
    again = moved("web-01", "--start", fence, *PROVED)
    assert again.status == 0, (moment, again.events)
    after = moved.libvirtd.virsh("list", "--all", "--uuid").split()
    assert defined in ([], after), (moment, "the domain was defined again")
    assert (moved.running(), moved.on_network()) == (["web-01"], False), moment
    moved.assert_nothing_left(f"killed at {moment}")


@pytest.mark.kill
@pytest.mark.parametrize("fence", ["--power-off", "--disconnect-source"])
@pytest.mark.parametrize("begins", ["--start", "--autostart"])
@pytest.mark.parametrize("case", range(KILLS))
def test_a_killed_migration_that_is_cleaned_up_leaves_one_machine(
    move: Callable[..., Move], case: int, begins: str, fence: str
) -> None:
    """The source, or from the moment of the start on the landed one: never both, also after a restart of the host."""
    moment, _ = drawn(move, case, fence, begins)
    moved, *words = _ready(move, fence, begins)
    assert dying(moved, str(moment), *words).returncode == -9
    cleaned = moved.shell("cleanup", moved.folder)
    assert cleaned.status == 0, (moment, cleaned.err)
    starts = moved.running() + moved.libvirtd.virsh("list", "--all", "--autostart", "--name").split()
    assert bool(starts) is not moved.on_network(), (moment, starts, cleaned.out)
    assert moved.libvirtd.domains() == (["web-01"] if starts else []), moment
    assert unfinished_landings(moved.shell.home / ".local/state/hypersdk") == [], moment


@pytest.mark.kill
def test_one_that_is_killed_twice_goes_on(move: Callable[..., Move]) -> None:
    """The second time within what the first one left to do, where it still does anything."""
    draw, number = random.Random(f"{SEED}twice"), moments(move, "--power-off")
    moved, *words = _ready(move, "--power-off")
    first = draw.randrange(5, number - 5)
    assert dying(moved, str(first), *words).returncode == -9
    second = draw.randrange(0, number - first)
    dying(moved, str(second), *words)
    assert not (moved.running() and moved.on_network()), (first, second)
    again = moved("web-01", "--start", "--power-off", *PROVED)
    assert again.status == 0, (first, second, again.events)
    assert (moved.libvirtd.domains(), moved.running(), moved.on_network()) == (["web-01"], ["web-01"], False)
    moved.assert_nothing_left(f"killed at {first}, then {second}")


@pytest.mark.kill
@pytest.mark.parametrize(("begins", "last"), [("--start", 8), ("--autostart", 5)])
def test_between_the_two_machines_there_is_no_moment_without_a_way_back(
    move: Callable[..., Move], begins: str, last: int
) -> None:
    """One of the moments after the last look at the source: `cleanup` leaves exactly one of the two."""
    number = moments(move, "--power-off", begins)
    moment = number - random.Random(f"{SEED}{begins}").randrange(2, last)
    moved, *words = _ready(move, "--power-off", begins)
    assert dying(moved, str(moment), *words).returncode == -9
    assert moved.shell("cleanup", moved.folder).status == 0
    starts = moved.running() + moved.libvirtd.virsh("list", "--all", "--autostart", "--name").split()
    assert bool(starts) is not moved.on_network(), (moment, number)
    moved.assert_nothing_left(f"killed at {moment}")


def test_a_source_does_not_come_back_beside_a_landed_machine_that_runs(move: Callable[..., Move]) -> None:
    """Somebody started it by hand after the kill; or nobody can ask the target."""
    number = moments(move, "--power-off", "--autostart")
    moved, *words = _ready(move, "--power-off", "--autostart")
    assert dying(moved, str(number - 5), *words).returncode == -9
    moved.libvirtd.virsh("autostart", "--disable", "web-01")
    unsure = moved.load(moved.folder, "--start")
    assert unsure.error["code"] == "source_not_checked", "a record is no proof: the folder may be a copy"
    moved.libvirtd.virsh("start", "web-01")
    refused = moved.shell("cleanup", moved.folder, "--json")
    assert (refused.status, refused.error["code"]) == (11, "target_not_restored"), refused.events
    assert (moved.running(), moved.on_network()) == (["web-01"], False)
    moved.libvirtd.virsh("destroy", "web-01")
    record = moved.folder / LANDING_FILE
    text = record.read_bytes()
    with held_folder(moved.folder) as held, LandingFile.opened(held).changing() as landing:
        landing.target = "qemu+unix:///system?socket=/nonexistent"
    refused = moved.shell("cleanup", moved.folder, "--json")
    assert (refused.error["code"], moved.on_network()) == ("libvirt_unreachable", False), refused.events
    record.write_bytes(text)
    assert moved.shell("cleanup", moved.folder).status == 0
    assert (moved.libvirtd.domains(), moved.on_network()) == ([], True)
    moved.assert_nothing_left()
    assert moved("web-01", "--start", "--power-off").status == 0
    assert (moved.running(), moved.on_network()) == (["web-01"], False)


@pytest.mark.parametrize("fence", ["--power-off", "--disconnect-source"])
def test_a_source_that_another_folder_holds_is_not_migrated(move: Callable[..., Move], fence: str) -> None:
    """Its clean-up would put the source back beside the machine that was landed from here."""
    moved, *words = _ready(move, fence)
    assert dying(moved, "9", *words).returncode == -9
    assert not moved.on_network()
    second = moved.folder.parent / "second"
    refused = moved("web-01", "--start", fence, "-o", second)
    assert (refused.status, refused.error["code"]) == (6, "source_held"), refused.events
    assert (moved.libvirtd.domains(), moved.on_network(), second.exists()) == ([], False, False)
    assert moved.shell("cleanup", moved.folder).status == 0
    assert moved.on_network()
    assert moved("web-01", "--start", fence, "-o", second).status == 0
    assert (moved.running(), moved.on_network()) == (["web-01"], False)


def test_a_machine_that_was_started_stays_whatever_fails_afterwards(move: Callable[..., Move]) -> None:
    """Killed after the start, before the source was given up: its guest has written, so there is no way back."""
    number = moments(move, "--power-off")
    moved, *words = _ready(move, "--power-off")
    assert dying(moved, str(number - 2), *words).returncode == -9
    assert (moved.running(), moved.on_network()) == (["web-01"], False)
    converting = [word for word in moved.words("migrate", "--json", "-o", moved.folder) if word != "--no-convert"]
    failed = moved.shell(*converting, "web-01", "--start", "--power-off")
    assert (failed.status, failed.error["code"]) == (6, "landed_unconverted"), failed.events
    assert (moved.running(), moved.on_network()) == (["web-01"], False)
    assert moved("web-01", "--start", "--power-off", *PROVED).status == 0
    assert (moved.running(), moved.on_network()) == (["web-01"], False)
    moved.assert_nothing_left()


def _ready(move: Callable[..., Move], fence: str, begins: str = "--start") -> tuple[Any, ...]:
    """A new source and an empty target, and the command's words."""
    guest = boot_sector_guest("marker")
    image = DiskSpec(guest.image.stat().st_size, image=guest.image)
    moved = move(machines=(MachineSpec("web-01", (image,), power="poweredOn", memory_mb=64),))
    for domain in moved.running():
        moved.libvirtd.virsh("destroy", domain)
    for domain in moved.libvirtd.domains():
        moved.libvirtd.virsh("undefine", domain)
    if moved.folder.exists():
        for path in sorted(moved.folder.rglob("*"), reverse=True):
            path.unlink()
    return moved, *moved.words("migrate", "web-01", "-o", moved.folder, begins, fence, *PROVED)


SECRET_KEY: Final = "the-passphrase-of-the-disk"
SECRET_PASSWORD: Final = "the-password-of-vcenter"
LOOK: Final = """
ulimit -c >'{seen}/core'
env >'{seen}/environ'
cat /proc/[0-9]*/cmdline >'{seen}/arguments' 2>/dev/null
"""


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_no_secret_is_left_anywhere(move: Callable[..., Move], tmp_path: Path, ends: str) -> None:
    """The key of a disk and the password of vCenter: not in what other programs get, not in what is written."""
    place, seen, home = tmp_path / "programs", tmp_path / "seen", tmp_path / "home"
    for folder in (place, seen, home):
        folder.mkdir()
    (tmp_path / "key").write_text(SECRET_KEY)
    v2v = fake_v2v(place, LOOK.format(seen=seen) + (GOOD_CONVERSION if ends == "well" else "exit 1"))
    raw = tmp_path / "small.raw"
    raw.write_bytes(small_disk(b"disk"))
    machine = MachineSpec("web-01", (DiskSpec(MiB, image=raw),), power="poweredOn", memory_mb=64)
    moved = move(machines=(machine,), password=Secret(SECRET_PASSWORD))
    words = [word for word in moved.words("migrate", "web-01", "--json", "-o", moved.folder) if word != "--no-convert"]
    program = Program(home, moved.simulator, more_env={"PATH": f"{place}:{os.environ['PATH']}"})
    page = home / "run.html"
    done = program.run(*words, "--power-off", "--start", "--key", tmp_path / "key", "--report", page)
    assert (done.status == 0) is (ends == "well"), done.explain()
    assert IN_PLACE in v2v.paths
    assert (seen / "core").read_text() == "0\n"
    written = [path for folder in (seen, home, moved.folder) for path in folder.rglob("*") if path.is_file()]
    assert {"environ", "virt-v2v.log", ".hypersdk-landing.json", "run.html"} <= {path.name for path in written}
    texts = {str(path): path.read_bytes() for path in written} | {"shown": done.explain().encode()}
    if ends == "well":
        texts["domain"] = moved.libvirtd.virsh("dumpxml", "--security-info", "web-01").encode()
    for secret in (SECRET_KEY.encode(), SECRET_PASSWORD.encode()):
        assert [name for name, text in texts.items() if secret in text] == []


def test_doctor_finds_a_folder_that_the_guests_user_cannot_enter(move: Callable[..., Move]) -> None:
    moved = move(machines=(OFF,))
    closed = moved.folder.parent / "closed"
    closed.mkdir(mode=0o700)
    uri = moved.libvirtd.uri
    found = {
        folder: checks(moved.shell("doctor", "--json", "--to", uri, "-o", folder)) for folder in (closed, closed.parent)
    }
    assert found[closed.parent]["folder"]["status"] == "ok"
    assert (found[closed]["folder"]["status"], "setfacl" in found[closed]["folder"]["next_step"]) == ("fail", True)


def checks(done: Run) -> dict[str, dict[str, Any]]:
    return {event["name"]: event for event in done.events if event["type"] == "check"}


# --- import ----------------------------------------------------------------------------------------------------------


def exported(moved: Move, output_format: str, machine: str = "web-01") -> Path:
    folder = moved.folder.parent / "package"
    moved.shell.good("export", machine, "-o", folder, "--format", output_format, "--no-quiesce")
    return folder


@pytest.mark.parametrize("output_format", ["ova", "ovf"])
def test_a_package_is_converted_landed_and_started_once(move: Callable[..., Move], output_format: str) -> None:
    moved = move(machines=(ON,))
    package = exported(moved, output_format) / f"web-01.{output_format}"
    unsure = moved.load(package, "-o", moved.folder, "--start")
    assert (unsure.status, unsure.error["code"]) == (6, "source_not_checked")
    assert not moved.folder.exists()
    for _ in range(2):
        done = moved.load(package, "-o", moved.folder, "--start", "--source-off")
        assert done.status == 0, done.events
    assert [event["convert"] for event in done.events if event["type"] == "plan"] == [False]
    assert moved.running() == ["web-01"]
    assert moved.shell("verify", moved.folder).status in (0, 8), "the guest may have written since it was started"
    moved.assert_nothing_left()


def test_an_interrupted_conversion_is_finished_before_the_guest_is_landed_as_it_is(move: Callable[..., Move]) -> None:
    """While it is written into the images they are neither as exported nor converted, also for --no-convert."""
    moved = move(machines=(ON,))
    folder = export_folder(moved.folder.parent / "package")
    assert killed(folder, "committing", state=moved.shell.home / ".local/state/hypersdk")
    done = moved.load(folder)
    assert done.status == 0, done.events
    (result,) = [event for event in done.events if event["type"] == "result"]
    assert result["converted"]
    assert not list(folder.glob(".*.overlay"))
    moved.shell.good("verify", folder)
    moved.assert_nothing_left()


def test_a_step_that_failed_and_is_not_wanted_any_more_leaves_nothing_open(move: Callable[..., Move]) -> None:
    moved = move(machines=(ON,))
    folder = exported(moved, "qcow2")
    words = [word for word in moved.words("import", "--json", folder) if word != "--no-convert"]
    refused = moved.shell(*words)
    assert refused.error["code"] == "nothing_to_convert", refused.events
    assert moved.load(folder).status == 0
    moved.assert_nothing_left()


def test_a_landed_machine_does_not_pretend_to_have_another_name(move: Callable[..., Move]) -> None:
    moved = move(machines=(OFF,))
    moved.result("db 02")
    renamed = moved.load(moved.folder, "--name", "other", "--start", "--source-off")
    assert (renamed.status, renamed.error["code"]) == (6, "landed_under_name"), renamed.events
    assert moved.libvirtd.domains() == ["db-02"]
    assert moved.running() == []


def test_the_folder_of_an_export_is_landed_without_a_login(move: Callable[..., Move]) -> None:
    moved = move(machines=(ON,))
    folder = exported(moved, "qcow2")
    moved.simulator.stop()
    done = moved.load(folder, "--name", "tried", "--start", "--new-macs")
    assert done.status == 0, done.events
    assert moved.running() == ["tried"]


def test_several_sources_are_imported_and_one_that_cannot_be_keeps_none_back(move: Callable[..., Move]) -> None:
    moved = move(machines=(ON, OFF))
    package, folder = exported(moved, "ova") / "web-01.ova", moved.folder.parent / "db"
    moved.shell.good("export", "db 02", "-o", folder, "--format", "qcow2")
    page = moved.folder.parent / "run.html"
    sources = [package, moved.folder.parent / "nothing", folder, package]
    done = moved.load(*sources, "-o", moved.folder, "--report", page)
    assert done.status == 10, done.events
    assert sorted(moved.libvirtd.domains()) == ["db-02", "web-01"]
    assert (moved.folder / "web-01" / "artifact-manifest.json").exists()
    totals = next(event for event in done.events if event["type"] == "totals")
    assert (totals["machines"], totals["migrated"], totals["skipped"]) == (4, 2, 2)
    failed = {
        event["machine"]: event["code"] for event in done.events if event["type"] == "error" and "machine" in event
    }
    assert failed == {str(sources[1]): "unknown_input", str(package): "usage"}
    assert "nothing" in page.read_text()
    named = moved.load(package, folder, "--name", "one")
    assert (named.status, named.error["code"]) == (2, "usage")
    shown = moved.shell(*moved.words("import", *sources[:3], "-o", moved.folder))
    assert "2 imported, 1 skipped" in shown.out, shown.out
    moved.assert_nothing_left()


def test_a_lone_image_needs_the_size_of_its_machine(move: Callable[..., Move]) -> None:
    moved = move(machines=(ON,))
    image = next(exported(moved, "vmdk").glob("*.vmdk"))
    moved.folder.mkdir(exist_ok=True)
    unknown = moved.load(image, "-o", moved.folder, "--report", moved.folder.parent / "run.html")
    assert unknown.status == 6, unknown.events
    assert (moved.folder / "report.html").exists(), "of what was refused, in the folder that it would have"
    done = moved.load(image, "-o", moved.folder, "--cpus", "1", "--memory", "64MiB", "--name", "alone")
    assert done.status == 0, done.events
    assert moved.libvirtd.domains() == ["alone"]


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (["migrate", "--all"], 2, "usage"),  # no target
        (["migrate", "--to", "qemu:///system"], 2, "usage"),  # no machine
        (["migrate", "web-01", "--to", "https://vcenter.example.com"], 2, "libvirt_address"),
        (["migrate", "web-01", "--to", "test:///default", "--map", "VM Network"], 2, "bad_network_map"),
        (["migrate", "web-01", "--to", "test:///default", "--disconnect-source"], 2, "usage"),
        (["migrate", "web-01", "--to", "test:///default", "--keep-source-running", "--shutdown"], 2, "usage"),
        (["migrate", "web-01", "--to", "test:///default", "--power-off", "--shutdown"], 2, "usage"),
        (["migrate", "web-01", "--to", "test:///default", "--no-convert", "--key", "/dev/null"], 2, "usage"),
        (["migrate", "web-01", "--to", "test:///default", "--static-ip", "00:50:56:01:02:03=x"], 2, "usage"),
        (
            ["migrate", "web-01", "--to", "test:///default", "--static-ip", "00:50:56:01:02:03=192.0.2.7/24,fe80::1%x"],
            2,
            "usage",
        ),
        (["migrate", "--all", "--to", "test:///default", "--no-convert", "--name", "one"], 2, "usage"),
        (["migrate", "web-01", "--to", "test:///default", "--no-convert"], 6, "network_unmapped"),
        (["import", "/nonexistent", "--to", "test:///default", "--no-convert"], 2, "unknown_input"),
        (["import", "/tmp", "--to", "test:///default", "--no-convert"], 8, "verify_no_manifest"),
        (["import", "/tmp", "--to", "test:///default", "--no-convert", "-o", "x"], 2, "usage"),
        (["migrate", "web-01", "--to", "test:///default", "--no-convert", "--root", "first"], 2, "usage"),
        (["migrate", "--all", "--to", "test:///default", "--no-convert", "--max-conversions", "2"], 2, "usage"),
        (["import", "x.ova", "--to", "test:///default", "--source-off", "--new-macs"], 2, "usage"),
        (["import", "x.ova", "--to", "test:///default", "--memory", "0"], 2, "usage"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_starts(
    simulator: SimulatorFactory, tmp_path: Path, words: list[str], status: int, code: str
) -> None:
    shell = Shell(simulator(machines=(ON, OFF)), tmp_path)
    done = shell(*words, "--json")
    assert (done.status, done.error["code"]) == (status, code), done.events


@pytest.mark.parametrize("command", ["migrate", "import"])
def test_the_target_is_read_once_for_all_machines(
    simulator: SimulatorFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """It takes a call for each of its domains."""
    reads: list[Connection] = []

    def counted(connection: Connection) -> tuple[DomainFacts, ...]:
        reads.append(connection)
        return read_domains(connection)

    shell = Shell(simulator(machines=(ON, OFF, ON_DATA)), tmp_path)
    flags = ["--to", "test:///default", "--no-convert", "--map", "*=network:default", "--dry-run", "--json"]
    words = [command, "--all", "-o", str(tmp_path / "out")]
    if command == "import":
        shell.good("export", "--all", "-o", tmp_path / "out")
        words = [command, *map(str, sorted((tmp_path / "out").iterdir()))]
    monkeypatch.setattr(preflight, "read_domains", counted)
    done = shell.good(*words, *flags)
    assert [event["type"] for event in done.events].count("plan") == 3
    assert len(reads) == 1
