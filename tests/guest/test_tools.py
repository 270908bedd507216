"""The programs: found, asked what they can do, and named with the command that installs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypersdk.errors import Refused
from hypersdk.guest.distribution import Distribution, Family, of_release
from hypersdk.guest.faults import OPTION_UNSUPPORTED, TOOL_BROKEN, TOOL_MISSING
from hypersdk.guest.tools import IN_PLACE, PROGRAMS, GuestTools, find_tools
from hypersdk.remedies import advice
from tests.support.guestprograms import fake_v2v, script
from tests.support.tools import requires


def test_the_programs_of_this_host_are_found_and_asked() -> None:
    requires("virt-v2v")
    tools = find_tools()
    assert tools.missing() == ()
    assert tools.install_command() is None
    v2v = tools.v2v()
    assert v2v.version[0].isdigit()
    assert {"convert:linux", "convert:windows", "input:libvirtxml"} <= v2v.features
    assert {"--root", "--key", "--mac", "--machine-readable", "-i"} <= v2v.options


def test_a_program_outside_of_path_is_found_where_distributions_put_it(tmp_path: Path) -> None:
    found = find_tools({"PATH": str(tmp_path)})
    assert found.paths[IN_PLACE] == "/usr/bin/virt-v2v-in-place"


def test_one_on_path_comes_first(tmp_path: Path) -> None:
    own = script(tmp_path / IN_PLACE, ":")
    assert find_tools({"PATH": str(tmp_path)}).paths[IN_PLACE] == str(own)


@pytest.mark.parametrize(
    ("family", "command"),
    [
        (Family.DEBIAN, "sudo apt install libguestfs-tools virt-v2v"),
        (Family.FEDORA, "sudo dnf install /usr/bin/guestfish virt-v2v"),
        (Family.SUSE, "sudo zypper install /usr/bin/guestfish virt-v2v"),
        (Family.ARCH, "sudo pacman -S libguestfs virt-v2v"),
    ],
)
def test_what_is_missing_comes_with_its_install_command(family: Family, command: str) -> None:
    paths = {program.name: f"/usr/bin/{program.name}" for program in PROGRAMS}
    del paths["guestfish"], paths[IN_PLACE]
    tools = GuestTools(paths, None, None, Distribution(family))
    assert tools.install_command() == command
    with pytest.raises(Refused, match="'guestfish' is not installed") as caught:
        tools.path("guestfish")
    assert caught.value.code == TOOL_MISSING
    assert command.split()[1] in advice(caught.value.remedies)


def test_an_unknown_distribution_has_no_command() -> None:
    tools = GuestTools({}, None, None, Distribution(None))
    assert tools.install_command() is None
    with pytest.raises(Refused) as caught:
        tools.path(IN_PLACE)
    assert "packages of your distribution" in advice(caught.value.remedies)


@pytest.mark.parametrize(
    ("release", "family"),
    [
        ({"ID": "debian"}, Family.DEBIAN),
        ({"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, Family.DEBIAN),
        ({"ID": "fedora"}, Family.FEDORA),
        ({"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, Family.FEDORA),
        ({"ID": "opensuse-leap", "ID_LIKE": "suse opensuse"}, Family.SUSE),
        ({"ID": "manjaro", "ID_LIKE": "arch"}, Family.ARCH),
        ({"ID": "gentoo"}, None),
        ({}, None),
    ],
)
def test_the_family_of_a_distribution(release: dict[str, str], family: Family | None) -> None:
    assert of_release(release).family is family


def test_options_that_are_missing_are_refused_by_name(tmp_path: Path) -> None:
    v2v = fake_v2v(tmp_path, "").v2v()
    v2v.require(["--key", "--root"])
    with pytest.raises(Refused, match=r"virt-v2v-in-place 2.2.0 does not have '--firstboot', '--memsize'") as caught:
        v2v.require(["--memsize", "--key", "--firstboot"])
    assert caught.value.code == OPTION_UNSUPPORTED
    assert caught.value.fields == {"options": ["--firstboot", "--memsize"], "version": "2.2.0"}


def test_one_that_does_not_run_is_an_error_with_what_it_printed(tmp_path: Path) -> None:
    broken = script(tmp_path / IN_PLACE, "echo 'libguestfs.so.0: cannot open shared object' >&2; exit 127")
    with pytest.raises(Refused) as caught:
        GuestTools({IN_PLACE: str(broken)}, None, None).v2v()
    assert caught.value.code == TOOL_BROKEN
    assert "libguestfs.so.0" in str(caught.value.fields["output"])


def test_it_is_asked_once(tmp_path: Path) -> None:
    tools = fake_v2v(tmp_path, "")
    body = Path(tools.paths[IN_PLACE])
    body.write_text(body.read_text().replace("case", f"echo x >>{tmp_path}/asked\ncase", 1))
    assert tools.v2v() == tools.v2v()
    assert (tmp_path / "asked").read_text() == "x\n" * 3  # features, version, options


def test_the_drivers_for_windows(tmp_path: Path) -> None:
    assert find_tools({"VIRTIO_WIN": str(tmp_path)}).virtio_win == tmp_path
    assert find_tools({"VIRTIO_WIN": str(tmp_path / "missing")}).virtio_win is None
    assert find_tools({"VIRT_TOOLS_DATA_DIR": str(tmp_path)}).virt_tools == tmp_path
