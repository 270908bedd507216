"""`hyper2kvm` without arguments, as a person uses it: a real terminal, key by key."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from rich.cells import cell_len

from hypersdk.simulator import DiskSpec, MachineSpec, Simulator
from hypersdk.units import MiB
from tests.support.cli.commandline import environment, program, terminal
from tests.support.cli.screen import WAIT_S, Screen
from tests.support.cli.shell import login, small
from tests.support.libvirtd import Libvirtd
from tests.support.simulator import SimulatorFactory

pytestmark = pytest.mark.waits

SLOW = DiskSpec(capacity_bytes=24 * MiB, allocated_bytes=24 * MiB)

OpenScreen = Callable[[tuple[int, int]], Screen]


@pytest.fixture
def server(simulator: SimulatorFactory) -> Simulator:
    machines = (
        small("boot-01", folder="Demo"),
        small("shop-01", disks=(SLOW,), folder="Production/Web"),
        small("shop-02", disks=(SLOW, SLOW), folder="Production/Web"),
    )
    return simulator(machines=machines, vms=30, rate_bytes_s=4 * MiB)


@pytest.fixture
def open_screen(server: Simulator, tmp_path: Path) -> Iterator[OpenScreen]:
    opened: list[Screen] = []
    home = tmp_path / "h"
    home.mkdir()
    env = environment(home, **{key: value for key, value in login(server, home).items() if key != "HOME"})
    sockets = tempfile.TemporaryDirectory()  # not below tmp_path: a socket's path is at most 107 bytes

    def start(size: tuple[int, int]) -> Screen:
        opened.append(Screen(Path(sockets.name) / str(len(opened)), env, size))
        return opened[-1]

    yield start
    for screen in opened:
        screen.close()
    sockets.cleanup()


@pytest.fixture
def out() -> Iterator[Path]:
    """An output folder (not there yet) whose path is short enough to be seen in the form as a whole."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "o"


def set_folder(screen: Screen, folder: Path) -> None:
    """Replaces the folder in the form. It has the focus as soon as keys are taken, so it is tried until it is there."""
    screen.wait_for("Folder  ")
    deadline = time.monotonic() + WAIT_S
    while not any(line.split() == ["Folder", str(folder)] for line in screen.lines):
        assert time.monotonic() < deadline, "\n".join(screen.lines)
        screen.type("End", "C-u", str(folder))
        time.sleep(0.3)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), (200, 50)])
def test_from_the_banner_to_the_next_command(open_screen: OpenScreen, out: Path, size: tuple[int, int]) -> None:
    assert shutil.which("tmux")
    screen = open_screen(size)
    lines = screen.wait_for("33 of 33")
    assert any(line.startswith(" ❯ type to search") for line in lines)
    screen.type(*"shop-0")
    screen.wait_for("Hard disk 1" if size[0] > 100 else "shop-01")
    screen.type("Tab", "Tab")
    lines = screen.wait_for("2 marked, 72.0 MiB")
    assert sum(line.lstrip().startswith("✔ shop") for line in lines) == 2
    screen.type("Enter")
    set_folder(screen, out)
    screen.type("Enter")
    lines = screen.wait_for("Start? [Y]es")
    text = "\n".join(lines)
    told = ("Found 33 virtual machine(s)", "shop-01", "shop-02", "2 machines, 3 disks of 72.0 MiB", "At most ")
    for said in told:
        assert said in text, said
    if size[1] >= 50:
        assert "Connected to vSphere successfully!" in text
        assert "╭─  Connection  ─" in text
    screen.type("y", "Enter")
    screen.wait_for("/s ")
    lines = screen.wait_for("waits for vSphere or the network")
    total = next(line for line in lines if "0 of 2 done" in line)
    for said in ("%", "/s"):
        assert said in total
    assert any("of the allocated bytes" in line for line in lines)
    assert any("Hard disk 2" in line for line in lines), "a line per disk"
    screen.type("#", "#")  # keys pressed meanwhile do not show
    lines = screen.wait_for("ended with 0")
    assert not any("##" in line for line in lines)
    assert all(cell_len(line) <= size[0] for line in lines)
    text = "\n".join(lines)
    for said in ("sha256   ", "tree     ", "content  ", "proof   proved", "hyper2kvm verify", "virt-install --import"):
        assert said in text or size[1] < 50, said
    assert "virt-install --import" in text
    assert {path.name for path in out.iterdir()} == {"shop-01", "shop-02"}
    screen.wait_for("keys are echoed")  # the terminal is its old self


@pytest.mark.slow
def test_ctrl_c_at_every_stage_and_going_on_afterwards(open_screen: OpenScreen, server: Simulator, out: Path) -> None:
    before = server.state()
    for stage in ("list", "form", "confirm"):
        screen = open_screen((100, 30))
        screen.wait_for("33 of 33")
        if stage != "list":
            screen.type(*"shop-02", "Enter")
            set_folder(screen, out)
        if stage == "confirm":
            screen.type("Enter")
            screen.wait_for("Start? [Y]es")
        screen.type("C-c")
        text = "\n".join(screen.wait_for("ended with"))
        assert "ended with 130" in text or (stage != "confirm" and "ended with 0" in text), text
        assert "Traceback" not in text
        assert "--resume" not in text
        screen.close()
        assert server.state() == before
        assert not out.exists()
    screen = open_screen((100, 30))
    screen.wait_for("33 of 33")
    screen.type(*"shop-02", "Enter")
    set_folder(screen, out)
    screen.type("Enter")
    screen.wait_for("Start? [Y]es")
    screen.type("y", "Enter")
    screen.wait_for("% of the allocated bytes")
    screen.type("C-c")
    text = "\n".join(screen.wait_for("ended with 130"))
    assert "Pick the same machines and folder again" in text
    screen.wait_for("keys are echoed")
    screen.close()
    assert server.state() == before, "the source is as it was found"
    screen = open_screen((100, 30))
    screen.wait_for("33 of 33")
    screen.type(*"shop-02", "Enter")
    set_folder(screen, out)
    screen.type("Enter")
    screen.wait_for("[r]esume, [d]iscard")
    screen.type("r", "Enter")
    screen.wait_for("Start? [Y]es")
    screen.type("y", "Enter")
    screen.wait_for("ended with 0")
    assert (out / "shop-02" / "artifact-manifest.json").exists()


@pytest.mark.slow
def test_what_is_edited_after_the_summary_counts(open_screen: OpenScreen, out: Path) -> None:
    screen = open_screen((120, 40))
    screen.wait_for("33 of 33")
    screen.type(*"boot-01", "Enter")
    set_folder(screen, out)
    screen.type("Enter")
    screen.wait_for("as qcow2")
    screen.type("e", "Enter")
    screen.wait_for("1 marked")
    screen.type("Enter")
    screen.wait_for("Folder  ")
    screen.type("Down", "Right", "Enter")
    screen.wait_for("as raw")
    screen.type("q", "Enter")
    assert "Nothing was exported." in "\n".join(screen.wait_for("ended with 0"))
    assert not out.exists()


@pytest.mark.slow
def test_keys_typed_ahead_act_in_their_order(server: Simulator, tmp_path: Path) -> None:
    env = environment(tmp_path, **{key: value for key, value in login(server, tmp_path).items() if key != "HOME"})
    for burst in ("shop-02\r", "shoq\x7fp-02\t\r", "boot-01\x1b[B\x15shop-02\r"):
        with terminal(program(), env, (120, 30)) as screen:
            screen.wait_for("33 of 33")
            screen.settle(0.3)
            screen.type(burst)
            screen.wait_for("ISO images")
            screen.settle(0.3)
            assert "1 machine, 48.0 MiB provisioned: shop-02" in screen.text, burst
            screen.type("\x03")
            assert screen.finish() in (0, 130)


def test_a_bug_in_the_picker_is_no_traceback(server: Simulator, tmp_path: Path) -> None:
    code = (
        "import sys; import hypersdk.cli.picker.app as a\n"
        "def broken(self, steps): raise ZeroDivisionError('inside')\n"
        "a.PickerApp.action_mark = broken\n"
        "from hypersdk.cli.main import run; sys.exit(run())"
    )
    env = environment(tmp_path, **{key: value for key, value in login(server, tmp_path).items() if key != "HOME"})
    with terminal([program()[0], "-c", code], env, (100, 30)) as screen:
        screen.wait_for("33 of 33")
        screen.settle(0.3)
        screen.type("\t")
        assert screen.finish() == 1
    assert "internal error: ZeroDivisionError" in screen.text
    assert "Traceback" not in screen.text
    assert "locals" not in screen.text


def test_no_color_is_heeded(server: Simulator, tmp_path: Path) -> None:
    pairs = {key: value for key, value in login(server, tmp_path).items() if key != "HOME"}
    for extra, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        with terminal(program("list"), environment(tmp_path, **pairs, **extra), (100, 30)) as screen:
            assert screen.finish() == 0
        assert ("\x1b[32m" in screen.shown) is coloured


QUESTIONS = (
    "Land boot-01 on",
    "Convert the guest for KVM",
    "Boot it once as a proof",
    "Start it afterwards",
    "'VM Network' of 1 machine goes to",
    "neither a network nor a bridge 'no-such-bridge'",
)


@pytest.mark.skipif(os.geteuid() != 0, reason="libvirt's system driver needs root")
@pytest.mark.parametrize(
    ("answers", "seen"),
    [
        (["n"], "virt-install --import"),
        (["y", "y", "n", "n", ""], "nothing_to_convert"),
        (["y", "n", "n", "n", "no-such-bridge", ""], "next"),
    ],
)
def test_what_was_exported_is_landed_as_asked(
    simulator: SimulatorFactory,
    libvirtd: Libvirtd,
    bridge_name: str,
    guest_folder: Path,
    tmp_path: Path,
    answers: list[str],
    seen: str,
) -> None:
    """The disk boots and has no file system, which a conversion refuses before anything is landed."""
    definition = tmp_path / "default.xml"
    definition.write_text(f"<network><name>default</name><bridge name='{bridge_name}'/></network>")
    libvirtd.virsh("net-define", definition)
    libvirtd.virsh("net-start", "default")
    server = simulator(machines=(MachineSpec("boot-01", (DiskSpec(boot=True),), memory_mb=64),))
    account = {key: value for key, value in login(server, tmp_path).items() if key != "HOME"}
    env = environment(tmp_path, **account, LIBVIRT_DEFAULT_URI=libvirtd.uri)
    with tempfile.TemporaryDirectory() as sockets, closing(Screen(Path(sockets) / "s", env, (120, 50))) as screen:
        screen.wait_for("1 of 1")
        screen.type("Enter")
        set_folder(screen, guest_folder / "o")
        screen.type("Enter")
        screen.wait_for("Start? [Y]es")
        screen.type("y", "Enter")
        screen.wait_for("Land boot-01 on")
        assert libvirtd.domains() == []
        for answer, question in zip(answers, QUESTIONS, strict=False):
            screen.wait_for(question)
            screen.type(*([answer] if answer else []), "Enter")
        assert seen in " ".join(screen.wait_for("ended with"))
    assert libvirtd.domains() == (["boot-01"] if seen == "next" else [])
