"""What an administrator does to the state: settings, users, tokens, backup, restore, keys."""

from __future__ import annotations

import json
import tarfile
import tomllib
from pathlib import Path

import pytest

from hypersdk.access.access import Access
from hypersdk.access.roles import Role
from hypersdk.access.vault import Vault
from hypersdk.cli.hypervisord.app import program
from hypersdk.jobs.rotation import known_key
from hypersdk.jobs.service import JOB_PASSWORD
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.jobs.supervisor import one_daemon
from hypersdk.secret import Secret
from hypersdk.state.database import Database
from hypersdk.state.tables import jobs
from tests.cli.hypervisord.running import hypervisord
from tests.support.apiserver import build_services

PLANTED = "planted-7Kd2"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state with a job that has a password of its own."""
    services = build_services(tmp_path)
    text = json.dumps(
        {
            "vm_path": "a",
            "output_path": f"{tmp_path}/exports/a",
            "vcenter": {"server": "192.0.2.1", "username": "u", "password": PLANTED},
        }
    )
    done = services.service.submit(text, "application/json", None)
    assert done.rejected == ()
    services.access.users.create("ops", Role.OPERATOR, Secret("correct horse battery"))
    services.database.close()
    return tmp_path / "state"


def passwords(state: Path) -> list[str]:
    """The sealed passwords of all jobs, opened."""
    settings = DaemonSettings(state_dir=state)
    database = Database.open(settings.url)
    try:
        vault = Vault.load(settings, {}, database)
        with database.read() as connection:
            return [vault.open(row.secret, JOB_PASSWORD).reveal() for row in connection.execute(jobs.select())]
    finally:
        database.close()


def test_show_config_prints_what_can_be_read_again(tmp_path: Path) -> None:
    file = tmp_path / "hypervisord.toml"
    file.write_text('addr = "localhost:9000"\nworkers = 3\nexport_roots = ["/srv/images"]\n')
    done = hypervisord("--config", file, "--show-config", "-workers", "5", "-role", "api", home=tmp_path)
    settings = tomllib.loads(done.out)
    assert (settings["addr"], settings["workers"], settings["export_roots"], settings["roles"]) == (
        "localhost:9000", 5, ["/srv/images"], ["api"],
    )  # fmt: skip
    file.write_text(done.out)
    assert hypervisord("--config", file, "--show-config", home=tmp_path).out == done.out


def test_an_unknown_key_is_an_error_that_names_it(tmp_path: Path) -> None:
    file = tmp_path / "hypervisord.toml"
    file.write_text("workrs = 3\n")
    done = hypervisord("--config", file, "--show-config", home=tmp_path)
    assert done.status == 2
    assert "workrs" in done.err
    assert "workers" in done.err


def test_a_password_of_the_database_is_no_flag_and_is_never_shown(tmp_path: Path) -> None:
    url = "postgresql://u:planted-db@db.example.com/x"
    refused = hypervisord("--database", url, "--show-config", home=tmp_path)
    assert refused.status == 2
    assert "database_password_in_argv" in refused.err
    shown = hypervisord("--show-config", home=tmp_path, env={"HYPERVISORD_DATABASE_URL": url})
    assert "db.example.com" in shown.out
    assert "planted-db" not in shown.out + refused.err + refused.out


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (("-addr", "0.0.0.0:0"), "tls_required"),
        (("-addr", "0.0.0.0:0", "--no-auth"), "no_auth_public"),
        (("--no-auth", "--allow-host", "x.example.com"), "no_auth_public"),
        (("--allow-host", "x.example.com:443"), "daemon_config"),
        (("-addr", "nonsense"), "listen_address"),
        (("--tls-cert", "/x"), "daemon_config"),
        (("--process", "cook"), "usage"),
        (("serve",), "usage"),
    ],
)
def test_what_can_never_start_is_told_at_once(tmp_path: Path, flags: tuple[str, ...], code: str) -> None:
    done = hypervisord(*flags, home=tmp_path)
    assert done.status == 2
    assert f"{code} (exit status 2)" in done.err


def test_an_address_that_is_taken_is_told_at_once(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as other:
        done = hypervisord("-addr", f"127.0.0.1:{other.getsockname()[1]}", home=tmp_path)
    assert done.status == 2
    assert "cannot be listened on" in done.err


def test_the_database_is_brought_up_to_date(tmp_path: Path) -> None:
    state = tmp_path / "new"
    assert "is up to date" in hypervisord("migrate-db", "--state-dir", state, home=tmp_path).out
    assert (state / "state.sqlite3").stat().st_mode & 0o777 == 0o600


def test_users_and_tokens_without_a_running_daemon(state: Path, tmp_path: Path) -> None:
    def run(*arguments: str, stdin: str = "") -> str:
        done = hypervisord(*arguments, "--state-dir", state, home=tmp_path, stdin=stdin)
        assert done.status == 0, done.err
        return done.out

    assert (
        run("user", "add", "eve", "--role", "viewer", "--password-stdin", stdin="correct horse staple\n")
        == "Added viewer eve\n"
    )
    assert [line.split()[0] for line in run("user", "list").splitlines()[1:]] == ["eve", "ops"]
    assert run("user", "disable", "eve") == "eve is disabled\n"
    assert run("user", "enable", "eve") == "eve may log in\n"
    assert (
        run("user", "passwd", "eve", "--password-stdin", stdin="another horse staple\n") == "eve has a new password\n"
    )
    token = run("token", "create", "cron", "--user", "eve", "--scope", "viewer").strip()
    database = Database.open(f"sqlite:///{state}/state.sqlite3")
    found = Access(database).by_token(Secret(token))
    database.close()
    assert found is not None
    assert found.name == "eve"
    assert hypervisord("user", "add", "x", "--state-dir", state, home=tmp_path).status == 2


def test_a_backup_is_restored_elsewhere_with_its_key_apart(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    done = hypervisord("backup", file, "--state-dir", state, home=tmp_path)
    assert done.status == 0
    assert "Keep a copy of" in done.err
    assert file.stat().st_mode & 0o777 == 0o600
    assert PLANTED.encode() not in file.read_bytes()
    with tarfile.open(file) as archive:
        assert "vault.key" not in archive.getnames()
    new = tmp_path / "new"
    restored = hypervisord("restore", file, "--state-dir", new, home=tmp_path)
    assert restored.status == 0, restored.err
    assert "no key" in restored.err
    (new / "vault.key").write_bytes((state / "vault.key").read_bytes())
    (new / "vault.key").chmod(0o600)
    assert passwords(new) == [PLANTED]


def test_a_backup_with_its_key_restores_by_itself(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    assert hypervisord("backup", file, "--with-key", "--state-dir", state, home=tmp_path).status == 0
    assert hypervisord("backup", file, "--state-dir", state, home=tmp_path).status == 2
    assert hypervisord("restore", file, "--state-dir", tmp_path / "new", home=tmp_path).status == 0
    assert passwords(tmp_path / "new") == [PLANTED]


def test_a_state_is_replaced_only_when_asked_and_kept_beside(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    hypervisord("backup", file, "--state-dir", state, home=tmp_path)
    hypervisord("user", "disable", "ops", "--state-dir", state, home=tmp_path)
    refused = hypervisord("restore", file, "--state-dir", state, home=tmp_path)
    assert "state_exists" in refused.err
    assert "disabled" in hypervisord("user", "list", "--state-dir", state, home=tmp_path).out
    assert hypervisord("restore", file, "--force", "--state-dir", state, home=tmp_path).status == 0
    assert "disabled" not in hypervisord("user", "list", "--state-dir", state, home=tmp_path).out
    assert len(list(state.glob("state.sqlite3.before-restore-*"))) == 1
    assert passwords(state) == [PLANTED]


def test_a_damaged_backup_changes_nothing(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    hypervisord("backup", file, "--state-dir", state, home=tmp_path)
    whole = file.read_bytes()
    at = whole.index(b"SQLite format 3") + 5000
    for damaged in (
        whole[: len(whole) // 2],
        whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :],
        b"",
        b"no archive" * 100,
    ):
        file.write_bytes(damaged)
        done = hypervisord("restore", file, "--force", "--state-dir", state, home=tmp_path)
        assert (done.status, "backup_unreadable" in done.err) == (8, True), done.err
        assert sorted(path.name for path in state.glob(".*.restoring")) == []
    assert passwords(state) == [PLANTED]


def test_an_archive_cannot_write_elsewhere(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "evil.tar"
    about = tmp_path / "backup.json"
    about.write_text(json.dumps({"format": 1, "sha256": {"state.sqlite3": "0", "../evil": "0"}}))
    with tarfile.open(file, "w") as archive:
        archive.add(about, "backup.json")
        archive.add(about, "../evil")
    assert hypervisord("restore", file, "--force", "--state-dir", state, home=tmp_path).status == 8
    assert not (tmp_path / "evil").exists()


def test_nothing_is_restored_below_a_running_daemon(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    hypervisord("backup", file, "--state-dir", state, home=tmp_path)
    with one_daemon(state):
        assert "daemon_runs" in hypervisord("restore", file, "--force", "--state-dir", state, home=tmp_path).err
        assert "daemon_runs" in hypervisord("rotate-key", "--state-dir", state, home=tmp_path).err
        assert hypervisord("backup", tmp_path / "other.tar", "--state-dir", state, home=tmp_path).status == 0


def test_the_key_is_changed_and_the_old_one_opens_nothing_any_more(state: Path, tmp_path: Path) -> None:
    before = (state / "vault.key").read_text()
    done = hypervisord("rotate-key", "--state-dir", state, home=tmp_path)
    assert done.status == 0, done.err
    assert done.out.startswith("1 passwords are sealed with a new key")
    assert (state / "vault.key").read_text() != before
    assert (state / "vault.key.old").read_text() == before
    assert passwords(state) == [PLANTED]
    (state / "vault.key").write_text(before)
    assert "vault_wrong_key" in hypervisord("rotate-key", "--state-dir", state, home=tmp_path).err


def test_a_change_of_the_key_that_was_cut_off_is_finished(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (state / "vault.key").read_text()
    real = Path.replace

    def cut(self: Path, target: Path) -> Path:
        if self.name == "vault.key":
            raise OSError(5, "power failure")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", cut)
    assert hypervisord("rotate-key", "--state-dir", state, home=tmp_path).status == 9
    monkeypatch.undo()
    assert (state / "vault.key").read_text() == before
    database = Database.open(f"sqlite:///{state}/state.sqlite3")
    wanted = known_key(database)
    database.close()
    done = hypervisord("rotate-key", "--state-dir", state, home=tmp_path)
    assert (done.status, "is finished" in done.out) == (0, True)
    assert wanted is not None
    assert passwords(state) == [PLANTED]


def test_a_key_from_elsewhere_is_changed_by_its_file(state: Path, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (state / "vault.key").rename(credentials / "hypersdk-key")
    env = {"CREDENTIALS_DIRECTORY": str(credentials)}
    assert "key_elsewhere" in hypervisord("rotate-key", "--state-dir", state, home=tmp_path, env=env).err
    new = tmp_path / "new-key"
    new.write_text("ab" * 32)
    new.chmod(0o600)
    done = hypervisord("rotate-key", "--new-key", new, "--state-dir", state, home=tmp_path, env=env)
    assert done.status == 0, done.err
    (state / "vault.key").write_text("ab" * 32)
    (state / "vault.key").chmod(0o600)
    assert passwords(state) == [PLANTED]


def test_a_lost_key_costs_the_passwords_and_nothing_else(state: Path, tmp_path: Path) -> None:
    (state / "vault.key").unlink()
    assert (
        "vault_key_lost"
        in hypervisord("rotate-key", "--new-key", tmp_path / "x", "--state-dir", state, home=tmp_path).err
    )
    assert hypervisord("reset-vault", "--state-dir", state, home=tmp_path).status == 2
    done = hypervisord("reset-vault", "--yes", "--state-dir", state, home=tmp_path)
    assert done.out.startswith("1 stored passwords are forgotten")
    assert "ops" in hypervisord("user", "list", "--state-dir", state, home=tmp_path).out


def test_a_postgresql_state_names_the_tool_that_copies_it(tmp_path: Path) -> None:
    done = hypervisord("backup", tmp_path / "x", "--database", "postgresql://u@db.example.com/x", home=tmp_path)
    assert done.status == 2
    assert "pg_dump" in done.err


def test_all_commands_take_the_same_state_flags() -> None:
    import click

    ctx = click.Context(program.root)
    for name in ("migrate-db", "backup", "restore", "rotate-key", "reset-vault"):
        command = program.root.get_command(ctx, name)
        assert command is not None
        assert {"config", "state_dir", "database_url", "key_file"} <= {param.name for param in command.params}
