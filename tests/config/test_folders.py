from __future__ import annotations

from pathlib import Path

import pytest

from hypersdk.config.folders import config_folder, data_home, state_folder


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"STATE_DIRECTORY": "/var/lib/hypersdk", "HOME": "/x"}, "/var/lib/hypersdk"),
        ({"STATE_DIRECTORY": "/var/lib/hypersdk:/var/lib/more", "HOME": "/x"}, "/var/lib/hypersdk"),
        ({"STATE_DIRECTORY": "", "HOME": "/x"}, "/x/.local/state/hypersdk"),
        ({"XDG_STATE_HOME": "/x/state"}, "/x/state/hypersdk"),
        ({"XDG_STATE_HOME": "", "HOME": "/x"}, "/x/.local/state/hypersdk"),
    ],
)
def test_the_state_folder(environ: dict[str, str], expected: str) -> None:
    assert state_folder(environ) == Path(expected)


def test_a_relative_path_in_a_variable_is_ignored() -> None:
    environ = {"XDG_CONFIG_HOME": "config", "XDG_STATE_HOME": "state", "XDG_DATA_HOME": "./data", "HOME": "/x"}
    assert config_folder(environ) == Path("/x/.config/hypersdk")
    assert state_folder(environ) == Path("/x/.local/state/hypersdk")
    assert data_home(environ) == Path("/x/.local/share")
    assert config_folder({"XDG_CONFIG_HOME": "/y", "HOME": "/x"}) == Path("/y/hypersdk")


def test_without_a_home_in_the_environment_it_is_that_of_the_user() -> None:
    assert config_folder({}) == Path.home() / ".config" / "hypersdk"
