"""Sealing, the key, references, the first start."""

from __future__ import annotations

import base64
import http.server
import json
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
import sqlalchemy as sa

from hypersdk.access import files
from hypersdk.access.access import Access
from hypersdk.access.files import read_private, write_private
from hypersdk.access.keys import VaultError
from hypersdk.access.references import check_reference
from hypersdk.access.roles import Role
from hypersdk.access.vault import Vault, forget_sealed
from hypersdk.errors import ConnectError, HyperSDKError, UsageError
from hypersdk.secret import Secret
from hypersdk.state.database import Database
from hypersdk.state.tables import meta

KEY = bytes(range(32))


def test_what_is_sealed_opens_for_its_purpose_only() -> None:
    vault = Vault(KEY)
    sealed = vault.seal(Secret("pässword"), "endpoint:1")
    assert b"pass" not in sealed
    assert sealed != vault.seal(Secret("pässword"), "endpoint:1"), "a new nonce each time"
    assert vault.open(sealed, "endpoint:1") == Secret("pässword")
    with pytest.raises(VaultError) as caught:
        vault.open(sealed, "endpoint:2")
    assert caught.value.code == "vault_damaged"


def test_every_flipped_bit_is_noticed() -> None:
    vault = Vault(KEY)
    sealed = vault.seal(Secret("x"), "p")
    for place in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[place] ^= 1
        with pytest.raises(VaultError):
            vault.open(bytes(damaged), "p")
    for length in range(len(sealed)):
        with pytest.raises(VaultError):
            vault.open(sealed[:length], "p")


def test_a_wrong_key_is_a_clear_error() -> None:
    sealed = Vault(KEY).seal(Secret("x"), "p")
    with pytest.raises(VaultError) as caught:
        Vault(bytes(32)).open(sealed, "p")
    assert caught.value.code == "vault_wrong_key"
    assert Vault(KEY).key_id.hex() in caught.value.message


def test_the_key_is_made_once_and_then_wanted(tmp_path: Path, sqlite: Database) -> None:
    home = tmp_path / "home"
    first = Vault.load(home, None, {}, sqlite)
    path = tmp_path / "home" / "vault.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    sealed = first.seal(Secret("x"), "p")
    assert Vault.load(home, None, {}, sqlite).open(sealed, "p") == Secret("x")
    text = path.read_text()
    path.unlink()
    with pytest.raises(VaultError) as caught:
        Vault.load(home, None, {}, sqlite)
    assert caught.value.code == "vault_key_lost"
    assert not path.exists(), "no second key is made"
    path.write_text(base64.b64encode(bytes(32)).decode())
    path.chmod(0o600)
    with pytest.raises(VaultError) as caught:
        Vault.load(home, None, {}, sqlite)
    assert caught.value.code == "vault_wrong_key"
    path.write_text(text)
    assert Vault.load(home, None, {}, sqlite).open(sealed, "p") == Secret("x")
    path.unlink()
    forget_sealed(sqlite)
    assert Vault.load(home, None, {}, sqlite).key_id != first.key_id


def test_without_a_database_no_key_is_made(tmp_path: Path) -> None:
    with pytest.raises(VaultError) as caught:
        Vault.load(tmp_path, None, {})
    assert caught.value.code == "vault_key_lost"


def test_the_systemd_credential_goes_first(tmp_path: Path, sqlite: Database) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "hypersdk-key").write_text(KEY.hex() + "\n")
    (credentials / "hypersdk-key").chmod(0o440)
    vault = Vault.load(tmp_path, None, {"CREDENTIALS_DIRECTORY": str(credentials)}, sqlite)
    assert vault.key_id == Vault(KEY).key_id
    assert not (tmp_path / "vault.key").exists()


@pytest.mark.parametrize("text", ["", "short", "ü" * 32, "A" * 44, base64.b64encode(bytes(31)).decode(), "zz" * 32])
def test_no_other_text_is_a_key(tmp_path: Path, sqlite: Database, text: str) -> None:
    path = tmp_path / "k"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(VaultError) as caught:
        Vault.load(tmp_path, path, {}, sqlite)
    assert caught.value.code == "vault_key_unusable"
    assert not text or text not in str(caught.value.as_dict())


def test_a_key_that_others_can_read_is_refused(tmp_path: Path, sqlite: Database) -> None:
    path = tmp_path / "k"
    path.write_text(KEY.hex())
    path.chmod(0o640)
    with pytest.raises(VaultError, match="can be read by others"):
        Vault.load(tmp_path, path, {}, sqlite)


def test_keyring(tmp_path: Path, sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    import keyring
    from keyring.backend import KeyringBackend

    class Memory(KeyringBackend):
        priority = 1
        kept: ClassVar[dict[tuple[str, str], str]] = {}

        def get_password(self, service: str, username: str) -> str | None:
            return self.kept.get((service, username))

        def set_password(self, service: str, username: str, password: str) -> None:
            self.kept[service, username] = password

        def delete_password(self, service: str, username: str) -> None:
            del self.kept[service, username]

    before = keyring.get_keyring()
    keyring.set_keyring(Memory())
    try:
        environ = {"HYPERSDK_KEYRING": "hypersdk/key"}
        first = Vault.load(tmp_path, None, environ, sqlite)
        assert Vault.load(tmp_path, None, environ, sqlite).key_id == first.key_id
        Memory.kept.clear()
        with pytest.raises(VaultError) as caught:
            Vault.load(tmp_path, None, environ, sqlite)
        assert caught.value.code == "vault_key_lost"
    finally:
        keyring.set_keyring(before)


# The first start


def test_the_first_start_makes_an_administrator(
    tmp_path: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    access = Access(database)
    path = access.first_start(tmp_path)
    assert path == tmp_path / "admin.token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text().strip()
    found = access.tokens.use(Secret(text))
    assert found is not None
    assert (found.name, found.role) == ("admin", Role.ADMIN)
    assert access.first_start(tmp_path) is None
    assert path.read_text().strip() == text
    assert text not in caplog.text
    assert [one.name for one in tmp_path.iterdir() if one.suffix == ".partial"] == []


def test_a_first_start_that_cannot_write_the_token_leaves_no_user(tmp_path: Path, sqlite: Database) -> None:
    access = Access(sqlite)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        access.first_start(tmp_path / "file")
    assert access.users.list() == []
    assert access.first_start(tmp_path) is not None


def test_a_private_file_is_never_readable_by_others(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        write_private(tmp_path / "a", "x")
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    finally:
        os.umask(old)
    (tmp_path / "target").write_text("kept")
    (tmp_path / "b").symlink_to(tmp_path / "target")
    write_private(tmp_path / "b", "y")
    assert (tmp_path / "target").read_text() == "kept", "a link is replaced, not followed"


# References


@pytest.mark.parametrize(
    "ref",
    [
        "",
        "env",
        "env:",
        "env:a-b",
        "env:A B",
        "env:VAULT_TOKEN",
        "env:HYPERSDK_KEYRING",
        "env:CREDENTIALS_DIRECTORY",
        "file:relative",
        "file:/a\0b",
        "credential:",
        "credential:../vault.key",
        "credential:a/b",
        "credential:hypersdk-key",
        "vault:x",
        "vault:mount/path",
        "vault:mount/../sys/raw#x",
        "vault:../x#y",
        "vault:m/a//b#c",
        "vault:m/a?b#c",
        "http://192.0.2.1/",
        "ENV:X",
        "env:" + "A" * 2000,
    ],
)
def test_what_is_no_reference_is_refused(ref: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_reference(ref)
    assert caught.value.code == "secret_reference"


def test_env_and_file(tmp_path: Path) -> None:
    vault = Vault(KEY, environ={"PASS": "s3cret"}, own=tmp_path / "state")
    assert vault.resolve("env:PASS") == Secret("s3cret")
    with pytest.raises(UsageError):
        vault.resolve("env:NOT_THERE")
    path = tmp_path / "password"
    path.write_text("s3cret\n")
    path.chmod(0o600)
    assert vault.resolve(f"file:{path}") == Secret("s3cret")


def test_a_credential_is_the_one_of_the_own_unit(tmp_path: Path) -> None:
    for unit in ("api", "worker"):
        (tmp_path / unit).mkdir()
        (tmp_path / unit / "vc1").write_text(f"of-the-{unit}\n")
        (tmp_path / unit / "vc1").chmod(0o440)  # as systemd's
        vault = Vault(KEY, environ={"CREDENTIALS_DIRECTORY": str(tmp_path / unit)})
        assert vault.resolve("credential:vc1") == Secret(f"of-the-{unit}")
    for environ in ({}, {"CREDENTIALS_DIRECTORY": str(tmp_path)}):
        with pytest.raises(UsageError, match="LoadCredential") as caught:
            Vault(KEY, environ=environ).resolve("credential:vc1")
        assert caught.value.code == "secret_reference"


def test_a_file_is_read_with_suspicion(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("s3cret")
    path.chmod(0o644)
    vault = Vault(KEY, environ={}, own=tmp_path / "state")
    refused = [
        path,
        tmp_path / "absent",
        tmp_path,
        Path("/dev/zero"),
        tmp_path / "link",
        tmp_path / "fifo",
        tmp_path / "large",
    ]
    good = tmp_path / "good"
    good.write_text("x")
    good.chmod(0o600)
    (tmp_path / "link").symlink_to(good)
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "large").write_bytes(b"x" * 70_000)
    (tmp_path / "large").chmod(0o600)
    for one in refused:
        with pytest.raises(UsageError) as caught:
            vault.resolve(f"file:{one}")
        assert caught.value.code == "secret_file"
    read_private(good, {})


@pytest.mark.parametrize("mode", [0o400, 0o440])
def test_a_credential_of_systemd_is_taken_as_it_is_handed_over(
    tmp_path: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of root's, mode 0400, or 0440 where an access list lets the service's user in; the daemon runs as
    another."""
    path = tmp_path / "vc1"
    path.write_text("s3cret\n")
    path.chmod(mode)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    vault = Vault(KEY, environ=environ, own=tmp_path / "state")
    assert vault.resolve(f"file:{path}") == Secret("s3cret")
    found = os.stat_result([*path.stat()[:4], 0, 0, *path.stat()[6:]])
    monkeypatch.setattr(os, "geteuid", lambda: 61234)
    files._check(path, found, environ)
    if mode & 0o040:
        with pytest.raises(UsageError, match="can be read by others"):
            files._check(path, found, {})
    else:
        files._check(path, found, {})


def test_the_key_among_the_credentials_is_never_handed_out(tmp_path: Path) -> None:
    write_private(tmp_path / "hypersdk-key", KEY.hex())
    (tmp_path / "alias").symlink_to(tmp_path)
    vault = Vault(KEY, environ={"CREDENTIALS_DIRECTORY": str(tmp_path)}, own=tmp_path / "state")
    for path in (tmp_path / "hypersdk-key", tmp_path / "alias" / "hypersdk-key"):
        with pytest.raises(UsageError, match="own key"):
            vault.resolve(f"file:{path}")


def test_the_daemons_own_files_are_never_handed_out(tmp_path: Path) -> None:
    state = tmp_path / "state"
    write_private(state / "vault.key", KEY.hex())
    (tmp_path / "alias").symlink_to(state)
    vault = Vault(KEY, environ={}, own=state)
    for path in (state / "vault.key", tmp_path / "alias" / "vault.key", state / ".." / "state" / "vault.key"):
        with pytest.raises(UsageError, match="own directory"):
            vault.resolve(f"file:{path}")


@contextmanager
def hashicorp(secrets: dict[str, object], token: str = "root") -> Iterator[tuple[str, list[str]]]:
    """What Vault's HTTP API answers: https://developer.hashicorp.com/vault/api-docs/secret/kv."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status, body = 404, b'{"errors":[]}'
            if self.headers["X-Vault-Token"] != token:
                status, body = 403, b'{"errors":["permission denied"]}'
            elif self.path in secrets:
                found = secrets[self.path]
                status, body = 200, found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_hashicorp_vault() -> None:
    secrets: dict[str, object] = {
        "/v1/kv/data/vsphere/vc1": {"data": {"data": {"password": "s3cret", "number": 1}}},
        "/v1/old/vc1": {"data": {"password": "0ld"}},
        "/v1/kv/data/broken": b"not json",
        "/v1/kv/data/huge": b"x" * (2 << 20),
    }
    with hashicorp(secrets) as (address, asked):
        vault = Vault(KEY, environ={"VAULT_ADDR": address, "VAULT_TOKEN": "root"})
        assert vault.resolve("vault:kv/vsphere/vc1#password") == Secret("s3cret")
        assert vault.resolve("vault:old/vc1#password") == Secret("0ld")
        assert asked == ["/v1/kv/data/vsphere/vc1", "/v1/old/data/vc1", "/v1/old/vc1"]
        for ref in ("vault:kv/vsphere/vc1#absent", "vault:kv/vsphere/vc1#number", "vault:kv/broken#x"):
            with pytest.raises(UsageError):
                vault.resolve(ref)
        for ref in ("vault:kv/absent#x", "vault:kv/huge#x"):
            with pytest.raises(ConnectError):
                vault.resolve(ref)
        with pytest.raises(ConnectError, match="403") as caught:
            Vault(KEY, environ={"VAULT_ADDR": address, "VAULT_TOKEN": "planted-token"}).resolve(
                "vault:kv/vsphere/vc1#password"
            )
        assert "planted-token" not in str(caught.value.as_dict())


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"VAULT_ADDR": "https://vault.example.com"},
        {"VAULT_ADDR": "http://vault.example.com", "VAULT_TOKEN": "x"},
        {"VAULT_ADDR": "http://127.0.0.1:1", "VAULT_TOKEN": "x"},
        {"VAULT_ADDR": "nonsense", "VAULT_TOKEN": "x"},
        {"VAULT_ADDR": "https://127.0.0.1:1", "VAULT_TOKEN": "x", "VAULT_CACERT": "/absent"},
    ],
)
def test_vault_that_cannot_be_asked(environ: dict[str, str]) -> None:
    with pytest.raises(HyperSDKError) as caught:
        Vault(KEY, environ=environ).resolve("vault:kv/a#b")
    assert caught.value.code in ("secret_reference", "vault_unreachable")


def test_the_keys_id_is_all_that_the_database_knows(tmp_path: Path, sqlite: Database) -> None:
    vault = Vault.load(tmp_path, None, {}, sqlite)
    with sqlite.read() as connection:
        rows = connection.execute(sa.select(meta)).all()
    assert ("vault_key", vault.key_id.hex()) in [tuple(row) for row in rows]
    key = base64.b64decode((tmp_path / "vault.key").read_text())
    assert sqlite.path is not None
    for path in sqlite.path.parent.iterdir():
        data = path.read_bytes() if path.is_file() and path.name.startswith("state.sqlite3") else b""
        assert key not in data
        assert base64.b64encode(key) not in data
