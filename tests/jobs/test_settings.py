"""A daemon's configuration: every key, every mistake."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from hypersdk.errors import UsageError
from hypersdk.jobs.settings import DaemonSettings, load_settings
from hypersdk.units import MiB


def test_what_is_shown_can_be_read_again(tmp_path: Path) -> None:
    first = load_settings(
        {"XDG_STATE_HOME": str(tmp_path)},
        None,
        {"workers": 3, "export_roots": [str(tmp_path)], "bandwidth_limit": "10M"},
    )
    path = tmp_path / "c.toml"
    path.write_text(first.as_toml())
    again = load_settings({"XDG_STATE_HOME": "/elsewhere"}, path, {})
    assert again.shown() == first.shown()
    named = set(tomllib.loads(first.as_toml())) | {
        line[2:-2] for line in first.as_toml().splitlines() if line[0] == "#"
    }
    assert named == {one.name for one in fields(DaemonSettings)}


def test_flags_stand_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('addr = "localhost:1"\nworkers = 2\n')
    found = load_settings({"XDG_STATE_HOME": str(tmp_path)}, path, {"addr": "localhost:2", "workers": None})
    assert (found.addr, found.workers) == ("localhost:2", 2)


def test_a_file_of_an_earlier_version_is_still_accepted(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('endpoint_config = "/x"\ndatastore_floor_percent = 3\ndatastore_floor_bytes = "1G"\n')
    found = load_settings({"XDG_STATE_HOME": str(tmp_path)}, path, {})
    assert (found.datastore_min_free_percent, found.datastore_min_free_bytes) == (3, 1024 * MiB)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("wrokers = 1", "wrokers"),
        ("workers = 0", "workers"),
        ('workers = "1"', "workers"),
        ("workers = true", "workers"),
        ("workers = 2.0", "a whole number from 1 to 64"),
        ("drain_s = true", "drain_s"),
        ("drain_s = nan", "a number from 0 to 3600"),
        ("drain_s = inf", "drain_s"),
        ("export_roots = '/x'", "a list of paths"),
        ("roles = 'api'", "roles"),
        ("bandwidth_limit = 0", "bandwidth_limit"),
        ('roles = ["king"]', "roles"),
        ('log_format = "xml"', "log_format"),
        ("auth = 1", "auth"),
        ("= 1", "TOML"),
        ('tls_cert = "/x"', "tls_key"),
        ('bandwidth_limit = "fast"', "bandwidth_limit"),
        ("addr = 8080", "addr"),
        ('allowed_hosts = ["x.example.com:443"]', "allowed_hosts"),
        ('allowed_hosts = ["https://x.example.com"]', "allowed_hosts"),
        ('trusted_proxies = ["*"]', "trusted_proxies"),
        ('trusted_proxies = ["0.0.0.0/0"]', "trusted_proxies"),
        ('trusted_proxies = ["192.0.2.1/24"]', "trusted_proxies"),
        ('allowed_hosts = ["*"]', "allowed_hosts"),
        ('allowed_hosts = "x.example.com"', "allowed_hosts"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_settings({}, path, {})
    assert caught.value.code == "daemon_config"
    assert named in caught.value.message


def test_hosts_of_a_proxy_are_kept_as_a_host_header_is_read() -> None:
    found = load_settings(
        {}, None, {"allowed_hosts": ["Exports.Example.COM.", "[2001:DB8::7]", "192.0.2.7", "my_host"]}
    )
    assert found.allowed_hosts == ("exports.example.com", "2001:db8::7", "192.0.2.7", "my_host")


def test_what_converts_is_converted() -> None:
    given = {
        "drain_s": 5,
        "roles": ["api"],
        "datastore_floor_bytes": "0",
        "key_file": "~/k",
        "trusted_proxies": ["::1"],
    }
    found = load_settings({}, None, given)
    assert (found.drain_s, type(found.drain_s)) == (5.0, float)
    assert (found.roles, found.datastore_min_free_bytes) == (frozenset({"api"}), 0)
    assert load_settings({}, None, {"datastore_min_free_bytes": "0"}).datastore_min_free_bytes == 0
    assert (found.key_file, found.trusted_proxies) == (Path.home() / "k", ("::1",))


def test_the_databases_password_is_not_shown() -> None:
    found = load_settings({}, None, {"database_url": "postgresql://h:hunter2@db.example.com/h"})
    assert "hunter2" not in found.as_toml() + repr(found)
    assert "db.example.com" in found.as_toml()
