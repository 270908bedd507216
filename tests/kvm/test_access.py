"""Who can get to an image: compared with what the kernel lets a process of that user do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypersdk.errors import Refused
from hypersdk.kvm.access import Account, account_of, check_reachable, closed_folders, may_enter
from tests.support.tools import run_tool

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
USER, GROUP, OTHER_GROUP = 64123, 64124, 64125
ACCOUNT = Account(USER, frozenset({GROUP, OTHER_GROUP}), str(USER))


@pytest.fixture
def folder(guest_folder: Path) -> Iterator[Path]:
    """A folder below one that everybody may enter."""
    made = guest_folder / "images"
    made.mkdir()
    yield made
    made.chmod(0o700)


def kernel_lets_in(folder: Path) -> bool:
    (folder / "file").touch()
    other_user = ["setpriv", f"--reuid={USER}", f"--regid={GROUP}", f"--groups={GROUP},{OTHER_GROUP}"]
    return subprocess.run([*other_user, "test", "-e", folder / "file"], check=False).returncode == 0


@pytest.mark.parametrize("mode", [0o700, 0o710, 0o711, 0o755, 0o770, 0o701, 0o600, 0o744, 0o705, 0o076])
@pytest.mark.parametrize("owner", [(0, 0), (USER, 0), (0, GROUP), (0, OTHER_GROUP), (USER, GROUP)])
def test_modes_are_read_as_the_kernel_does(folder: Path, mode: int, owner: tuple[int, int]) -> None:
    os.chown(folder, *owner)
    folder.chmod(mode)
    assert may_enter(folder, ACCOUNT) == kernel_lets_in(folder)


@pytest.mark.parametrize(
    "entries",
    [
        f"u:{USER}:x",
        f"u:{USER}:-",
        f"u:{USER}:rwx,m::r",
        f"g:{GROUP}:x",
        f"g:{GROUP}:-,o::x",
        f"g:{GROUP}:-,g:{OTHER_GROUP}:x",
        f"g:{OTHER_GROUP}:x,m::-",
        f"u:{USER + 9}:x",
        "o::x",
        f"u:{USER + 9}:rwx,o::-",
        f"u:{USER}:r,g:{GROUP}:x,o::x",
    ],
)
@pytest.mark.parametrize("owner", [(0, 0), (0, GROUP), (USER, 0)])
def test_access_control_lists_are_read_as_the_kernel_does(folder: Path, entries: str, owner: tuple[int, int]) -> None:
    os.chown(folder, *owner)
    folder.chmod(0o750)
    run_tool("setfacl", "-m", entries, folder)
    assert may_enter(folder, ACCOUNT) == kernel_lets_in(folder)


def test_each_closed_folder_is_named_with_the_command_that_opens_it(folder: Path) -> None:
    inner = folder / "a b"
    inner.mkdir(mode=0o700)
    folder.chmod(0o700)
    assert list(closed_folders(inner, ACCOUNT)) == [folder, inner]
    with pytest.raises(Refused) as caught:
        check_reachable(inner, ACCOUNT)
    step = caught.value.next_step
    assert f"`setfacl -m u:{USER}:x {folder} '{inner}'`" in step
    subprocess.run(step.split("`")[1], shell=True, check=True)
    check_reachable(inner, ACCOUNT)


def test_root_gets_everywhere(folder: Path) -> None:
    folder.chmod(0o700)
    assert list(closed_folders(folder, Account(0, frozenset({0}), "root"))) == []


def test_a_user_without_a_name_has_one_group() -> None:
    assert account_of(USER, GROUP) == Account(USER, frozenset({GROUP}), str(USER))
    assert account_of(0, 0).name == "root"
