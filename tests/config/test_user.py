"""The configuration file: what it takes, and how it says no."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.cli.remedies import next_step
from hypersdk.config.user import MAX_CONFIG_BYTES, Config, Connection, ExportDefaults, load_config
from hypersdk.errors import UsageError
from tests.support.cli.commandline import run


def parsed(data: bytes) -> Config:
    """What a file with this content says."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        path.write_bytes(data)
        path.chmod(0o600)
        config = load_config({}, path)
        assert config.path == path
    return config


def test_all_keys_are_read() -> None:
    text = b"""
[connection]
url = "https://vcenter.example.com"
insecure = true
[export]
format = "raw"
parallel = 8
bandwidth_limit = "20M"
space_wait_s = 0
file_hash = "sha256"
"""
    config = parsed(text)
    assert config.connection == Connection(url="https://vcenter.example.com", insecure=True)
    assert config.export == ExportDefaults(
        format="raw", parallel=8, bandwidth_limit=20 << 20, space_wait_s=0, file_hash="sha256"
    )
    assert config.export.given() == {
        "format": "raw",
        "parallel": 8,
        "bandwidth_limit": 20 << 20,
        "space_wait_s": 0,
        "file_hash": "sha256",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[connection]\ninsecur = true", "Did you mean insecure?"),
        ("[conection]\n", "Did you mean connection?"),
        ("[export]\nformat = 'qcow3'", "one of qcow2"),
        ("[export]\nfile_hash = 'md5'", "one of tree"),
        ("[export]\nparallel = 2.0", "whole number"),
        ("[export]\nparallel = '8'", "a whole number from 1 to 1024"),
        ("[export]\nbandwidth_limit = 0", "a size like"),
        ("[export]\nbandwidth_limit = true", "a size like"),
        ("[export]\nspace_wait_s = 2592001", "seconds, from 0 to 2592000"),
        ("[connection]\nurl = 7", "non-empty"),
        ("[connection]\ninsecure = 'yes'", "true or false"),
        ("[export]\nparallel = true", "whole number"),
        ("[export]\nparallel = 0", "whole number"),
        ("[export]\nretries = -1", "whole number"),
        ("[export]\nretries = 1025", "whole number"),
        ("[export]\nretries = true", "whole number"),
        ("[export]\nbandwidth_limit = 'fast'", "a size like"),
        ("[connection]\ninsecure = 1", "true or false"),
        ("[connection]\nurl = ''", "non-empty"),
        ("connection = 3", "table [connection]"),
        ("[connection", "not valid TOML"),
        ("a = " + "[" * 10_000, "nested too deeply"),
        ("# " + "x" * MAX_CONFIG_BYTES, "larger than"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed(text.encode())
    assert said in f"{caught.value.message} {next_step(caught.value)}"
    assert "config.toml" in caught.value.message


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(UsageError):
        parsed(data)


def test_a_password_needs_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[connection]\npassword = 'hunter2'\n")
    path.chmod(0o644)
    with pytest.raises(UsageError) as caught:
        load_config({}, path)
    assert caught.value.code == "config_exposed"
    path.chmod(0o600)
    config = load_config({}, path)
    assert config.connection.password == "hunter2"
    assert "hunter2" not in repr(config)


def test_the_file_of_the_user_may_be_missing_a_named_one_may_not(tmp_path: Path) -> None:
    assert load_config({"XDG_CONFIG_HOME": str(tmp_path)}).path is None
    with pytest.raises(UsageError):
        load_config({}, tmp_path / "none.toml")


def test_the_xdg_folder_is_read_and_a_relative_one_ignored(tmp_path: Path) -> None:
    for base in (tmp_path / "xdg", tmp_path / "home" / ".config"):
        (base / "hypersdk").mkdir(parents=True)
        (base / "hypersdk" / "config.toml").write_text(f"[connection]\nusername = '{base.name}'\n")
    home = str(tmp_path / "home")
    assert load_config({"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "HOME": home}).connection == Connection(
        username="xdg"
    )
    assert load_config({"XDG_CONFIG_HOME": "xdg", "HOME": home}).connection == Connection(username=".config")


def test_a_wrong_file_stops_a_command_that_needs_it(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[export]\nformt = 'raw'\n")
    result = run("export", "web01", "--config", str(path), "--json")
    assert (result.status, result.error["code"], result.error["key"]) == (2, "config_invalid", "formt")
