"""`migrate` where something goes wrong beside it: a full disk, a libvirtd that ends, a signal, another command."""

from __future__ import annotations

import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from hypersdk.landing.landings import unfinished_landings
from hypersdk.simulator.config import DiskSpec, MachineSpec
from tests.support.guests.bootsectors import boot_sector_guest
from tests.support.moves import PROVED, Move, dying
from tests.support.seeds import SEED
from tests.support.waiting import eventually

pytestmark = pytest.mark.waits

KILLS: Final = 4
"""Cases of a test at drawn moments."""
POWERED_OFF: Final = ("--start", "--power-off")


@pytest.fixture
def ready(move: Callable[..., Move]) -> Move:
    """A running source, whose guest boots, and an empty target."""
    guest = boot_sector_guest("marker")
    image = DiskSpec(guest.image.stat().st_size, image=guest.image)
    return move(machines=(MachineSpec("web-01", (image,), power="poweredOn", memory_mb=64),))


@pytest.mark.kill
@pytest.mark.parametrize("flag", ["--resume", "--discard"])
def test_an_export_does_not_end_a_migration_that_holds_its_source(ready: Move, flag: str) -> None:
    """It would put the source back on the network without a look at the landed machine, which may run."""
    words = ready.words("migrate", "web-01", "-o", ready.folder, *POWERED_OFF)
    assert dying(ready, "+start_domain", *words).returncode == -signal.SIGKILL
    assert (ready.running(), ready.on_network()) == (["web-01"], False)
    for more in ([], [flag]):
        refused = ready.shell("export", "web-01", "-o", ready.folder, "--format", "qcow2", "--json", *more)
        assert (refused.status, refused.error["code"]) == (6, "migration_unfinished"), refused.events
        assert "cleanup" in refused.error["next_step"]
    assert (ready.running(), ready.on_network()) == (["web-01"], False)
    assert ready("web-01", *POWERED_OFF).status == 0
    ready.assert_nothing_left()


@pytest.fixture
def small_disk(guest_folder: Path) -> Iterator[Path]:
    """A file system of 20 MiB, which the libvirtd of the tests does not see."""
    folder = guest_folder / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m,mode=755", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.kill
@pytest.mark.parametrize("moment", ["+copy", "+define_domain", *range(KILLS)])
def test_a_disk_that_fills_leaves_source_and_target_as_they_were(
    ready: Move, small_disk: Path, moment: int | str
) -> None:
    """Whatever can be written then, the undo does its work. The guest cannot be started: libvirtd has no such file."""
    moved = Move(ready.shell, ready.libvirtd, small_disk / "out")
    if isinstance(moment, int):
        moment = str(random.Random(f"{SEED}{moment}").randrange(24))
    words = moved.words("migrate", "web-01", "-o", moved.folder, "--space-wait", "0", *POWERED_OFF)
    full = dying(moved, f"{moment}:cat /dev/zero > {small_disk}/filler", *words)
    assert full.returncode > 0, full.stdout
    assert (moved.libvirtd.domains(), moved.on_network()) == ([], True), (moment, full.stdout, full.stderr)
    (small_disk / "filler").unlink()
    assert moved.shell("cleanup", moved.folder).status == 0
    assert (moved.on_network(), unfinished_landings(moved.shell.home / ".local/state/hypersdk")) == (True, [])


@pytest.mark.kill
@pytest.mark.parametrize("moment", ["+define_domain", *range(KILLS)])
def test_a_libvirtd_that_is_restarted_leaves_one_of_the_two_machines(ready: Move, moment: int | str) -> None:
    """The undo waits for it: the source does not stay off because of an update of the target's packages."""
    if isinstance(moment, int):
        moment = str(random.Random(f"{SEED}{moment}").randrange(12, 26))
    words = ready.words("migrate", "web-01", "-o", ready.folder, *POWERED_OFF, *PROVED)
    ended = dying(ready, f"{moment}:{ready.libvirtd.to_kill}", *words)
    eventually(lambda: answers(ready), 30, lambda: ready.libvirtd.log.read_text())
    landed = ["web-01"] if ended.returncode == 0 else []
    assert (ready.libvirtd.domains(), ready.running()) == (landed, landed), (moment, ended.stdout, ended.stderr)
    assert ready.on_network() is not bool(landed), moment
    assert ready("web-01", *POWERED_OFF, *PROVED).status == 0
    ready.assert_nothing_left(f"restarted at {moment}")


def answers(move: Move) -> bool:
    return (
        subprocess.run(["virsh", "-c", move.libvirtd.uri, "version"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.kill
def test_what_was_copied_before_the_source_was_given_back_is_not_landed(ready: Move) -> None:
    """Killed before the files had their names, cleaned up: the source ran, was written to, and is off again."""
    words = ready.words("migrate", "web-01", "-o", ready.folder, *POWERED_OFF)
    assert dying(ready, "+copy", *words).returncode == -signal.SIGKILL
    assert ready.shell("cleanup", ready.folder).status == 0
    assert ready.on_network()
    ready.simulator.vm("web-01").power = "poweredOff"
    done = ready("web-01", *POWERED_OFF)
    assert done.status == 0, done.events
    (plan,) = [event for event in done.events if event["type"] == "plan"]
    assert plan["earlier"] == "outdated"
    ready.assert_nothing_left()
